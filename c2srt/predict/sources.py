"""The pictures that a command means, before any is read: files, URLs, members of archives.

    images=       files, folders, patterns, archives, URLs
    images_file=  a list of them, one a line (or parted by NUL, as `find -print0` writes them), each
                  taken letter by letter; `-` reads the list from standard input

An archive is a .zip, or a .tar that is not compressed, such as a shard of `c2srt shard` or of
webdataset; one in a folder that is searched is passed over, one that is named or matched by a
pattern is opened.
"""

import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zlib import error as ZlibError

from c2srt.errors import UserError
from c2srt.opened import BoundedHeader, opening
from c2srt.pictures import SUFFIXES
from c2srt.predict.finding import find_images, is_url, printable, read_most

ZIP, TAR = ".zip", ".tar"
STANDARD_INPUT = "-"
BOM = b"\xef\xbb\xbf"
REMEDY = "give another one, or unpack it yourself and name the folder"


@dataclass(frozen=True, slots=True)
class Source:
    """A picture by its name: `path` of a file, a URL, or the archive that has it as `member`; `at`
    and `size` are where its bytes lie in a .tar.
    """

    path: str
    member: str = ""
    at: int = -1
    size: int = 0

    @property
    def name(self) -> str:
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def is_file(self) -> bool:
        return not self.member and not is_url(self.path)

    def read(self, most: int, folder: str = "") -> bytes:
        """A file's or member's bytes, at most `most`; the path is seen from `folder`. Raises
        OSError, ValueError.
        """
        path = os.path.join(folder, self.path)
        if self.at >= 0 or not self.member:
            with open(path, "rb") as file:
                file.seek(max(self.at, 0))
                return file.read(min(self.size, most)) if self.member else read_most(file, most)
        try:
            with opened_zip(path).open(self.member) as file:
                return file.read(most)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ZlibError) as bad:
            raise ValueError(f"cannot be read from the archive: {bad}") from bad


@dataclass(frozen=True, slots=True)
class Located:
    """A source of a command that runs in `folder`, to be read in any process."""

    source: Source
    folder: str

    @property
    def name(self) -> str:
        return self.source.name

    def read(self, most: int) -> bytes:
        """As `Source.read`."""
        return self.source.read(most, self.folder)


@lru_cache(maxsize=4)
def opened_zip(path: str) -> zipfile.ZipFile:
    """Kept open, since its list of members is read at each opening; safe for threads."""
    return zipfile.ZipFile(path)


def find_sources(given: list[str], literal: bool = False) -> tuple[list[Source], list[Path]]:
    """The pictures, in order, each once, and the files that were passed over. A `literal` name is
    no pattern. Raises UserError where there is no picture, or an archive cannot be read.
    """
    found: dict[Source, None] = {}
    passed_over: list[Path] = []
    real: set[str] = set()
    for name in given:
        if is_url(name):
            found[Source(name)] = None
            continue
        paths, others = find_images([name], literal, real)
        passed_over += others
        for path in paths:
            if is_archive(path):
                found |= dict.fromkeys(members(path))
            else:
                found[Source(str(path))] = None
    return list(found), list(dict.fromkeys(passed_over))


def is_archive(path: Path) -> bool:
    return path.suffix.lower() in (ZIP, TAR) and path.is_file()


def members(path: Path) -> Iterator[Source]:
    """The pictures in an archive, by their names, in its order. Raises UserError."""
    some = False
    reader = zip_members if path.suffix.lower() == ZIP else tar_members
    with opening(path, "an archive", REMEDY):
        for source in reader(path):
            some = True
            yield source
    if not some:
        raise UserError(f"images={printable(path)} has no image ({', '.join(SUFFIXES)})")


def zip_members(path: Path) -> Iterator[Source]:
    with zipfile.ZipFile(path) as archive:
        for name in dict.fromkeys(archive.namelist()):
            if is_picture(name):
                yield Source(str(path), name)


def tar_members(path: Path) -> Iterator[Source]:
    """Raises tarfile's errors on one that is compressed."""
    with tarfile.open(path, "r:", tarinfo=BoundedHeader) as archive:
        for member in archive:
            if member.isfile() and not member.issparse() and is_picture(member.name):
                yield Source(str(path), member.name, member.offset_data, member.size)


def is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not Path(name).name.startswith("._")


def names_in(file: str) -> list[str]:
    """The names in a list. Raises UserError if it cannot be read, or names nothing."""
    said = f"images_file={printable(file)}"
    try:
        content = sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{said} cannot be read: {error.strerror}") from None
    lines = content.split(b"\0") if b"\0" in content else content.removeprefix(BOM).splitlines()
    names = [os.fsdecode(line) for line in lines if line]
    if not names:
        raise UserError(f"{said} names no image: write a path or URL a line")
    return names
