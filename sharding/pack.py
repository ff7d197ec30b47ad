"""One shard: a slice of the split's sorted inputs → `<name>.tar`, then `<name>.parquet`, which
marks it as done.

Shard k holds the inputs [k·N, (k+1)·N), N = images_per_shard, minus those that failed. It depends
on nothing but its inputs, so shards can be made in any order by any number of workers, and again.
The formats are specified in c2srt/shards.py; the sidecar's parquet metadata has `c2srt` =
{"settings": hash, "bytes", "sha256", "first", "last"} of the tar.
"""

import json
import shutil
import tarfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import polars as pl

from c2srt.artefact import kept
from c2srt.errors import UserError
from c2srt.files import sha256_of_file, whole_file
from c2srt.opened import misfit, wrong
from c2srt.opened_tables import INTEGER, TEXT, parquet_note, read_parquet
from c2srt.redact import redacted
from c2srt.sharding.config import Config
from c2srt.sharding.exclude import STATUS as EXCLUDED
from c2srt.sharding.outcome import Outcome
from c2srt.sharding.staging import FOLDER as STAGING, write_table
from c2srt.shards import BLOCK, MADE_BY, Shard
from c2srt.storage import mirror

BUFFER = 1 << 20
KEY = "c2srt"
COLUMNS = {
    "id": pl.String,
    "split": pl.String,
    "status": pl.String,
    "reason": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "member": pl.Int32,
    "jpg_offset": pl.Int64,
    "jpg_bytes": pl.Int64,
    "json_offset": pl.Int64,
    "json_bytes": pl.Int64,
}
KINDS = {name: TEXT if kind == pl.String else INTEGER for name, kind in COLUMNS.items()}
NO_LABELS = Outcome(
    "no_labels", "no person verified any category of this image (unlabelled=pack packs it)"
)


@dataclass(frozen=True)
class Done:
    """What a sidecar says of its tar."""

    settings: str
    bytes: int
    sha256: str
    first: str
    last: str


class Source(Protocol):
    """Where pixels come from."""

    @property
    def kind(self) -> str:
        """What `data.images` calls it."""

    def outcomes(self, rows: pl.DataFrame, task: "ShardTask") -> Iterator[Outcome]:
        """One Outcome for each row of the inputs, in order."""


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs: input rows [start, start + length) of the parquet `inputs`, written
    to `out`/`name`.*
    """

    name: str
    split: str
    inputs: str
    start: int
    length: int
    out: str
    settings: str
    source: Source
    config: Config
    excluded: dict[str, str] = field(default_factory=dict)
    """Images of the shard that are not packed (sharding/exclude.py), by id, with the reason."""


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06}"


def pack_shard(task: ShardTask) -> Shard:
    """Writes the tar, then the sidecar. Raises UserError on a full disk or an unwritable folder."""
    rows = rows_of(task)
    tar, sidecar = Path(task.out, f"{task.name}.tar"), Path(task.out, f"{task.name}.parquet")
    with whole_file(tar) as temporary:
        table = write_tar(temporary, rows, outcomes(rows, task), task)
        done = {
            "settings": task.settings,
            "bytes": temporary.stat().st_size,
            "sha256": sha256_of_file(temporary),
            "first": rows["id"][0],
            "last": rows["id"][-1],
        }
    with whole_file(sidecar) as temporary:
        write_table(temporary, table, {KEY: json.dumps(done)})
    shutil.rmtree(Path(task.out, STAGING, task.name), ignore_errors=True)
    return as_shard(task.name, done, table)


def rows_of(task: ShardTask) -> pl.DataFrame:
    """The shard's input rows."""
    mirror.fetched(Path(task.inputs))
    return pl.scan_parquet(task.inputs, glob=False).slice(task.start, task.length).collect()


def outcomes(rows: pl.DataFrame, task: ShardTask) -> Iterator[Outcome]:
    """The source's outcomes, in the order of `rows`, with `excluded` or `no_labels` for those that
    are not even looked for.
    """
    wanted = wanted_rows(rows, task.config, task.excluded)
    found = task.source.outcomes(rows.filter(wanted), task)
    for image_id, fetch in zip(rows["id"], wanted, strict=True):
        if image_id in task.excluded:
            yield Outcome(EXCLUDED, task.excluded[image_id])
            continue
        yield next(found) if fetch else NO_LABELS


def wanted_rows(rows: pl.DataFrame, config: Config, excluded: Collection[str] = ()) -> pl.Series:
    """Which input rows are to be packed: those with a label, or all, that are not excluded."""
    left = ~rows["id"].is_in(list(excluded)) if excluded else pl.repeat(True, len(rows), eager=True)
    if config.unlabelled == "pack":
        return left
    return left & ((rows["positive"].list.len() + rows["negative"].list.len()) > 0)


def write_tar(
    path: Path, rows: pl.DataFrame, results: Iterator[Outcome], task: ShardTask
) -> pl.DataFrame:
    """Writes the samples in order and returns the sidecar's table. Bytes depend on content only:
    fixed time, owner and mode.
    """
    records, member = [], 0
    with path.open("wb", buffering=BUFFER) as file:
        for row, outcome in zip(rows.iter_rows(named=True), results, strict=True):
            records.append(record(row["id"], task.split, outcome))
            if outcome.status != "ok":
                continue
            text = json.dumps(
                metadata(row, outcome, task.source.kind), ensure_ascii=False, sort_keys=True
            ).encode()
            offset = file.tell()
            records[-1] |= {
                "member": member,
                "jpg_offset": offset + BLOCK,
                "jpg_bytes": len(outcome.jpeg),
                "json_offset": offset + 2 * BLOCK + whole_blocks(len(outcome.jpeg)),
                "json_bytes": len(text),
            }
            add_member(file, f"{row['id']}.jpg", outcome.jpeg)
            add_member(file, f"{row['id']}.json", text)
            member += 1
        end_tar(file)
    return pl.DataFrame(records, schema=COLUMNS)


def add_member(file: BinaryIO, name: str, content: bytes) -> None:
    """As webdataset's TarWriter does, which would import torch; the same for all time and users."""
    file.write(header(name, len(content)))
    file.write(content)
    file.write(bytes(whole_blocks(len(content)) - len(content)))


def header(name: str, size: int) -> bytes:
    """What tarfile writes before a member: another one's header with this name, size and
    checksum, in a fifth of its time, where they fit into that.
    """
    if not name.isascii() or len(name) > tarfile.LENGTH_NAME or size >= 8**11:
        return by_tarfile(name, size)
    block = bytearray(HEADER)
    block[: len(name)] = name.encode()
    block[124:135] = b"%011o" % size
    block[148:156] = b"%06o\0 " % (sum(block) + sum(b" " * 8))
    return bytes(block)


def by_tarfile(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    member.uname = member.gname = "c2srt"
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8")


HEADER = by_tarfile("", 0)[:148] + bytes(8) + by_tarfile("", 0)[156:]


def end_tar(file: BinaryIO) -> None:
    """Two empty blocks, filled up to a whole record."""
    end = file.tell() + 2 * BLOCK
    file.write(bytes(2 * BLOCK + -end % tarfile.RECORDSIZE))


def record(image_id: str, split: str, outcome: Outcome) -> dict:
    """A sidecar row of an image that is not (yet) in the tar."""
    return {
        "id": image_id,
        "split": split,
        "status": outcome.status,
        "reason": outcome.reason,
        "width": outcome.width,
        "height": outcome.height,
        "member": -1,
        "jpg_offset": -1,
        "jpg_bytes": 0,
        "json_offset": -1,
        "json_bytes": 0,
    }


def metadata(row: dict, outcome: Outcome, kind: str) -> dict:
    """The sample's `<id>.json`, as c2srt/shards.py specifies it."""
    return {
        "id": row["id"],
        "positive": row["positive"],
        "negative": row["negative"],
        "width": outcome.width,
        "height": outcome.height,
        "source": {"from": kind, "url": redacted(row["url"], {}), **outcome.original},
        "attribution": {name: row[name] for name in ("author", "license", "landing_url", "title")},
    }


def whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def as_shard(name: str, done: Mapping[str, Any], table: pl.DataFrame) -> Shard:
    packed = int((table["status"] == "ok").sum())
    return Shard(
        name, done["bytes"], done["sha256"], len(table), packed, done["first"], done["last"]
    )


def finished(folder: Path, name: str, settings: str) -> Shard | None:
    """The shard if an earlier run finished it with these settings, else None."""
    sidecar, tar = folder / f"{name}.parquet", folder / f"{name}.tar"
    done = kept(tar, partial(note_of, sidecar), {"settings": settings}, hashed=False)
    if done is None:
        return None
    with suppress(OSError, UserError):  # made again
        return as_shard(
            name, done, cast(pl.DataFrame, pl.from_arrow(read_parquet(sidecar, MADE_BY, KINDS)))
        )
    return None


def note_of(sidecar: Path) -> dict:
    """What a sidecar says of its tar, a `Done`. Raises UserError."""
    note = parquet_note(sidecar, MADE_BY, KEY)
    if odd := misfit(note, Done):
        raise wrong(sidecar, f"has a note {KEY!r} that is none of ours ({odd})", MADE_BY)
    return json.loads(note)
