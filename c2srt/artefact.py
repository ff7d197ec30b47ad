"""What a verb leaves in a folder: files that belong together, written by one command at a time,
current only as a whole.

    <folder>/<record>           a JSON object, written last and removed first: what the files were
                                made from, and under "files" the SHA-256 of each, so that files of
                                two runs never pass for one artefact
    <folder>/<name>-<key>/      what a run that was killed keeps for the next one to go on from;
                                gone once the record is there
    <folder>/lock               only while a command writes
    <folder>/*.tmp-<pid>        what a killed run left; gone with the next one

A verb that finds its artefact current still finishes what a killed run did not: `tidy`.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2srt.errors import UserError
from c2srt.files import leftovers, remove_leftovers, sha256_of_file, write_json
from c2srt.lock import LOCK, only_writer
from c2srt.opened import read_json

FILES = "files"


@dataclass(frozen=True)
class Record:
    """What every record must have."""

    files: dict[str, str]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """This command alone writes into `folder`, which is made if need be; what killed runs left
    under temporary names is removed.

    Raises UserError if another command writes there, or if nothing can be written.
    """
    with only_writer(folder / LOCK):
        remove_leftovers(folder)
        yield
        remove_leftovers(folder)  # of workers that outlived their command for a while


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """This command alone makes `folder` as a whole (`whole_folder`): the lock lies beside it, and
    so does what killed runs left.

    Raises UserError if another command makes it.
    """
    folder = folder.resolve()
    with only_writer(folder.with_name(f"{folder.name}.{LOCK}")):
        remove_leftovers(folder.parent, folder.name)
        yield


def withdraw(record: Path) -> None:
    """Removes the record of files that are about to be replaced: from here on nothing vouches for
    them.
    """
    record.unlink(missing_ok=True)


def vouch(record: Path, content: Mapping[str, Any], names: Iterable[str]) -> None:
    """Writes the record of whole files in its folder."""
    write_json(
        record, {**content, FILES: {name: sha256_of_file(record.parent / name) for name in names}}
    )


def vouched(record: Path) -> dict[str, Any] | None:
    """The record's content; None if it is absent, broken, names no file, or if a file is not the
    one that it names.
    """
    try:
        content = read_json(record, "", Record)
        whole = bool(content[FILES]) and all(
            is_plain(name) and sha256_of_file(record.parent / name) == digest
            for name, digest in content[FILES].items()
        )
    except (OSError, ValueError, UserError):
        return None
    return content if whole else None


def is_plain(name: str) -> bool:
    """Whether a name out of a record stays in the record's folder."""
    return Path(name).name == name and name not in ("", ".", "..")


def unfinished(folder: Path, name: str, key: str) -> Path:
    """Where a run with this key (16 hex digits) keeps what it has until it is whole; those of other
    keys are removed.
    """
    own = folder / f"{name}-{key}"
    remove_unfinished(folder, name, own)
    return own


def remove_unfinished(folder: Path, name: str, but: Path | None = None) -> None:
    """Removes what runs kept to go on from, `but` that of one."""
    for path in unfinished_in(folder, name):
        if path != but:
            shutil.rmtree(path, ignore_errors=True)


def unfinished_in(folder: Path, name: str) -> list[Path]:
    """Folders called <name>-<16 hex digits>; any other is someone else's."""
    return [
        path
        for path in folder.glob("*-*")
        if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{16}}", path.name) and path.is_dir()
    ]


def tidy(folder: Path, *names: str) -> None:
    """Beside a current artefact: removes what killed runs left, and what they kept to go on from
    under `names`.

    Nothing happens where nothing was left, while another command writes, or where nothing can be
    written.
    """
    if (
        not (folder / LOCK).exists()
        and not leftovers(folder)
        and not any(unfinished_in(folder, name) for name in names)
    ):
        return
    with suppress(UserError, OSError), writing(folder):
        for name in names:
            remove_unfinished(folder, name)
