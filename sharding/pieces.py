"""What is known already of the images that a shard downloads, in pieces of STAGE_ROWS.

A piece is a stage (sharding/staging.py) once its downloads are over. Of a finished shard that is
downloaded again, its own tar and sidecar stand for the stages that there are no longer.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import polars as pl

from c2srt.opened_tables import read_parquet
from c2srt.shard_reader import ShardReader
from c2srt.sharding.outcome import Outcome
from c2srt.sharding.pack import KINDS, ShardTask, finished
from c2srt.sharding.staging import FOLDER, about_stage, load, staged
from c2srt.shards import MADE_BY

STAGE_ROWS = 256  # also how far downloads run ahead of the slowest one
Known = Mapping[str, tuple[str, Callable[[], Outcome]]]
"""id → (status, what loads the whole outcome)"""


@dataclass(frozen=True)
class Piece:
    """Some rows of a shard's inputs, in order. `whole`: its stage is there."""

    rows: pl.DataFrame
    stage: Path
    about: dict
    whole: bool
    known: Known

    @property
    def ids(self) -> list[str]:
        return self.rows["id"].to_list()

    def wanted(self, again: Collection[str]) -> list[dict]:
        """The rows that are to be downloaded: those that nothing is known of, and those whose
        status is one of `again`.
        """
        return [
            row
            for row in self.rows.iter_rows(named=True)
            if row["id"] not in self.known or self.known[row["id"]][0] in again
        ]

    def others(self, wanted: list[dict]) -> Iterator[tuple[str, Outcome]]:
        """(id, outcome) of those that are not."""
        left_out = {row["id"] for row in wanted}
        for image_id, (_, outcome) in self.known.items():
            if image_id not in left_out:
                yield image_id, outcome()


def pieces_of(rows: pl.DataFrame, task: ShardTask) -> list[Piece]:
    """Raises UserError on a damaged stage."""
    slices = list(rows.iter_slices(STAGE_ROWS))
    found = [stage_of(task, number, each) for number, each in enumerate(slices)]
    missing = not all(whole for _, _, whole in found)
    before = packed_before(task) if missing else {}
    return [
        Piece(each, stage, about, whole, known_in(stage, each) if whole else of(before, each))
        for each, (stage, about, whole) in zip(slices, found, strict=True)
    ]


def stage_of(task: ShardTask, number: int, rows: pl.DataFrame) -> tuple[Path, dict, bool]:
    """(its folder, what it is made from, whether it is there)"""
    stage = staging_folder(task) / f"{number:06}"
    about = {"settings": task.settings, "first": rows["id"][0], "rows": len(rows)}
    return stage, about, (about_stage(stage) or {}).get("about") == about


def staging_folder(task: ShardTask) -> Path:
    return Path(task.out, FOLDER, task.name)


def known_in(stage: Path, rows: pl.DataFrame) -> Known:
    found = staged([stage], rows["id"][0], rows["id"][-1])
    return {
        image_id: (row["status"], partial(load, path, row))
        for image_id, (path, row) in found.items()
    }


def of(known: Known, rows: pl.DataFrame) -> Known:
    return {image_id: known[image_id] for image_id in rows["id"] if image_id in known}


def packed_before(task: ShardTask) -> Known:
    """Of a finished shard, else nothing."""
    folder = Path(task.out)
    if (shard := finished(folder, task.name, task.settings)) is None:
        return {}
    reader = ShardReader(folder, shard)
    table = read_parquet(folder / f"{task.name}.parquet", MADE_BY, KINDS)
    rows = cast(pl.DataFrame, pl.from_arrow(table)).iter_rows(named=True)
    return {row["id"]: (row["status"], partial(unpacked, reader, row)) for row in rows}


def unpacked(reader: ShardReader, row: dict) -> Outcome:
    """The outcome that a sidecar's row, and its sample in the tar, were packed from."""
    if row["member"] < 0:
        return Outcome(row["status"], row["reason"])
    source = json.loads(reader.json(row["member"]))["source"]
    original = {name: value for name, value in source.items() if name not in ("from", "url")}
    jpeg = reader.jpeg(row["member"])
    return Outcome(row["status"], row["reason"], jpeg, row["width"], row["height"], original)
