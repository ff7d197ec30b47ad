"""Writing artefacts so that a reader never sees half of one.

Every artefact is written under a temporary name in its final folder, flushed to disk, and renamed
when whole (the `.tmp` -> fsync -> rename -> fsync of the folder sequence), so a job killed at any
moment leaves either the old file, the new one, or a `*.tmp-<pid>` that the next run removes.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from c2srt.errors import UserError
from c2srt.storage import mirror
from c2srt.surroundings import FULL

TEMPORARY = ".tmp-"
LEFTOVER = re.compile(
    r"(?P<name>.+)\.tmp-(?:(?P<old>old-)?(?P<process>\d+)|writing|inputs|buckets|old)", re.DOTALL
)
"""The temporary names of this project: a file of someone else's, such as thesis.tmp-backup, is
none.
"""
HIDDEN = re.compile(r"os error (\d+)")
"""How safetensors and polars, written in Rust, tell of the operating system's errors."""
SHORT = re.compile(r"\d+ requested and \d+ written")
"""How numpy tells of a file that takes no more."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path in `path`'s folder; on success it is synced and renamed to `path`,
    else removed. Where `path` stands for an object of a store, it is sent there before.

    Raises UserError when the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    try:
        with storage_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            version = mirror.send(temporary, path)
            if mirror.kept_here(path):
                os.replace(temporary, path)
                sync(path.parent)
            if version:
                mirror.sent({path: version})
    finally:
        with suppress(OSError):  # never hide the first error behind a second one
            temporary.unlink()


def never_ours(folder: Path) -> bool:
    """No folder that has files may be replaced."""
    return False


@contextmanager
def whole_folder(path: Path, ours: Callable[[Path], bool] = never_ours) -> Iterator[Path]:
    """Like `whole_file` for a folder. One at `path` is replaced, once the new one is whole, if it
    is empty or `ours`.

    Raises UserError, before anything is written, if something else stands there.
    """
    path = path.resolve()  # a link to a folder stays one
    check_replaceable(path, ours)
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with storage_faults(path):
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.rglob("*"):
                sync(file)
            sync(temporary)
            check_replaceable(path, ours)  # that may have taken hours
            replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(path: Path, ours: Callable[[Path], bool]) -> None:
    """Raises UserError unless `path` is absent, an empty folder, or a folder that is `ours`: no
    other is ever replaced.
    """
    if not path.is_dir():
        return  # a file is refused where a folder is made
    if next(path.iterdir(), None) and not ours(path):
        raise UserError(
            f"{path} is not empty, and not what this command wrote there earlier and nothing else:"
            " nothing in it was touched; choose another out=…, or remove it yourself"
        )


def replace_folder(new: Path, path: Path) -> None:
    """Moves `new` to `path`, moving an older folder there out of the way first (a rename cannot
    overwrite one that has files).
    """
    versions = mirror.send_folder(new, path)
    old = path.with_name(f"{path.name}{TEMPORARY}old-{os.getpid()}")
    if path.exists() and next(path.iterdir(), None):
        os.replace(path, old)
    os.replace(new, path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)
    mirror.sent(versions)


def sync(path: Path) -> None:
    """Flushes a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_faults(path: Path) -> Iterator[None]:
    """While `path` is written, a storage failure that a user can mend is a UserError, also where a
    library hides it in an error of its own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise_if_storage(error, path)
        elif hidden := HIDDEN.search(str(error)):
            raise_if_storage(OSError(int(hidden[1]), os.strerror(int(hidden[1]))), path)
        elif SHORT.search(str(error)):
            raise_if_storage(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
        raise


def raise_if_storage(error: OSError, path: Path) -> None:
    """Turns the storage failures that a user can mend into UserError; returns on any other error.

    An error that names a file elsewhere (an input read while writing) says nothing of `path`.
    """
    if error.filename is not None and not related(Path(os.fsdecode(error.filename)), path):
        return
    mirror.refuse_to_keep(path, error)
    if error.errno in FULL:
        raise UserError(
            f"the disk is full while writing {path}: free some space and run the same command again"
        ) from error
    if error.errno == errno.EFBIG:
        raise UserError(
            f"{path} is larger than its file system, or a limit of this process (`ulimit -f`),"
            " allows: raise it, or choose another folder with out=…"
        ) from error
    if error.errno == errno.EROFS:
        raise UserError(
            f"cannot write {path}: the file system is read-only; choose another folder with out=…"
        ) from error
    if error.errno in (errno.EACCES, errno.EPERM):
        raise UserError(
            f"cannot write {path}: the folder is not writable; choose another with out=…"
        ) from error
    if error.errno == errno.EBUSY:
        raise UserError(
            f"cannot replace {path}: it is a mount point; choose a folder inside it with out=…"
        ) from error
    if error.errno == errno.EIO:
        raise UserError(
            f"the disk fails while writing {path} ({error.strerror}): choose a folder on another"
            " one with out=…"
        ) from error
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        raise UserError(
            f"cannot write {path}: a file stands where a folder is needed; choose another with"
            " out=…"
        ) from error
    if error.errno == errno.EISDIR:
        raise UserError(
            f"cannot write {path}: a folder stands where the file should go; choose another with"
            " out=…"
        ) from error


def related(named: Path, path: Path) -> bool:
    """Whether `named` lies in `path`'s folder or is one of the folders above it."""
    return named.is_relative_to(path.parent) or path.is_relative_to(named)


def leftovers(folder: Path, name: str | None = None) -> list[Path]:
    """What killed runs left in `folder` under temporary names (with `name`, of that file or folder
    only).
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        part = LEFTOVER.fullmatch(path.name)
        if part and name in (None, part["name"]) and not alive(int(part["process"] or 0)):
            found.append(path)
    return found


def alive(process: int) -> bool:
    """Whether another process of this number runs here: then what it writes is no leftover."""
    return process not in (0, os.getpid()) and psutil.pid_exists(process)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Removes `leftovers`. Call it only while no other run writes there.

    A folder that was moved out of the way by a run killed before it could move the new one in is
    put back.
    """
    found = leftovers(folder, name)
    for path in found:
        part = LEFTOVER.fullmatch(path.name)
        if part and part["old"] and not (place := path.with_name(part["name"])).exists():
            os.replace(path, place)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Writes `value` as JSON, whole or not at all."""
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """A file's indented JSON with sorted keys."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n"


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    mirror.fetched(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(value: object) -> str:
    """First 16 hex digits of the SHA-256 of `value` as canonical JSON: the identity of what an
    artefact was made from.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
