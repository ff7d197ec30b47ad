"""Re-reads a finished shard and names every disagreement with the index, its sidecar, and the CSVs.

The last look is the loader's own (c2srt/shard_reader.py): what is passed here can be read there.
The audit asks for more: every byte, the CSVs' labels, nothing that does not belong. Nothing is
extracted: members are read in place, so a tar that was tampered with can do no harm while it is
looked at.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.files import sha256_of_file
from c2srt.offsets import Offsets, open_offsets
from c2srt.opened_tables import read_parquet
from c2srt.shard_reader import Places, ShardReader, sidecar_places
from c2srt.sharding.audit_samples import (
    ATTRIBUTION,
    Sample,
    check_offsets,
    check_samples,
    difference,
    read_members,
)
from c2srt.shards import ALL_COLUMNS, MADE_BY, Shard, ShardIndex
from c2srt.shown import printable, shown
from c2srt.storage import mirror
from c2srt.vocabulary import Vocabulary

LONGEST = 300  # characters of a finding


@dataclass(frozen=True)
class Finding:
    """One disagreement: `id` is the image ("" = the shard as a whole)."""

    shard: str
    id: str
    what: str

    @classmethod
    def of(cls, shard: str, image_id: str, what: str) -> "Finding":
        """With what a shard says made fit to be shown, whatever bytes it is made of."""
        return cls(shard, shown(image_id), shown(what, LONGEST))

    def line(self) -> str:
        return printable(f"{self.shard}{' ' + self.id if self.id else ''}: {self.what}")

    def json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class AuditTask:
    """A shard and the CSVs' rows it answers for: ids above `after`, up to `last` (None = to the
    end), of the parquet `inputs`.
    """

    folder: str
    split: str
    shard: Shard
    inputs: str
    after: str
    last: str | None


def plan_audit(index: ShardIndex, split: str, inputs: Path) -> list[AuditTask]:
    """The split's tasks: every row of `inputs` belongs to exactly one shard, so that no image can
    be missing unnoticed.
    """
    shards = index.splits[split]
    if not shards:
        return []
    after = ["", *(shard.last for shard in shards[:-1])]
    last = [*(shard.last for shard in shards[:-1]), None]
    return [
        AuditTask(str(index.folder), split, shard, str(inputs), low, high)
        for shard, low, high in zip(shards, after, last, strict=True)
    ]


def audit_folder(
    index: ShardIndex, stored: Vocabulary, expected: Vocabulary, inputs: dict[str, Path]
) -> list[Finding]:
    """What concerns no single shard: the vocabulary, splits without shards, and files that the
    index does not know.
    """
    findings = []
    if index.vocabulary != stored.hash:
        findings.append(
            f"the index was made for vocabulary {index.vocabulary}, vocabulary.json is"
            f" {stored.hash}"
        )
    if stored.hash != expected.hash:
        how = difference(stored.mids, expected.mids)
        findings.append(
            f"vocabulary.json is {stored.hash}, the class lists give {expected.hash} ({how})"
        )
    findings += [
        f"split {split} has images in the CSVs but no shard"
        for split, shards in index.splits.items()
        if not shards
        and pl.scan_parquet(inputs[split], glob=False).select(pl.len()).collect().item()
    ]
    known = {shard.name for shards in index.splits.values() for shard in shards}
    findings += [
        f"{name} is in the folder but not in the index"
        for name in mirror.names_in(index.folder, ".tar")
        if name.removesuffix(".tar") not in known
    ]
    findings += [
        what for split in index.splits for what in check_table(index.folder, index.splits[split])
    ]
    return [Finding.of("index", "", what) for what in findings]


def check_table(folder: Path, shards: tuple[Shard, ...]) -> Iterator[str]:
    """A split's table of offsets, where it has one, against the sidecars."""
    try:
        table = open_offsets(folder, shards)
    except UserError as error:
        yield str(error)
        return
    for number, shard in enumerate(shards if table else ()):
        with suppress(OSError, UserError):  # the shard's own disagreements
            places = sidecar_places(folder / f"{shard.name}.parquet", shard)
            if table and not same_places(table, number, places):
                yield f"{table.source.path.name} does not say of {shard.name} what its sidecar says"


def same_places(table: Offsets, number: int, places: Places) -> bool:
    """Whether the table has these places of a shard, undamaged."""
    try:
        found = table.places(number)
    except UserError:
        return False
    return list(found.ids) == list(places.ids) and np.array_equal(found.spans, places.spans)


def audit_shard(task: AuditTask) -> list[Finding]:
    """Every disagreement of one shard, in a fixed order; an empty list if there is none."""
    try:
        found = list(disagreements(task)) or list(as_the_loader(task))
    finally:
        mirror.let_go(Path(task.folder, f"{task.shard.name}.tar"))
    return [Finding.of(task.shard.name, image_id, what) for image_id, what in found]


def disagreements(task: AuditTask) -> Iterator[tuple[str, str]]:
    """(id, what) of each; reads the tar twice (hash, then members) and each JPEG once."""
    tar, sidecar = (
        Path(task.folder, f"{task.shard.name}.tar"),
        Path(task.folder, f"{task.shard.name}.parquet"),
    )
    rows = inputs_of(task)
    table, broken = read_sidecar(sidecar)
    if table is None:
        yield "", broken
    else:
        yield from check_sidecar(table, rows, task)
    if not mirror.there(tar):
        yield "", f"{tar.name} is in the index but not on disk"
        return
    yield from check_file(tar, task.shard)
    samples: list[Sample] = []
    yield from read_members(tar, samples)
    if table is not None:
        yield from check_offsets(table.filter(pl.col("status") == "ok").sort("member"), samples)
    yield from check_samples(tar, samples, table, rows)


def as_the_loader(task: AuditTask) -> Iterator[tuple[str, str]]:
    """What the loader itself would stumble on."""
    image_id = ""
    try:
        reader = ShardReader(Path(task.folder), task.shard)
        for sample in range(len(reader.ids)):
            image_id = reader.ids[sample]
            reader.jpeg(sample)
            reader.labels(sample)
    except UserError as error:
        yield image_id, f"cannot be loaded: {error}"


def inputs_of(task: AuditTask) -> pl.DataFrame:
    """The rows of the CSVs that the shard answers for."""
    rows = pl.scan_parquet(task.inputs, glob=False).filter(pl.col("id") > task.after)
    if task.last is not None:
        rows = rows.filter(pl.col("id") <= task.last)
    return rows.select("id", "positive", "negative", *ATTRIBUTION).collect()


def check_file(tar: Path, shard: Shard) -> Iterator[tuple[str, str]]:
    """The tar's size and SHA-256 against the index."""
    if (size := mirror.size_of(tar)) != shard.bytes:
        yield "", f"{tar.name} has {size:,} bytes, the index says {shard.bytes:,}"
    if (digest := sha256_of_file(tar)) != shard.sha256:
        yield "", f"{tar.name} has SHA-256 {digest}, the index says {shard.sha256}"


def read_sidecar(path: Path) -> tuple[pl.DataFrame | None, str]:
    """(table, "") or (None, why it cannot be read)."""
    if not mirror.there(path):
        return None, f"{path.name} is in the index but not on disk"
    try:
        table = cast(pl.DataFrame, pl.from_arrow(read_parquet(path, MADE_BY, ALL_COLUMNS)))
    except UserError as error:
        return None, f"{path.name} cannot be read: {str(error).removeprefix(f'{path} ')}"
    return table, ""


def check_sidecar(
    table: pl.DataFrame, rows: pl.DataFrame, task: AuditTask
) -> Iterator[tuple[str, str]]:
    """The sidecar against the CSVs (a row for every image) and the index (counts, first, last)."""
    for image_id in table.join(rows, on="id", how="anti")["id"]:
        yield image_id, "is in the sidecar but is none of the shard's images in the CSVs"
    for image_id in rows.join(table, on="id", how="anti")["id"]:
        yield image_id, "is an image of the CSVs but has no row in the sidecar"
    for image_id in table.filter(pl.col("id").is_duplicated())["id"].unique().sort():
        yield image_id, "has several rows in the sidecar"
    packed = pl.col("status") == "ok"
    for image_id, split in (
        table.filter(pl.col("split") != task.split).select("id", "split").iter_rows()
    ):
        yield image_id, f"is of split {split!r} in the sidecar, not {task.split!r}"
    for image_id in table.filter(~packed & (pl.col("reason") == ""))["id"]:
        yield image_id, "is not packed and the sidecar gives no reason"
    for image_id in table.filter(packed != (pl.col("member") >= 0))["id"]:
        yield image_id, "has a status and a member number in the sidecar that contradict each other"
    ends = (table["id"].min() or "", table["id"].max() or "")
    found: dict[str, Any] = {
        "inputs": len(table),
        "count": len(table.filter(packed)),
        "first": ends[0],
        "last": ends[1],
    }
    for name, value in found.items():
        if value != getattr(task.shard, name):
            yield "", f"the sidecar gives {name} {value}, the index {getattr(task.shard, name)}"
