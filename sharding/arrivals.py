"""How much of a download arrived, and why the rest did not: `<out>/downloads.csv`.

Columns host, status, reason, images: a row for each that occurs among the images without a file,
most images first. Reasons of other statuses than unreachable, refused and missing tell of one image
each, and stand in the sidecars only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import polars as pl

from c2srt.files import whole_file
from c2srt.opened_tables import TEXT, read_parquet
from c2srt.sharding.pack import ShardTask
from c2srt.sharding.pieces import staging_folder
from c2srt.sharding.staging import remedy
from c2srt.shown import csv_cell, printable
from c2srt.storage import mirror

FILE = "downloads.csv"
UNREACHABLE = "unreachable"
NOT_ASKED = ("no_labels", "no_url", "excluded")
OF_SITES = (UNREACHABLE, "refused", "missing")
HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#]*@)?([^/?#]*)"
URL = r"^[A-Za-z][A-Za-z0-9+.-]*://\S* "
LINES = 10


@dataclass(frozen=True)
class Arrivals:
    """Of the images that were asked for."""

    asked: int
    unreachable: int

    def __add__(self, other: "Arrivals") -> "Arrivals":
        return Arrivals(self.asked + other.asked, self.unreachable + other.unreachable)

    @property
    def share(self) -> float:
        """Of unreachable ones, 0…1."""
        return self.unreachable / max(1, self.asked)


def counted(statuses: pl.DataFrame | pl.LazyFrame) -> Arrivals:
    """Of a table with a column `status`."""
    asked = pl.col("status").is_in(NOT_ASKED).not_()
    lost = pl.col("status") == UNREACHABLE
    found = statuses.lazy().select(asked=asked.sum(), unreachable=lost.sum()).collect()
    return Arrivals(**found.row(0, named=True))


def in_sidecars(out: Path, names: list[str]) -> pl.LazyFrame:
    """Columns name, id, status, reason of shards that this command made or found finished."""
    columns = ["name", "id", "status", "reason"]
    if not names:
        return pl.LazyFrame(schema=dict.fromkeys(columns, pl.String))
    files = [out / f"{name}.parquet" for name in names]
    for file in files:
        mirror.fetched(file)
    name = pl.col("name").str.split("/").list.last().str.strip_suffix(".parquet")
    rows = pl.scan_parquet(files, glob=False, include_file_paths="name")
    return rows.with_columns(name).select(columns)


def in_stages(task: ShardTask) -> pl.DataFrame:
    """Columns name, id, status, reason of a shard that waits. Raises UserError on a damaged
    stage.
    """
    columns = ("id", "status", "reason")
    tables = [
        read_parquet(stage / "rows.parquet", remedy(stage), dict.fromkeys(columns, TEXT))
        for stage in sorted(staging_folder(task).glob("[0-9]" * 6))
    ]
    schema = dict.fromkeys(columns, pl.String)
    found = [cast(pl.DataFrame, pl.from_arrow(table)) for table in tables]
    rows = pl.concat([pl.DataFrame(schema=schema), *found])
    return rows.select(pl.lit(task.name).alias("name"), *columns)


def report(rows: pl.LazyFrame, inputs: list[Path]) -> pl.DataFrame:
    """The table above, of rows with id, status, reason; `inputs` have the URLs."""
    lost = rows.filter(pl.col("status").is_in(("ok", *NOT_ASKED)).not_()).collect()
    asked = pl.col("id").is_in(lost["id"].implode())
    urls = [pl.scan_parquet(each, glob=False).select("id", "url").filter(asked) for each in inputs]
    host = pl.col("url").str.extract(HOST).str.to_lowercase().fill_null("")
    reason = pl.col("reason").str.replace(URL, "")
    found = lost.join(pl.concat(urls).unique("id").collect(), on="id", how="left").select(
        host.alias("host"),
        "status",
        pl.when(pl.col("status").is_in(OF_SITES)).then(reason).otherwise(pl.lit("")),
        pl.lit(1, pl.Int64).alias("images"),
    )
    return added([found])


def added(tables: list[pl.DataFrame]) -> pl.DataFrame:
    """One table of several."""
    found = pl.concat(tables).group_by("host", "status", "reason").agg(pl.col("images").sum())
    by = ["images", "host", "status", "reason"]
    return found.sort(by, descending=[True, False, False, False])


def save(table: pl.DataFrame, out: Path) -> None:
    """Raises UserError on a full disk, or a folder that cannot be written."""
    texts = pl.col("host", "status", "reason").map_elements(csv_cell, pl.String)
    with whole_file(out / FILE) as temporary:
        temporary.write_text(table.with_columns(texts).write_csv(), encoding="utf-8")


def lines(table: pl.DataFrame) -> list[str]:
    """The largest rows for people."""
    if table.is_empty():
        return []
    shown = [
        f"{images:>11,} {status:<14} {printable(host or '(no host)'):<30} {printable(reason)}"
        for host, status, reason, images in table.head(LINES).iter_rows()
    ]
    more = [f"and {len(table) - LINES:,} more in {FILE}"] if len(table) > LINES else []
    return ["images that did not arrive:", *shown, *more]
