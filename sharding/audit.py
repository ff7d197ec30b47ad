"""Re-reads a finished shard and names every disagreement with the index, its sidecar, and the CSVs.

The last look is the loader's own (c2srt/shards.py): what is passed here can be read there. The
audit asks for more: every byte, the CSVs' labels, nothing that does not belong. Nothing is
extracted: members are read in place, so a tar that was tampered with can do no harm while it is
looked at.
"""

import json
import mmap
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import simplejpeg

from c2srt.errors import UserError
from c2srt.files import sha256_of_file
from c2srt.opened import BoundedHeader, parse_json, read_parquet
from c2srt.pictures import MAX_PIXELS, decode_packed
from c2srt.shards import ALL_COLUMNS, ID, MADE_BY, SPANS, Shard, ShardIndex, ShardReader
from c2srt.shown import printable, shown
from c2srt.vocabulary import Vocabulary

ATTRIBUTION = ("author", "license", "landing_url", "title")
LONGEST = 300  # characters of a finding
SHOWN = 5  # MIDs or ids spelled out in one finding; the rest is counted


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


@dataclass(frozen=True)
class Sample:
    """A well-formed pair of tar members: (offset, bytes) of the content of each."""

    id: str
    jpg: tuple[int, int]
    json: tuple[int, int]


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
        AuditTask(str(index.folder), split, shard, str(inputs), *bounds)
        for shard, *bounds in zip(shards, after, last, strict=True)
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
        f"{path.name} is in the folder but not in the index"
        for path in sorted(index.folder.glob("*.tar"))
        if path.stem not in known
    ]
    return [Finding.of("index", "", what) for what in findings]


def audit_shard(task: AuditTask) -> list[Finding]:
    """Every disagreement of one shard, in a fixed order; an empty list if there is none."""
    found = list(disagreements(task)) or list(as_the_loader(task))
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
    if not tar.is_file():
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
    if (size := tar.stat().st_size) != shard.bytes:
        yield "", f"{tar.name} has {size:,} bytes, the index says {shard.bytes:,}"
    if (digest := sha256_of_file(tar)) != shard.sha256:
        yield "", f"{tar.name} has SHA-256 {digest}, the index says {shard.sha256}"


def read_sidecar(path: Path) -> tuple[pl.DataFrame | None, str]:
    """(table, "") or (None, why it cannot be read)."""
    if not path.is_file():
        return None, f"{path.name} is in the index but not on disk"
    try:
        table = pl.from_arrow(read_parquet(path, MADE_BY, ALL_COLUMNS))
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
    found = {
        "inputs": len(table),
        "count": len(table.filter(packed)),
        "first": ends[0],
        "last": ends[1],
    }
    for name, value in found.items():
        if value != getattr(task.shard, name):
            yield "", f"the sidecar gives {name} {value}, the index {getattr(task.shard, name)}"


def read_members(path: Path, samples: list[Sample]) -> Iterator[tuple[str, str]]:
    """Walks the tar, appends its well-formed pairs to `samples`, yields what is wrong with every
    other member.
    """
    jpg: tuple[str, tuple[int, int]] | None = None
    try:
        with tarfile.open(path, "r:", errorlevel=2, tarinfo=BoundedHeader) as tar:
            for member in tar:
                if wrong := refused(member):
                    yield "", wrong
                    continue
                image_id, _, kind = member.name.partition(".")
                span = (member.offset_data, member.size)
                if kind == "jpg":
                    if jpg:
                        yield jpg[0], f"{jpg[0]}.jpg is not followed by its {jpg[0]}.json"
                    jpg = (image_id, span)
                elif jpg and jpg[0] == image_id:
                    if samples and image_id <= samples[-1].id:
                        yield (
                            image_id,
                            f"comes after {samples[-1].id} in the tar: not sorted, or twice",
                        )
                    samples.append(Sample(image_id, jpg[1], span))
                    jpg = None
                else:
                    yield image_id, f"{member.name} does not follow its {image_id}.jpg"
    except Exception as error:  # tarfile documents fewer than damaged headers raise
        yield "", f"{path.name} cannot be read to its end as a tar: {error}"
    if jpg:
        yield jpg[0], f"{jpg[0]}.jpg is not followed by its {jpg[0]}.json"


def refused(member: tarfile.TarInfo) -> str:
    """Why a member is none of ours, or "": only regular files named `<id>.jpg` or `<id>.json`
    are.
    """
    parts = member.name.replace("\\", "/").split("/")
    if member.name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        return f"member '{shown(member.name)}' tries to leave the folder: refused"
    if not member.isreg() or member.issparse():
        return f"member '{shown(member.name)}' is not a regular file: refused"
    if len(parts) > 1:
        return f"member '{shown(member.name)}' is not a base name: refused"
    if not re.fullmatch(rf"{ID}\.(jpg|json)", member.name):
        return f"member '{shown(member.name)}' is neither <id>.jpg nor <id>.json: refused"
    return ""


def check_offsets(packed: pl.DataFrame, samples: list[Sample]) -> Iterator[tuple[str, str]]:
    """The sidecar's packed rows, in the order of `member`, against the tar's samples."""
    listed = {row["id"]: row for row in packed.select("id", "member", *SPANS).iter_rows(named=True)}
    for number, sample in enumerate(samples):
        row = listed.pop(sample.id, None)
        if row is None:
            yield sample.id, "is in the tar but the sidecar does not say so"
            continue
        spans = (row["jpg_offset"], row["jpg_bytes"]), (row["json_offset"], row["json_bytes"])
        if row["member"] != number:
            yield sample.id, f"is sample {number} of the tar, the sidecar says {row['member']}"
        if spans != (sample.jpg, sample.json):
            yield (
                sample.id,
                (
                    f"lies at (offset, bytes) {sample.jpg} and {sample.json} in the tar, the"
                    f" sidecar says {spans[0]} and {spans[1]}"
                ),
            )
    for image_id in listed:
        yield image_id, "is packed according to the sidecar but is not in the tar"


def check_samples(
    path: Path, samples: list[Sample], table: pl.DataFrame | None, rows: pl.DataFrame
) -> Iterator[tuple[str, str]]:
    """Every sample's JPEG and JSON against the sidecar's size and the CSVs' labels and
    attribution.
    """
    place = {
        image_id: row for row, image_id in enumerate(rows["id"])
    }  # one row at a time as objects: lists can be long
    sizes = (
        {}
        if table is None
        else {row[0]: row[1:] for row in table.select("id", "width", "height").iter_rows()}
    )
    if not samples:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for sample in samples:
            jpg, text = (
                content[offset : offset + size] for offset, size in (sample.jpg, sample.json)
            )
            if sample.id not in place:
                yield sample.id, "is in the tar but is none of the shard's images in the CSVs"
                continue
            for what in check_sample(
                sample.id, jpg, text, sizes.get(sample.id), rows.row(place[sample.id], named=True)
            ):
                yield sample.id, what


def check_sample(
    image_id: str, jpg: bytes, text: bytes, size: tuple[int, int] | None, expected: dict
) -> Iterator[str]:
    """What is wrong with one sample."""
    try:
        found = parse_json(text)
        stated = (found["width"], found["height"])
        positive, negative, attribution = found["positive"], found["negative"], found["attribution"]
        same_id = found["id"] == image_id
    except (ValueError, KeyError, TypeError) as error:
        yield f"{image_id}.json is not the JSON of a sample ({type(error).__name__}: {error})"
        return
    if not same_id:
        yield f"{image_id}.json is about image {found['id']}"
    if size is not None and stated != size:
        yield (
            f"{image_id}.json says {stated[0]} × {stated[1]} pixels, the sidecar {size[0]} ×"
            f" {size[1]}"
        )
    for name, labels in (("positive", positive), ("negative", negative)):
        if labels != expected[name]:
            yield f"{name} labels differ from the CSVs' ({difference(labels, expected[name])})"
    if changed := [
        name
        for name in ATTRIBUTION
        if not isinstance(attribution, dict) or attribution.get(name) != expected[name]
    ]:
        yield f"{', '.join(changed)} of the attribution differ from the image CSV"
    yield from check_jpeg(image_id, jpg, stated)


def check_jpeg(image_id: str, jpg: bytes, stated: tuple[int, int]) -> Iterator[str]:
    """Decodes strictly, but only what the header says is of the stated size: a bomb is named, not
    inflated.
    """
    try:
        with suppress(ValueError):  # no JPEG: the loader may still know it
            height, width, *_ = simplejpeg.decode_jpeg_header(jpg)
            if (width, height) != stated:
                yield (
                    f"{image_id}.jpg has {width} × {height} pixels, its JSON says {stated[0]} ×"
                    f" {stated[1]}"
                )
                return
        most = (
            min(MAX_PIXELS, max(1, stated[0] * stated[1]))
            if all(type(side) is int for side in stated)
            else MAX_PIXELS
        )
        pixels: np.ndarray = decode_packed(jpg, most)
        if pixels.shape != (stated[1], stated[0], 3):
            yield (
                f"{image_id}.jpg decodes to shape {pixels.shape}, its JSON says {stated[0]} ×"
                f" {stated[1]}"
            )
    except ValueError as error:
        yield f"{image_id}.jpg does not decode: {error}"


def difference(found: object, expected: object) -> str:
    """Two lists of MIDs in words: what only one has, or that the order differs."""
    if not isinstance(found, list | tuple) or not all(isinstance(mid, str) for mid in found):
        return "not a list of MIDs"
    only = [
        (some(set(found) - set(expected)), "only in the shard"),
        (some(set(expected) - set(found)), "only in the CSVs"),
    ]
    return (
        ", ".join(f"{mids} {where}" for mids, where in only if mids)
        or "same MIDs in another order, or twice"
    )


def some(mids: set[str]) -> str:
    return " ".join(sorted(mids)[:SHOWN]) + (
        f" and {len(mids) - SHOWN} more" if len(mids) > SHOWN else ""
    )
