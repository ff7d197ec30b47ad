"""What a verb leaves in a folder: files that belong together, written by one command at a time,
current only as a whole.

    <folder>/<record>           a JSON object, written last and removed first: what the files were
                                made from, under "versions" what made them, and under "files" the
                                SHA-256 of each, so that files of two runs never pass for one
                                artefact
    <folder>/<name>-<key>/      what a run that was killed keeps for the next one to go on from;
                                gone once the record is there
    <folder>/lock               only while a command writes
    <folder>/*.tmp-<pid>        what a killed run left; gone with the next one

A verb that finds its artefact current still finishes what a killed run did not: `tidy`.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2srt.errors import UserError
from c2srt.files import json_text, leftovers, remove_leftovers, sha256_of_file, write_json
from c2srt.hints import Command
from c2srt.lock import LOCK, only_writer
from c2srt.opened import parse_json, read_json
from c2srt.storage import mirror
from c2srt.versions import VERSIONS, versions

FILES = "files"


@dataclass(frozen=True)
class Record:
    """What every record must have."""

    files: dict[str, str]


@dataclass(frozen=True)
class Input:
    """One thing that decides an artefact: `identity` says in JSON which one it is at this moment,
    `value` is what the artefact is built from.

    A builder that is given the values of its inputs, and no config, cannot depend on what its
    record leaves out.
    """

    identity: Callable[[], Any]
    value: Callable[[], Any]


def setting(value: Any) -> Input:
    """A number or text of the config, which is its own identity."""
    return Input(lambda: value, lambda: value)


def identities(inputs: Mapping[str, Input]) -> dict[str, Any]:
    """Which inputs these are, by name. Raises what they raise."""
    return {name: each.identity() for name, each in inputs.items()}


def values(inputs: Mapping[str, Input]) -> dict[str, Any]:
    """The inputs themselves, by name. Raises what they raise."""
    return {name: each.value() for name, each in inputs.items()}


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
    mirror.remove(record)


def vouch(record: Path, content: Mapping[str, Any], names: Iterable[str]) -> None:
    """Writes the record of whole files in its folder."""
    files = {name: sha256_of_file(record.parent / name) for name in names}
    write_json(record, {**content, VERSIONS: versions(), FILES: files})


def vouched(record: Path) -> dict[str, Any] | None:
    """The record's content; None if it is absent, broken, names no file, or if a file is not the
    one that it names.
    """
    try:
        content = read_json(record, "", Record)
        files = content[FILES]
        whole = bool(files) and all(is_recorded(record.parent, name, files) for name in files)
    except (OSError, ValueError, UserError):
        return None
    return content if whole else None


def is_recorded(folder: Path, name: str, files: Mapping[str, str]) -> bool:
    """Whether the file is there and the one that `files` of a record names. Raises OSError where it
    cannot be read.
    """
    path = folder / name
    return is_plain(name) and mirror.there(path) and sha256_of_file(path) == files.get(name)


def is_current(record: Path, made_from: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether the files `names` are whole beside their record and were made from this.

    An identity that has a "key" is compared by that alone, any other as a whole.
    """
    content = vouched(record)
    if content is None or not set(names) <= set(content[FILES]):
        return False
    old = content.get("made_from")
    if "key" in made_from:
        return isinstance(old, dict) and old.get("key") == made_from["key"]
    return old == made_from


def kept(
    file: Path, read: Callable[[], Mapping[str, Any]], made_from: Mapping[str, Any], hashed: bool
) -> Mapping[str, Any] | None:
    """What the record of a single file says, if `read` can read it, it was made from this, and the
    file has the size that it names ("bytes") and, if `hashed`, the content ("sha256"); else None.
    """
    with suppress(UserError, OSError):  # absent or damaged: made again
        record = read()
        if (
            {**record, **made_from} == record
            and mirror.size_of(file) == record.get("bytes")
            and (not hashed or sha256_of_file(file) == record.get("sha256"))
        ):
            return record
    return None


def is_marked(mark: Path, key: str, again: Command, *within: str) -> bool:
    """Whether the mark that a finished piece of work leaves last, {"key": …}, has this key;
    `within` lead to where it stands in a larger record.

    Raises UserError, naming the command that makes it again, if there is one and it is damaged.
    """
    if not mark.is_file():
        return False
    found = read_json(mark, again)
    for name in within:
        found = found.get(name, {})
    return found.get("key") == key


def hash_of_record(record: Path) -> str:
    """SHA-256 of a JSON file as it would be without the versions that made it: that of the file
    where it names none, as those made before. Raises OSError if it is absent.
    """
    mirror.fetched(record)
    data = record.read_bytes()
    with suppress(ValueError):  # damaged: whoever reads it says so
        content = parse_json(data)
        if isinstance(content, dict) and content.pop(VERSIONS, None) is not None:
            data = json_text(content).encode()
    return hashlib.sha256(data).hexdigest()


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
            mirror.remove_folder(path)
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
