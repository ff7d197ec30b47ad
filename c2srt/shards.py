"""The shard folder: what `c2srt shard` writes and everything downstream reads.

    <shards>/index.json                 this file's `ShardIndex`; written last, so its presence
                                        means "complete"
    <shards>/vocabulary.json            c2srt/vocabulary.py
    <shards>/<split>-000000.tar         POSIX tar readable by webdataset: `<id>.jpg`, `<id>.json`,
                                        adjacent, sorted by id
    <shards>/<split>-000000.parquet     the shard's sidecar: a row for *every* input image, packed
                                        or not
    <shards>/offsets-<split>.bin        where all samples lie (c2srt/offsets.py); may be absent

`<id>.json` = {"id", "positive": [MID…], "negative": [MID…], "width", "height" (of the packed JPEG,
pixels), "source": {…where the image came from}, "attribution": {"author", "license", "landing_url",
"title"}}. Labels are the verified ones; a MID in neither list is unverified (0).

Sidecar columns: id (str), split (str), status ("ok" or a short word), reason (str, "" when ok),
width, height (int32, packed), member (int32, the sample's position in the tar, −1 when not ok),
jpg_offset, jpg_bytes, json_offset, json_bytes (int64, of the members' content inside the tar). Rows
with status "ok" sorted by `member` are the tar's samples in order.

index.json = {"format": 1, "version": the data set's, for people, "vocabulary": hash,
"source": hash of the inputs and packing settings,
"splits": {split: [{"name", "bytes", "sha256", "inputs", "count", "first", "last"}…]}}; `inputs`
counts every input row of the shard, `count` the packed samples; `name` has no suffix
(`train-000000`).
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from c2srt.errors import UserError
from c2srt.files import hash_of, write_json
from c2srt.hints import Command
from c2srt.opened import read_json, wrong
from c2srt.opened_tables import INTEGER, TEXT, as_numpy, check_parquet, read_parquet
from c2srt.shown import shown

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
FILE = "index.json"
MADE_BY = Command("shard")
SPANS = ["jpg_offset", "jpg_bytes", "json_offset", "json_bytes"]
COLUMNS = {"id": TEXT, "status": TEXT, **dict.fromkeys(("member", *SPANS), INTEGER)}
ALL_COLUMNS = {**COLUMNS, "split": TEXT, "reason": TEXT, "width": INTEGER, "height": INTEGER}
ID = "[0-9A-Za-z_-]{1,200}"
"""What an image is called, in the sidecar and in its two members of the tar."""
BLOCK = 512  # bytes; a tar member is one header block, then its content filled up to whole blocks
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

    @property
    def version(self) -> str:
        """The data set's: a hash over all that went in. Another image, label, category, setting or
        excluded image is another version; where it lies, and who packed it, is none.
        """
        shards = {
            split: [(shard.name, shard.sha256, shard.inputs) for shard in shards]
            for split, shards in self.splits.items()
        }
        return hash_of([self.vocabulary, self.source, shards])

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
                "version": self.version,
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


def read_sidecar(path: Path, columns: Mapping[str, str] = COLUMNS) -> "pa.Table":
    """The columns of a sidecar, which has all of them. Raises UserError unless its rows can be a
    shard's.
    """
    check_parquet(path, MADE_BY, ALL_COLUMNS)
    rows = read_parquet(path, MADE_BY, columns)
    ids, packed = rows["id"].to_pylist(), as_numpy(rows["status"]) == "ok"
    if odd := next((name for name in ids if not re.fullmatch(ID, name)), None):
        raise wrong(path, f"has an image '{shown(odd)}', which is no name", MADE_BY)
    if len(set(ids)) < len(ids):
        raise wrong(path, "has several rows of one image", MADE_BY)
    member = as_numpy(rows["member"])
    if (
        not np.array_equal(np.sort(member[packed]), np.arange(packed.sum()))
        or (member[~packed] >= 0).any()
    ):
        raise wrong(path, "numbers its samples otherwise than 0, 1, 2 …", MADE_BY)
    return rows
