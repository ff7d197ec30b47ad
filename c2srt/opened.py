"""Checked openers: an artefact's file is what it should be, or one sentence says what is wrong with
it and how to make it anew.

Nobody says that a file is the one that we wrote. So each opener bounds what it reads (bytes,
nesting, what compressed data become), checks types and shapes before they are used, and names file,
fault and remedy; what a file says is cut and escaped. `remedy` is the command that makes the
artefact, or words for what is no artefact of ours. Every opener raises UserError only. Those of
tables are in c2srt/opened_tables.py.

pydantic and safetensors are imported where they are used: most commands need one of them, and a
bare GPU machine (c2srt/check) has no pydantic.
"""

import contextlib
import gzip
import io
import json
import math
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.shown import shown
from c2srt.storage import mirror

if TYPE_CHECKING:
    from torch import Tensor

Remedy = Command | str
JSON_BYTES = 16 << 20
LINES_BYTES = 128 << 20
"""Of a file of lines, decompressed: the relations of 7,586 categories have 10 MiB."""
LINE_BYTES = 16 << 20
TEXT_BYTES = 64 << 20
NESTED = 64


def wrong(path: Path, what: str, remedy: Remedy) -> UserError:
    """`path` and what is wrong with it, then what to do."""
    return UserError(f"{path} {what}: {again(remedy)}")


def wrong_line(path: Path | str, number: int, what: str, remedy: Remedy) -> UserError:
    """As `wrong`, of one line."""
    return UserError(f"{path}, line {number:,}: {what}: {again(remedy)}")


def without(path: Path, error: UserError) -> str:
    """What an opener says, for a sentence that has named the file."""
    return str(error).removeprefix(f"{path} ")


def again(remedy: Remedy) -> str:
    return remedy if isinstance(remedy, str) else f"make it again with `{remedy}`"


@contextlib.contextmanager
def opening(path: Path, kind: str, remedy: Remedy) -> Iterator[None]:
    """Round the opening and reading of one file: as `parsing`, and it is a file."""
    with parsing(path, kind, remedy):
        check_regular(path, remedy)
        yield


@contextlib.contextmanager
def parsing(path: Path, kind: str, remedy: Remedy) -> Iterator[None]:
    """Whatever a library makes of damaged bytes is a sentence.

    A library's errors are not those that it documents (tokenize.TokenError for a .npy, zlib.error
    for a .gz), and polars panics with a BaseException, so all are taken.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{path} cannot be read: {os.strerror(error.errno)}") from error
        raise wrong(path, f"cannot be read as {kind} ({reason(error)})", remedy) from error
    except BaseException as error:
        raise wrong(path, f"cannot be read as {kind} ({reason(error)})", remedy) from error


def reason(error: BaseException) -> str:
    """The first words of a library's message, or its name."""
    words = " ".join(str(error).split())
    return shown(words, 90) or type(error).__name__


def absent(path: Path, remedy: Remedy) -> UserError:
    return UserError(
        f"{path} does not exist:"
        f" {remedy if isinstance(remedy, str) else f'make it with `{remedy}`'}"
    )


def check_regular(path: Path, remedy: Remedy) -> None:
    """Raises UserError unless `path` is a file: a pipe would be waited for, a device read for
    ever. What stands for an object of a store is fetched.
    """
    mirror.fetched(path)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise absent(path, remedy) from None
    if not stat.S_ISREG(mode):
        raise wrong(
            path,
            f"cannot be read (it is {'a folder' if stat.S_ISDIR(mode) else 'no file'})",
            remedy,
        )


def read_bytes(path: Path, remedy: Remedy, most: int = TEXT_BYTES, kind: str = "a file") -> bytes:
    """All of a file of at most `most` bytes."""
    with opening(path, kind, remedy), path.open("rb") as file:
        content = file.read(most + 1)
        if len(content) > most:
            raise wrong(path, f"has more than {most >> 20} MiB, which {kind} never has", remedy)
        return content


def read_text(path: Path, remedy: Remedy, most: int = TEXT_BYTES) -> str:
    """All of a UTF-8 file, without its BOM."""
    content = read_bytes(path, remedy, most, "a text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise wrong(path, f"is not UTF-8 (line {line:,})", remedy) from None


# JSON


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also where it is nested deeper than NESTED or is
    not UTF-8.
    """
    try:
        value = json.loads(content.decode() if isinstance(content, bytes) else content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(NESTED):
        level = [
            below
            for one in level
            if isinstance(one, (dict, list))
            for below in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return value
    raise ValueError("nested too deeply")


def read_json(path: Path, made_by: Remedy, shape: Any = None, version: int | None = None) -> dict:
    """A JSON object, whose "format" is `version`. `shape` is a dataclass, or another annotation,
    whose fields and types it must have; further keys may be there.
    """
    content = read_bytes(path, made_by, JSON_BYTES, "a JSON file")
    try:
        value = parse_json(content)
    except ValueError as error:
        raise wrong(path, f"is not valid JSON ({reason(error)})", made_by) from None
    if not isinstance(value, dict):
        raise wrong(path, "is not a JSON object", made_by)
    if version is not None and value.get("format") != version:
        raise wrong(
            path, f"has format {shown(value.get('format'))}, this version reads {version}", made_by
        )
    if shape is not None and (unlike := misfit(content, shape)):
        raise wrong(path, f"is not what it should be ({unlike})", made_by)
    return value


def misfit(content: str | bytes, shape: Any) -> str:
    """Where a JSON text first differs from `shape`, as "key.key: what is expected"; "" where it
    fits.
    """
    import pydantic

    try:
        adapter(shape).validate_json(content, strict=True)
    except UserError as error:  # of a dataclass that checks more than types
        return shown(error, 150)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(shown(part, 30) for part in first["loc"][:5])
        return f"{place}: {reason_of(first['msg'])}" if place else reason_of(first["msg"])
    return ""


def reason_of(message: str) -> str:
    return shown(message[:1].lower() + message[1:], 80)


@lru_cache(maxsize=64)
def adapter(shape: Any) -> Any:
    import pydantic

    return pydantic.TypeAdapter(shape)


# Lines


def read_lines(path: Path, remedy: Remedy, most: int = LINES_BYTES) -> Iterator[tuple[int, bytes]]:
    """(number, line) of a file of lines, gzipped if its name ends in .gz; `most` counts its bytes
    decompressed.
    """
    kind = "gzip" if path.suffix == ".gz" else "lines"
    with opening(path, kind, remedy), open_raw(path) as file:
        left, number = most, 0
        while line := file.readline(min(LINE_BYTES, left) + 1):
            left, number = left - len(line), number + 1
            if len(line) > LINE_BYTES:
                raise wrong_line(path, number, f"more than {LINE_BYTES >> 20} MiB", remedy)
            if left < 0:
                raise wrong(path, f"has more than {most >> 20} MiB of lines", remedy)
            yield number, line


def open_raw(path: Path) -> io.BufferedIOBase:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def json_line(
    line: bytes, path: Path | str, number: int, what: str, remedy: Remedy, shape: Any = None
) -> dict:
    """The object of one line, which is `what` and fits `shape`."""
    try:
        value = parse_json(line)
    except ValueError as error:
        raise wrong_line(
            path, number, f"not {what}, not valid JSON ({reason(error)})", remedy
        ) from None
    if not isinstance(value, dict):
        raise wrong_line(path, number, f"not {what} (no JSON object)", remedy)
    if shape is not None:
        check_line(line, path, number, what, remedy, shape)
    return value


def check_line(
    line: bytes, path: Path | str, number: int, what: str, remedy: Remedy, shape: Any
) -> None:
    """Raises UserError unless the JSON of a line, which is `what`, fits `shape`."""
    if unlike := misfit(line, shape):
        raise wrong_line(path, number, f"not {what} ({unlike})", remedy)


# numpy


def open_npy(path: Path, remedy: Remedy, kinds: str) -> np.ndarray:
    """A .npy file's array, mapped. `kinds` are the letters of the dtypes that it may have ("f":
    floats, "biuf": numbers).
    """
    with opening(path, "an array", remedy), path.open("rb") as file:
        there = os.fstat(file.fileno()).st_size
        start, shape, fortran, dtype = npy_header(path, file, there, remedy, kinds)
        if not math.prod(shape):
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def npy_header(
    path: Path, file: IO[bytes], there: int, remedy: Remedy, kinds: str
) -> tuple[int, tuple[int, ...], bool, np.dtype]:
    """Where an array's numbers begin in its file of `there` bytes, which are neither more nor
    fewer than it needs, their shape, whether they are in Fortran's order, and their type. Raises
    UserError.
    """
    if (version := np.lib.format.read_magic(file)) != (1, 0):
        raise wrong(
            path,
            f"is an array in version {version[0]}.{version[1]} of the format, not 1.0",
            remedy,
        )
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in kinds or any(isinstance(side, bool) or side < 0 for side in shape):
        raise wrong(
            path, f"holds {shown(str(dtype), 20)} of shape {shown(list(shape), 40)}", remedy
        )
    start, size = file.tell(), dtype.itemsize * math.prod(shape)
    if there != start + size:
        raise wrong(
            path,
            f"has {there:,} bytes, where its header says {shown(f'{start + size:,}', 30)}",
            remedy,
        )
    return start, shape, fortran, dtype


def read_npz(
    path: Path, remedy: Remedy, names: Mapping[str, tuple[str, int]]
) -> dict[str, np.ndarray]:
    """The arrays of an .npz, compressed ones of at most TEXT_BYTES. `names`: name → (letters of its
    dtypes, number of axes).
    """
    with opening(path, "arrays", remedy):
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
        if absent := [name for name in names if f"{name}.npy" not in members]:
            raise wrong(path, f"lacks the array {absent[0]}", remedy)
        if any(
            info.file_size
            > (path.stat().st_size if info.compress_type == zipfile.ZIP_STORED else TEXT_BYTES)
            for info in members.values()
        ):
            raise wrong(path, "claims more bytes than it can hold", remedy)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    for name, (kinds, axes) in names.items():
        if arrays[name].dtype.kind not in kinds or arrays[name].ndim != axes:
            raise wrong(
                path,
                f"holds {shown(str(arrays[name].dtype), 20)} of {arrays[name].ndim} axes as {name}",
                remedy,
            )
    return arrays


# Tables


# tar


class BoundedHeader(tarfile.TarInfo):
    """For `tarfile.open(…, tarinfo=BoundedHeader)`: tarfile reads long names and attributes whole,
    however long they say they are.
    """

    LONGEST = 1 << 20
    KINDS = (
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    )

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or header.type in cls.KINDS and header.size > cls.LONGEST:
            raise tarfile.ReadError(f"a header claims {header.size:,} bytes")
        return header


# safetensors


def read_tensors(path: Path, remedy: Remedy, *needed: str) -> "dict[str, Tensor]":
    """All tensors of a file, which holds those that are `needed`."""
    from safetensors.torch import load_file

    with opening(path, "safetensors", remedy):
        tensors = load_file(path)
    if absent := [name for name in needed if name not in tensors]:
        raise wrong(path, f"lacks the tensor {absent[0]}", remedy)
    return tensors


def read_tensor(path: Path, remedy: Remedy, name: str) -> "Tensor":
    """One tensor of a file, without the others."""
    from safetensors import safe_open

    with opening(path, "safetensors", remedy), safe_open(path, "pt") as file:
        if name not in file.keys():  # noqa: SIM118 (it is no dictionary)
            raise wrong(path, f"lacks the tensor {name}", remedy)
        return file.get_tensor(name)


def tensor_shapes(path: Path, remedy: Remedy) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors, from its header."""
    from safetensors import safe_open

    with opening(path, "safetensors", remedy), safe_open(path, "pt") as file:
        names = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def tensors_note(path: Path, remedy: Remedy, name: str) -> str | None:
    """A note in the header of a file of tensors; None without it."""
    from safetensors import safe_open

    with opening(path, "safetensors", remedy), safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(name)
