"""Writing artefacts so that a reader never sees half of one.

Every artefact is written under a temporary name in its final folder, flushed to disk, and renamed when whole
(the `.tmp` -> fsync -> rename -> fsync of the folder sequence), so a job killed at any moment leaves either the old
file, the new one, or a `*.tmp-<pid>` that the next run removes.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from c2srt.errors import UserError
from c2srt.opened import read_json  # noqa: F401

TEMPORARY = ".tmp-"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path in `path`'s folder; on success it is synced and renamed to `path`, else removed.

    Raises UserError when the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise_if_storage(error, path)
        raise
    finally:
        with suppress(OSError):  # never hide the first error behind a second one
            temporary.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Like `whole_file` for a folder; an existing folder at `path` is replaced only once the new one is whole."""
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            sync(file)
        sync(temporary)
        replace_folder(temporary, path)
    except OSError as error:
        raise_if_storage(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Moves `new` to `path`, moving an older folder there out of the way first (a rename cannot overwrite one)."""
    old = path.with_name(f"{path.name}{TEMPORARY}old-{os.getpid()}")
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Flushes a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def raise_if_storage(error: OSError, path: Path) -> None:
    """Turns the storage failures that a user can mend into UserError; returns on any other error.

    An error that names a file elsewhere (an input read while writing) says nothing of `path`.
    """
    if error.filename is not None and not related(Path(os.fsdecode(error.filename)), path):
        return
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise UserError(f"the disk is full while writing {path}: free some space and run the same command again") from error
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise UserError(f"cannot write {path}: the folder is not writable; choose another with out=…") from error
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        raise UserError(f"cannot write {path}: a file stands where a folder is needed; choose another with out=…") from error
    if error.errno == errno.EISDIR:
        raise UserError(f"cannot write {path}: a folder stands where the file should go; choose another with out=…") from error


def related(named: Path, path: Path) -> bool:
    """Whether `named` lies in `path`'s folder or is one of the folders above it."""
    return named.is_relative_to(path.parent) or path.is_relative_to(named)


def remove_leftovers(folder: Path) -> None:
    """Deletes what killed runs left under temporary names in `folder`. Call it only while no other run writes there.

    A folder that was moved out of the way by a run killed before it could move the new one in is put back.
    """
    for path in folder.glob(f"*{TEMPORARY}old-*"):
        place = path.with_name(path.name.partition(f"{TEMPORARY}old-")[0])
        if not place.exists():
            os.replace(path, place)
    for path in folder.glob(f"*{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n")


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(value: object) -> str:
    """First 16 hex digits of the SHA-256 of `value` as canonical JSON: the identity of what an artefact was made from."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
