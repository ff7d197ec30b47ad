"""The shard folder: what `c2srt shard` writes and everything downstream reads.

    <shards>/index.json                 this file's `ShardIndex`; written last, so its presence
                                        means "complete"
    <shards>/vocabulary.json            c2srt/vocabulary.py
    <shards>/<split>-000000.tar         POSIX tar readable by webdataset: `<id>.jpg`, `<id>.json`,
                                        adjacent, sorted by id
    <shards>/<split>-000000.parquet     the shard's sidecar: a row for *every* input image, packed
                                        or not

`<id>.json` = {"id", "positive": [MID…], "negative": [MID…], "width", "height" (of the packed JPEG,
pixels), "source": {…where the image came from}, "attribution": {"author", "license", "landing_url",
"title"}}. Labels are the verified ones; a MID in neither list is unverified (0).

Sidecar columns: id (str), split (str), status ("ok" or a short word), reason (str, "" when ok),
width, height (int32, packed), member (int32, the sample's position in the tar, −1 when not ok),
jpg_offset, jpg_bytes, json_offset, json_bytes (int64, of the members' content inside the tar). Rows
with status "ok" sorted by `member` are the tar's samples in order.

index.json = {"format": 1, "vocabulary": hash, "source": hash of the inputs and packing settings,
"splits": {split: [{"name", "bytes", "sha256", "inputs", "count", "first", "last"}…]}}; `inputs`
counts every input row of the shard, `count` the packed samples; `name` has no suffix
(`train-000000`).
"""

import mmap
import re
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from c2srt.errors import UserError
from c2srt.files import write_json
from c2srt.hints import Command
from c2srt.opened import misfit, parse_json, read_json, wrong
from c2srt.opened_tables import INTEGER, TEXT, check_parquet, read_parquet
from c2srt.shown import shown

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
FILE = "index.json"
MADE_BY, AUDIT = Command("shard"), Command("audit")
SPANS = ["jpg_offset", "jpg_bytes", "json_offset", "json_bytes"]
COLUMNS = {"id": TEXT, "status": TEXT, **dict.fromkeys(("member", *SPANS), INTEGER)}
ALL_COLUMNS = {**COLUMNS, "split": TEXT, "reason": TEXT, "width": INTEGER, "height": INTEGER}
ID = "[0-9A-Za-z_-]{1,200}"
"""What an image is called, in the sidecar and in its two members of the tar."""
BLOCK = 512  # bytes; a tar member is one header block, then its content filled up to whole blocks
NAME_BYTES = (
    100  # of a member in its header; where there are more, all of them stand in a block before it
)
SPLIT, NUMBER = "[A-Za-z0-9_]{1,64}", "[0-9]{1,12}"
"""A shard is called <split>-<number>: a name out of an index never leads out of a folder."""


@dataclass(frozen=True)
class Shard:
    """One line of the index."""

    name: str
    bytes: int
    sha256: str
    inputs: int
    count: int
    first: str
    last: str


@dataclass(frozen=True)
class IndexFile:
    """What index.json must have."""

    vocabulary: str
    source: str
    splits: dict[str, list[Shard]]


@dataclass(frozen=True)
class ShardIndex:
    """The whole folder: shards by split, in name order."""

    folder: Path
    vocabulary: str
    source: str
    splits: dict[str, tuple[Shard, ...]]

    def split(self, name: str) -> tuple[Shard, ...]:
        """The shards of one split. Raises UserError if the folder has none, or none with a
        sample.
        """
        if not sum(shard.count for shard in self.splits.get(name, ())):
            raise UserError(
                f"{self.folder} has no images of split {name!r} (it has"
                f" {', '.join(sorted(self.splits)) or 'none'})"
            )
        return self.splits[name]

    def save(self) -> None:
        splits = {name: [asdict(shard) for shard in shards] for name, shards in self.splits.items()}
        write_json(
            self.folder / FILE,
            {
                "format": FORMAT,
                "vocabulary": self.vocabulary,
                "source": self.source,
                "splits": splits,
            },
        )


def load_index(folder: Path) -> ShardIndex:
    """Reads `folder/index.json`. Raises UserError if it is absent, broken, of another format, or
    names what is no shard.
    """
    path = folder / FILE
    content = read_json(path, MADE_BY, IndexFile, FORMAT)
    splits = {
        split: tuple(Shard(**shard) for shard in shards)
        for split, shards in content["splits"].items()
    }
    for split, shards in splits.items():
        check_names(path, split, shards)
    return ShardIndex(folder, content["vocabulary"], content["source"], splits)


def check_names(path: Path, split: str, shards: tuple[Shard, ...]) -> None:
    """Raises UserError unless the split's shards are called <split>-<number>, each once, in order,
    with counts that can be.
    """
    if not re.fullmatch(SPLIT, split):
        raise wrong(path, f"has a split '{shown(split)}', which is no name", MADE_BY)
    before = ""
    for shard in shards:
        if not re.fullmatch(f"{split}-{NUMBER}", shard.name) or shard.name <= before:
            raise wrong(
                path,
                f"has a shard '{shown(shard.name)}', which is not {split}-<number>, or not in"
                " order",
                MADE_BY,
            )
        if not 0 <= shard.count <= shard.inputs or shard.bytes < 0:
            raise wrong(path, f"has counts for {shard.name} that cannot be", MADE_BY)
        before = shard.name


@dataclass(frozen=True)
class SampleLabels:
    """The MIDs that are verified present and absent in a sample."""

    positive: list[str]
    negative: list[str]


def read_sidecar(path: Path, columns: Mapping[str, str] = COLUMNS) -> "pa.Table":
    """The columns of a sidecar, which has all of them. Raises UserError unless its rows can be a
    shard's.
    """
    check_parquet(path, MADE_BY, ALL_COLUMNS)
    rows = read_parquet(path, MADE_BY, columns)
    ids, packed = rows["id"].to_pylist(), rows["status"].to_numpy() == "ok"
    if odd := next((name for name in ids if not re.fullmatch(ID, name)), None):
        raise wrong(path, f"has an image '{shown(odd)}', which is no name", MADE_BY)
    if len(set(ids)) < len(ids):
        raise wrong(path, "has several rows of one image", MADE_BY)
    member = rows["member"].to_numpy()
    if (
        not np.array_equal(np.sort(member[packed]), np.arange(packed.sum()))
        or (member[~packed] >= 0).any()
    ):
        raise wrong(path, "numbers its samples otherwise than 0, 1, 2 …", MADE_BY)
    return rows


def misplaced(block: bytes, name: str, size: int) -> str:
    """What a tar's block is instead of the header of a file of that name and size; "" if it is
    that.
    """
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        return f"has no header of a member ({shown(error)})"
    if header.name != name[:NAME_BYTES] or not header.isreg() or header.size != size:
        return f"has '{shown(header.name)}' of {header.size:,} bytes"
    return ""


class ShardReader:
    """Random access to one shard's samples through the sidecar's offsets; the tar is mapped, not
    read.

    Raises UserError if the tar is missing or shorter than the sidecar says, or the sidecar is no
    sidecar. The audit reads through it, too: what it passes can be read here.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.path, sidecar = folder / f"{shard.name}.tar", folder / f"{shard.name}.parquet"
        try:
            rows = read_sidecar(sidecar)
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise UserError(
                f"{error.filename} is in the index but not on disk: run `{MADE_BY}` again"
            ) from None
        except ValueError as error:  # an empty tar
            raise UserError(f"{self.path} is damaged ({error}): run `{MADE_BY}` again") from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from error
        column = {name: rows[name].to_numpy() for name in COLUMNS}
        packed = np.flatnonzero(column["status"] == "ok")
        packed = packed[np.argsort(column["member"][packed])]
        if len(self._map) != shard.bytes or len(packed) != shard.count:
            raise UserError(
                f"{self.path} is not the shard of the index (bytes or samples differ): run"
                f" `{MADE_BY}` again"
            )
        self.ids: list[str] = column["id"][packed].tolist()
        self._spans = np.stack([column[name] for name in SPANS], 1)[packed].astype(np.int64)
        starts, sizes = self._spans[:, ::2], self._spans[:, 1::2]
        if (starts < BLOCK).any() or (sizes < 0).any() or (sizes > shard.bytes - starts).any():
            raise wrong(sidecar, f"gives places that are not in {self.path.name}", MADE_BY)

    def __len__(self) -> int:
        return len(self.ids)

    def jpeg(self, sample: int) -> bytes:
        """The encoded image of sample `sample` (0-based position in the tar). Raises UserError if
        another member lies there.
        """
        offset, size, _, _ = self._spans[sample]
        return self.member(f"{self.ids[sample]}.jpg", offset, size)

    def json(self, sample: int) -> bytes:
        """The metadata of sample `sample`, undecoded. Raises UserError if another member lies
        there.
        """
        _, _, offset, size = self._spans[sample]
        return self.member(f"{self.ids[sample]}.json", offset, size)

    def member(self, name: str, offset: int, size: int) -> bytes:
        """The content of a member, whose header lies in the block before it."""
        if unlike := misplaced(self._map[offset - BLOCK : offset], name, size):
            raise UserError(
                f"{self.path} {unlike} where {name} should be: run `{AUDIT}` to find all damage,"
                f" then `{MADE_BY}` again"
            )
        return self._map[offset : offset + size]

    def labels(self, sample: int) -> SampleLabels:
        """The verified labels of sample `sample`. Raises UserError if its JSON is damaged."""
        if unlike := misfit(self.json(sample), SampleLabels):
            raise UserError(
                f"{self.path}: the JSON of sample {shown(self.ids[sample])} is damaged ({unlike}):"
                f" run `{AUDIT}` to find all damage, then `{MADE_BY}` again"
            )
        content = parse_json(self.json(sample))
        return SampleLabels(content["positive"], content["negative"])
