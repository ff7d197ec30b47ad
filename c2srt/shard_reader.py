"""Random access to the samples of one shard, by the places that its sidecar or the table of its
split (c2srt/offsets.py) gives.
"""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.opened import misfit, parse_json, wrong
from c2srt.opened_tables import as_numpy
from c2srt.shards import BLOCK, COLUMNS, MADE_BY, SPANS, Shard, read_sidecar
from c2srt.shown import shown
from c2srt.storage.ranges import Opens, Reads, Span, open_ranges, start

AUDIT = Command("audit")
NAME_BYTES = (
    100  # of a member in its header; where there are more, all of them stand in a block before it
)
SIZE, CHECKSUM, KIND, FOLDER = slice(124, 136), slice(148, 156), slice(156, 157), slice(345, 500)
"""Fields of the header. The checksum is of all its bytes, its own taken for spaces."""
MEMBERS = JPEG, JSON = range(2)
SUFFIXES = ("jpg", "json")
AT_ONCE = 256
"""Samples of which all labels are read at a time."""


@dataclass(frozen=True)
class SampleLabels:
    """The MIDs that are verified present and absent in a sample."""

    positive: list[str]
    negative: list[str]


@dataclass(frozen=True)
class Places:
    """Where a shard's samples lie in its tar: `ids` [n]; `spans` int64 [n, 4], the columns SPANS
    of the sidecar, in bytes.
    """

    ids: Sequence[str]
    spans: np.ndarray


def sidecar_places(path: Path, shard: Shard) -> Places:
    """The places from a sidecar. Raises OSError if it is absent, UserError if it is no sidecar, or
    of another shard.
    """
    rows = read_sidecar(path)
    column = {name: as_numpy(rows[name]) for name in COLUMNS}
    packed = np.flatnonzero(column["status"] == "ok")
    packed = packed[np.argsort(column["member"][packed])]
    if len(packed) != shard.count:
        raise another(path.with_suffix(".tar"))
    spans = np.stack([column[name] for name in SPANS], 1)[packed].astype(np.int64)
    if not all_within(spans, shard):
        raise wrong(path, f"gives places that are not in {shard.name}.tar", MADE_BY)
    return Places(column["id"][packed].tolist(), spans)


def all_within(spans: np.ndarray, shard: Shard) -> bool:
    """Whether members and their headers [n, 4] can lie in the shard."""
    starts, sizes = spans[:, ::2], spans[:, 1::2]
    return not ((starts < BLOCK) | (sizes < 0) | (sizes > shard.bytes - starts)).any()


def another(tar: Path) -> UserError:
    return UserError(
        f"{tar} is not the shard of the index (bytes or samples differ): run `{MADE_BY}` again"
    )


def as_packed(block: bytes, name: str, size: int) -> bool:
    """Whether a tar's block is, field by field, the header that `c2srt shard` writes for a file of
    that name and size: a tenth of the time that tarfile takes to read it.
    """
    start = name.encode() + b"\0"
    total = sum(block) - sum(block[CHECKSUM]) + len(block[CHECKSUM]) * ord(" ")
    return (
        block[: len(start)] == start
        and block[SIZE] == b"%011o\0" % size
        and block[CHECKSUM] == b"%06o\0 " % total
        and block[KIND] == tarfile.REGTYPE
        and not any(block[FOLDER])
    )


def misplaced(block: bytes, name: str, size: int) -> str:
    """What a tar's block is instead of the header of a file of that name and size; "" if it is
    that.
    """
    if as_packed(block, name, size):
        return ""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        return f"has no header of a member ({shown(error)})"
    if header.name != name[:NAME_BYTES] or not header.isreg() or header.size != size:
        return f"has '{shown(header.name)}' of {header.size:,} bytes"
    return ""


class ShardReader:
    """One shard. Members are read with the header before each, which says that it is the right one.

    `places` gives the places that the sidecar would give. Raises UserError if the tar is missing or
    not of the size that the index says, or the sidecar is no sidecar. The audit reads through it,
    too: what it passes can be read here.
    """

    def __init__(
        self,
        folder: Path,
        shard: Shard,
        opens: Opens = open_ranges,
        places: Callable[[], Places] | None = None,
    ) -> None:
        self.path = folder / f"{shard.name}.tar"
        try:
            found = places() if places else sidecar_places(self.path.with_suffix(".parquet"), shard)
            self.source = opens(self.path)
        except FileNotFoundError as error:
            raise UserError(
                f"{error.filename} is in the index but not on disk: run `{MADE_BY}` again"
            ) from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from error
        if self.source.size != shard.bytes:
            raise another(self.path)
        self.ids, self._spans = found.ids, found.spans

    def __len__(self) -> int:
        return len(self.ids)

    def span(self, sample: int, member: int) -> Span:
        """Where member JPEG or JSON of a sample (0-based position in the tar) lies, header
        included.
        """
        offset, size = self._spans[sample, 2 * member : 2 * member + 2].tolist()
        return self.source, offset - BLOCK, BLOCK + size

    def content(self, sample: int, member: int, found: memoryview) -> bytes:
        """The member out of the bytes of its span. Raises UserError if another member lies
        there.
        """
        name = f"{self.ids[sample]}.{SUFFIXES[member]}"
        if unlike := misplaced(bytes(found[:BLOCK]), name, len(found) - BLOCK):
            raise UserError(
                f"{self.path} {unlike} where {name} should be: run `{AUDIT}` to find all damage,"
                f" then `{MADE_BY}` again"
            )
        return bytes(found[BLOCK:])

    def jpeg(self, sample: int) -> bytes:
        """The encoded image of a sample. Raises UserError as `content`, and as a `Source` does."""
        return self.content(sample, JPEG, *start([self.span(sample, JPEG)]).wait())

    def json(self, sample: int) -> bytes:
        """The metadata of a sample, undecoded. Raises UserError as `jpeg`."""
        return self.content(sample, JSON, *start([self.span(sample, JSON)]).wait())

    def labels(self, sample: int) -> SampleLabels:
        """The verified labels of a sample. Raises UserError if its JSON is damaged."""
        return self.labels_in(sample, self.json(sample))

    def labels_in(self, sample: int, text: bytes) -> SampleLabels:
        """The same from its JSON."""
        if unlike := misfit(text, SampleLabels):
            raise UserError(
                f"{self.path}: the JSON of sample {shown(self.ids[sample])} is damaged ({unlike}):"
                f" run `{AUDIT}` to find all damage, then `{MADE_BY}` again"
            )
        content = parse_json(text)
        return SampleLabels(content["positive"], content["negative"])

    def all_labels(self) -> Iterator[SampleLabels]:
        """Those of every sample, in order. Raises UserError as `labels`."""
        for first in range(0, len(self), AT_ONCE):
            samples = range(first, min(first + AT_ONCE, len(self)))
            reads: Reads = start([self.span(sample, JSON) for sample in samples])
            for sample, found in zip(samples, reads.wait(), strict=True):
                yield self.labels_in(sample, self.content(sample, JSON, found))
