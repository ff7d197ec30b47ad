"""Which pictures are meant by files, folders and patterns, and what was passed over on the way."""

import glob
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from c2srt import shown
from c2srt.errors import UserError
from c2srt.locations import SIGN
from c2srt.pictures import HEIF_IS_READ, HEIF_SUFFIXES, SUFFIXES

SCHEMES = ("http://", "https://")
NAMED = 5  # of the files that were passed over, so many are named; all are counted


def is_url(image: object) -> bool:
    return isinstance(image, str) and image.lower().startswith(SCHEMES)


def read_most(file: BinaryIO, most: int) -> bytes:
    """An open file's bytes, at most `most`: Python would reserve memory for all that it may read,
    which for every picture takes longer than reading it.
    """
    return file.read(min(most, os.fstat(file.fileno()).st_size + 1))


def find_images(
    patterns: list[str], literal: bool = False, real: set[str] | None = None
) -> tuple[list[Path], list[Path]]:
    """The pictures, in order, and what lies in the folders beside them and was not looked at.

    A folder is searched at any depth for the names that pictures have (SUFFIXES); a link to a
    folder is a folder, and each real file counts once, whatever links lead to it: `real` are those
    that were counted before. What a pattern matches is taken whatever its name; so is a file that
    is named. A `literal` name is no pattern. Raises UserError on a pattern or folder without a
    picture.
    """
    found: dict[Path, None] = {}
    real = set() if real is None else real
    passed_over: dict[Path, None] = {}
    for pattern in patterns:
        named = literal or os.path.exists(pattern)
        named = named and not os.path.isdir(pattern)
        some, others = ([Path(pattern)], []) if named else meant_by(pattern, literal)
        if not some:
            raise UserError(
                f"images={printable(pattern)} has no image"
                + (f": {summary(others)}" if others else f" ({', '.join(SUFFIXES)} in a folder)")
            )
        for path in some:
            if (resolved := os.path.realpath(path)) not in real or named:
                found[path] = None
                real.add(resolved)
        passed_over |= dict.fromkeys(others)
    return list(found), list(passed_over)


def meant_by(pattern: str, literal: bool = False) -> tuple[list[Path], list[Path]]:
    """(pictures, files passed over) of a folder, a pattern, or a file that is not there (its row
    will say so).
    """
    pattern = pattern if literal else os.path.expanduser(pattern)
    if SIGN in pattern:
        raise UserError(
            f"images={printable(pattern)} is an address that no picture is read from: give"
            " http(s)://…, or a file or folder of this machine"
        )
    if os.path.isdir(pattern):
        return in_folder(Path(pattern))
    if not glob.has_magic(pattern):
        return [Path(pattern)], []
    some: list[Path] = []
    others: list[Path] = []
    for match in sorted(matches(pattern)):
        if os.path.isdir(match):
            below = in_folder(Path(match))
            some, others = some + below[0], others + below[1]
        else:
            (some if is_readable_kind(Path(match)) else others).append(Path(match))
    return some, others


def in_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """(pictures by their names, other files) at any depth."""
    some: list[Path] = []
    others: list[Path] = []
    for path in walk(folder):
        (some if path.suffix.lower() in SUFFIXES and is_readable_kind(path) else others).append(
            path
        )
    return some, others


def walk(folder: Path, folders: bool = False) -> Iterator[Path]:
    """Every file below (`folders`: every folder, itself first) in order of names; each folder once,
    so that loops end.

    A folder that cannot be opened is given as if it were a file.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        status, below = None, []
        with suppress(OSError):
            if os.path.isdir(path):
                status, below = os.stat(path), sorted(path.iterdir(), reverse=True)
        if status is None:
            if not folders:
                yield path
        elif (status.st_dev, status.st_ino) not in visited:
            visited.add((status.st_dev, status.st_ino))
            waiting += below
            if folders:
                yield path


def matches(pattern: str) -> Iterator[str]:
    """As `glob.glob(pattern, recursive=True)`, but `**` follows each link once, so that loops
    end.
    """
    head, deep, tail = pattern.partition("**/")
    if not deep or (head and not head.endswith("/")):
        yield from glob.glob(
            pattern[:-2] + "*" if pattern == "**" or pattern.endswith("/**") else pattern
        )
        return
    for start in glob.glob(head) if head else ["."]:
        for folder in walk(Path(start), folders=True):
            hidden = any(part.startswith(".") for part in folder.relative_to(start).parts)
            if not hidden:
                yield from matches(
                    os.path.join(glob.escape(str(folder)), tail)
                    if head or str(folder) != "."
                    else tail
                )


def is_readable_kind(path: Path) -> bool:
    """A file, or a link that leads nowhere (its row will say so); no pipe, socket or device, which
    could be waited for for ever.
    """
    try:
        return path.is_file() or not path.exists()
    except OSError:
        return True


def summary(paths: list[Path]) -> str:
    """How many files were passed over, by suffix, and the first of them."""
    kinds = Counter(path.suffix.lower() or "without suffix" for path in paths)
    named = ", ".join(printable(path) for path in paths[:NAMED]) + (
        ", …" if len(paths) > NAMED else ""
    )
    counted = ", ".join(f"{count:,} {printable(kind)}" for kind, count in kinds.most_common(NAMED))
    more = f", {len(kinds) - NAMED} further kinds" if len(kinds) > NAMED else ""
    return (
        f"{len(paths):,} {'file was' if len(paths) == 1 else 'files were'} not looked at"
        f" ({counted}{more}): {named}" + lacking_heic(paths)
    )


def lacking_heic(paths: list[Path]) -> str:
    """What to install for files that were passed over, if that would have them read."""
    if HEIF_IS_READ or not any(path.suffix.lower() in HEIF_SUFFIXES for path in paths):
        return ""
    from c2srt.extras import install  # takes longer than everything else here

    return f"; HEIC needs `{install('heic')}`"


def printable(name: str | Path) -> str:
    """A name on one line, in UTF-8 whatever its bytes: what cannot be shown is a backslash escape,
    as `printf %b` reads it.
    """
    return shown.printable(
        os.fsencode(str(name)).decode(errors="backslashreplace")
        if has_lone_bytes(str(name))
        else name
    )


def has_lone_bytes(name: str) -> bool:
    """Whether bytes of a name are no text in the file system's encoding (Python holds them as lone
    surrogates).
    """
    return any("\ud800" <= letter <= "\udfff" for letter in name)
