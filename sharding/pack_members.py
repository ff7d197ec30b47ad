"""The members of a pack, a plain or a gzipped tar that nobody has checked, front to back."""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from c2srt.opened import BoundedHeader
from c2srt.shown import shown

MEMBER = re.compile(r"([0-9a-f]{16})\.jpg")
DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError)
PART_MEMBERS = 10_000
"""A plain tar is read by a task for each so many members."""


@dataclass(frozen=True)
class Part:
    """Bytes [start, stop) of the file, which hold whole members; all of a gzipped one."""

    start: int
    stop: int


@dataclass
class PackReport:
    """What was found up to some member of a part: `members` are its headers, of whatever kind;
    `damaged` is "" or the reason why its rest could not be read; `ended`: nothing is left.
    """

    name: str
    members: int = 0
    images: int = 0
    repeated: int = 0
    refused: int = 0
    refused_example: str = ""
    damaged: str = ""
    ended: bool = False

    def lines(self) -> list[str]:
        """A sentence for each thing that a person should know."""
        found = []
        if self.damaged:
            found.append(
                f"{self.name} is damaged after {self.images:,} images ({self.damaged}): what was"
                " read is kept, what is missing has a row; download it again and shard into"
                " another out=… for the rest"
            )
        if self.refused:
            found.append(
                f"{self.name}: {self.refused:,} members refused, because their names leave the"
                f" folder or they are no plain files ({self.refused_example!r})"
            )
        if self.repeated:
            found.append(
                f"{self.name}: {self.repeated:,} images come again, the first of each is used"
            )
        return found


def packed(path: Path) -> bool:
    """Whether it can only be read front to back."""
    return path.suffix == ".gz"


def parts_of(path: Path) -> list[Part]:
    """Those that tasks can read at the same time, in order. A plain tar's headers are all read,
    PART_MEMBERS make a part; the last one reaches to the end, whatever is there.
    """
    end = path.stat().st_size
    starts = [0] if packed(path) else starts_of(path)
    return [Part(*each) for each in zip(starts, [*starts[1:], end], strict=True)]


def starts_of(path: Path) -> list[int]:
    starts = [0]
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, tarinfo=BoundedHeader) as tar:
            for number, member in enumerate(tar):
                cast(Any, tar).members = []
                if number and number % PART_MEMBERS == 0:
                    starts.append(member.offset)
    except DAMAGE:
        pass  # whoever reads the last part says so
    return starts


def members(
    path: Path, part: Part, max_bytes: int, report: PackReport
) -> Iterator[tuple[str, int, bytes | None]]:
    """(id, bytes, content) of each `…/<id>.jpg` behind the `report.members` that were read before;
    content is None above `max_bytes`.

    Nothing is extracted by its name: links, devices and names that leave the folder are refused and
    counted. A damaged pack ends the iteration with `report.damaged` set; an image that was cut off
    is not yielded.
    """
    before, report.members = report.members, 0
    try:
        with (
            opened(path, part) as stream,
            tarfile.open(
                fileobj=cast(BinaryIO, Ending(stream)), mode="r|", tarinfo=BoundedHeader
            ) as tar,
        ):
            for member in tar:
                cast(Any, tar).members = []  # else tarfile keeps the headers of the whole pack
                report.members += 1
                if report.members > before and (match := wanted(member, report)):
                    file = tar.extractfile(member) if member.size <= max_bytes else None
                    content = file.read() if file else None
                    report.images += 1
                    yield match[1], member.size, content
            check_end(tar)
    except DAMAGE as error:
        report.damaged = shown(" ".join(str(error).split()), 150) or type(error).__name__


def wanted(member: tarfile.TarInfo, report: PackReport) -> re.Match | None:
    """Its id, if it is an image; counts what is refused."""
    name = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()) or name.is_absolute() or ".." in name.parts:
        report.refused += 1
        report.refused_example = report.refused_example or shown(member.name, 80)
        return None
    return MEMBER.fullmatch(name.name) if member.isreg() else None


def opened(path: Path, part: Part) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if packed(path) else Slice(path, part))


class Slice(io.RawIOBase):
    """The bytes of a part."""

    def __init__(self, path: Path, part: Part) -> None:
        self.file, self.left = path.open("rb"), part.stop - part.start
        self.file.seek(part.start)

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(min(size, self.left))
        self.left -= len(block)
        return block

    def close(self) -> None:
        self.file.close()
        super().close()


class Ending:
    """A stream that ends once: tarfile skips whatever a header says that a member has, and would
    read on for years behind the end of a pack whose header says 2⁶⁰ bytes.
    """

    PATIENCE = 16

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.ends = stream, 0

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        self.ends += not block
        if self.ends > self.PATIENCE:
            raise EOFError("it ends inside a member")
        return block


def check_end(tar: tarfile.TarFile) -> None:
    """Reads to the end, which checks gzip's sum. tarfile stops in silence at a header that it
    cannot read: then data follow.
    """
    while block := tar.fileobj.read(1 << 20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("a tar header is broken")
