"""Converted images that wait to be put into shards, when they come in another order (packs) or
slowly (URLs).

A stage is a folder that appears whole or not at all: `images.bin` (converted JPEGs one after
another), `rows.parquet` (a row an image, sorted by id, with its place in images.bin) and
`stage.json` (what it was made from, and anything its maker reports). Everything below
`<out>/staging` is removed when the index has been written.
"""

import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Self, cast

import polars as pl

from c2srt.errors import UserError
from c2srt.files import whole_folder, write_json
from c2srt.opened import opening, parse_json, parsing, read_json, wrong
from c2srt.opened_tables import INTEGER, TEXT, read_parquet
from c2srt.sharding.outcome import Outcome

FOLDER = "staging"
COLUMNS = {
    "id": pl.String,
    "status": pl.String,
    "reason": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "offset": pl.Int64,
    "bytes": pl.Int64,
    "original": pl.String,
}
GROUP = 1 << 14
"""Rows that are read together: a shard wants some thousands of each of many packs."""
KINDS = {name: TEXT if kind == pl.String else INTEGER for name, kind in COLUMNS.items()}


def remedy(stage: Path) -> str:
    """What to do about a damaged stage: it is only waiting to be packed."""
    return f"remove {stage} and run the same command again"


def write_stage(
    stage: Path, results: Iterable[tuple[str, Outcome]], about: dict, report: dict
) -> None:
    """Stages (id, outcome) pairs as they come. `report` is read after the last of them, so their
    maker may fill it meanwhile.
    """
    with whole_folder(stage, is_stage) as folder:
        rows = []
        with (folder / "images.bin").open("wb") as file:
            for image_id, outcome in results:
                rows.append(
                    (
                        image_id,
                        outcome.status,
                        outcome.reason,
                        outcome.width,
                        outcome.height,
                        file.tell(),
                        len(outcome.jpeg),
                        json.dumps(outcome.original),
                    )
                )
                file.write(outcome.jpeg)
        write_table(
            folder / "rows.parquet",
            pl.DataFrame(rows, schema=COLUMNS, orient="row").sort("id"),
            group=GROUP,
        )
        write_json(folder / "stage.json", {"about": about, "report": report})


def is_stage(folder: Path) -> bool:
    """Whether a folder holds a stage, whole or not, and nothing else: it is made again."""
    return {path.name for path in folder.iterdir()} <= {"images.bin", "rows.parquet", "stage.json"}


def write_table(
    path: Path,
    table: pl.DataFrame,
    metadata: dict[str, str] | None = None,
    group: int | None = None,
) -> None:
    """A parquet file. polars would hide a full disk in an error of its own, so Python does the
    writing.
    """
    content = io.BytesIO()
    table.write_parquet(content, metadata=metadata, row_group_size=group)
    path.write_bytes(content.getvalue())


def about_stage(stage: Path, shape: type | None = None) -> dict | None:
    """The stage's {"about", "report"}, two objects that fit `shape`, or None if there is none that
    is whole: it is made again.
    """
    try:
        found = read_json(stage / "stage.json", remedy(stage), shape)
    except UserError:
        return None
    whole = all(isinstance(found.get(name), dict) for name in ("about", "report"))
    return found if whole else None


def staged(stages: Iterable[Path], first: str, last: str) -> dict[str, tuple[Path, dict]]:
    """id → (stage, row) for the ids from `first` to `last`; the first stage that has an id
    counts.
    """
    found: dict[str, tuple[Path, dict]] = {}
    for stage in stages:
        rows = cast(
            pl.DataFrame,
            pl.from_arrow(
                read_parquet(
                    stage / "rows.parquet", remedy(stage), KINDS, between=("id", first, last)
                )
            ),
        )
        for row in rows.filter(pl.col("id").is_between(pl.lit(first), pl.lit(last))).iter_rows(
            named=True
        ):
            found.setdefault(row["id"], (stage, row))
    return found


class Opened:
    """The files of stages, each opened once; use it in a `with`. Beyond MOST the one that was asked
    for longest ago is closed.
    """

    MOST = 128

    def __init__(self) -> None:
        self.files: dict[Path, tuple[Path, BinaryIO]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self.files:
            self.files.popitem()[1][1].close()

    def load(self, stage: Path, row: dict) -> Outcome:
        """The staged outcome of one row."""
        start, size = row["offset"], row["bytes"]
        path, file = self.file(stage)
        with parsing(path, "staged images", remedy(stage)):
            if not 0 <= start <= start + size <= os.fstat(file.fileno()).st_size:
                raise wrong(path, f"has no {size:,} bytes at {start:,}", remedy(stage))
            jpeg, original = os.pread(file.fileno(), size, start), parse_json(row["original"])
        if not isinstance(original, dict):
            raise wrong(
                stage / "rows.parquet",
                "describes an original by what is no JSON object",
                remedy(stage),
            )
        return Outcome(row["status"], row["reason"], jpeg, row["width"], row["height"], original)

    def file(self, stage: Path) -> tuple[Path, BinaryIO]:
        if (found := self.files.pop(stage, None)) is None:
            path = stage / "images.bin"
            with opening(path, "staged images", remedy(stage)):
                found = path, path.open("rb")
        self.files[stage] = found
        if len(self.files) > self.MOST:
            self.files.pop(next(iter(self.files)))[1].close()
        return found


def load(stage: Path, row: dict) -> Outcome:
    """The staged outcome of one row alone."""
    with Opened() as files:
        return files.load(stage, row)


def in_order(stages: Iterable[Path], ids: list[str], absent: Outcome) -> Iterator[Outcome]:
    """The outcomes of sorted `ids`; `absent` for those in no stage."""
    found = staged(stages, ids[0], ids[-1]) if ids else {}
    with Opened() as files:
        for image_id in ids:
            yield files.load(*found[image_id]) if image_id in found else absent
