"""Converted images that wait to be put into shards, when they come in another order (packs) or slowly (URLs).

A stage is a folder that appears whole or not at all: `images.bin` (converted JPEGs one after another), `rows.parquet` (a row an
image, sorted by id, with its place in images.bin) and `stage.json` (what it was made from, and anything its maker reports).
Everything below `<out>/staging` is removed when the index has been written.
"""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from c2srt.files import read_json, whole_folder, write_json
from c2srt.hints import Command
from sharding.outcome import Outcome

FOLDER = "staging"
COLUMNS = {"id": pl.String, "status": pl.String, "reason": pl.String, "width": pl.Int32, "height": pl.Int32, "offset": pl.Int64,
           "bytes": pl.Int64, "original": pl.String}


def write_stage(stage: Path, results: Iterable[tuple[str, Outcome]], about: dict, report: dict) -> None:
    """Stages (id, outcome) pairs as they come. `report` is read after the last of them, so their maker may fill it meanwhile."""
    with whole_folder(stage) as folder:
        rows = []
        with (folder / "images.bin").open("wb") as file:
            for image_id, outcome in results:
                rows.append((image_id, outcome.status, outcome.reason, outcome.width, outcome.height, file.tell(),
                             len(outcome.jpeg), json.dumps(outcome.original)))
                file.write(outcome.jpeg)
        write_table(folder / "rows.parquet", pl.DataFrame(rows, schema=COLUMNS, orient="row").sort("id"))
        write_json(folder / "stage.json", {"about": about, "report": report})


def write_table(path: Path, table: pl.DataFrame, metadata: dict[str, str] | None = None) -> None:
    """A parquet file. polars would hide a full disk in an error of its own, so Python does the writing."""
    content = io.BytesIO()
    table.write_parquet(content, metadata=metadata)
    path.write_bytes(content.getbuffer())


def about_stage(stage: Path) -> dict | None:
    """The stage's {"about", "report"}, or None if there is no whole stage."""
    return read_json(stage / "stage.json", Command("shard")) if (stage / "stage.json").exists() else None


def staged(stages: Iterable[Path], first: str, last: str) -> dict[str, tuple[Path, dict]]:
    """id → (stage, row) for the ids from `first` to `last`; the first stage that has an id counts."""
    found: dict[str, tuple[Path, dict]] = {}
    for stage in stages:
        between = pl.col("id").is_between(pl.lit(first), pl.lit(last))
        rows = pl.scan_parquet(stage / "rows.parquet", glob=False).filter(between).collect()
        for row in rows.iter_rows(named=True):
            found.setdefault(row["id"], (stage, row))
    return found


def load(stage: Path, row: dict) -> Outcome:
    """The staged outcome of one row."""
    with (stage / "images.bin").open("rb") as file:
        file.seek(row["offset"])
        jpeg = file.read(row["bytes"])
    return Outcome(row["status"], row["reason"], jpeg, row["width"], row["height"], json.loads(row["original"]))


def in_order(stages: Iterable[Path], ids: list[str], absent: Outcome) -> Iterator[Outcome]:
    """The outcomes of sorted `ids`; `absent` for those in no stage."""
    found = staged(stages, ids[0], ids[-1]) if ids else {}
    for image_id in ids:
        yield load(*found[image_id]) if image_id in found else absent
