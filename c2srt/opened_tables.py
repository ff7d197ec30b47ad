"""Checked openers of tables, parquet files and CSVs, as those of c2srt/opened.py.

pyarrow and polars are imported where they are used.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from c2srt.opened import TEXT_BYTES, Remedy, opening, read_bytes, wrong
from c2srt.shown import shown

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

TABLE_BYTES = 512 << 20
"""Of a parquet file, decompressed: the rows of a CVDF pack have about 100 MiB."""
TEXT, INTEGER, NUMBER = "text", "whole numbers", "numbers"


def read_parquet(
    path: Path,
    remedy: Remedy,
    columns: Mapping[str, str],
    may_lack: tuple[str, ...] = (),
    between: tuple[str, str, str] | None = None,
) -> "pa.Table":
    """The named columns (name → TEXT, INTEGER or NUMBER), read by one thread: a pool hangs in
    forked workers.

    Only cells of columns that `may_lack` them may be empty. `between` is a column of text, and the
    first and last of its values that are wanted: groups of rows without any are not read. A row has
    an id of its own, so there are never more of them than bytes. Read by pyarrow: a page that
    claims more than there is memory makes polars end the process, as does a column's statistics of
    the wrong type pyarrow, so nothing asks for them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_parquet(path, remedy, columns)
    with opening(path, "parquet", remedy), pq.ParquetFile(path, pre_buffer=False) as file:
        groups = [
            number
            for number in range(file.num_row_groups)
            if between is None
            or has_any(file.read_row_group(number, between[:1], use_threads=False), *between[1:])
        ]
        table = file.read_row_groups(groups, columns=list(columns), use_threads=False)
        table.validate(full=True)
    # Without the notes of schema and fields: they may be no text, on which polars panics.
    table = pa.Table.from_arrays([table[name] for name in columns], names=list(columns))
    if empty := [name for name in columns if name not in may_lack and table[name].null_count]:
        raise wrong(path, f"has empty cells in column {empty[0]}", remedy)
    return table


def as_numpy(column: "pa.ChunkedArray") -> np.ndarray:
    """A column of whole numbers or text without empty cells, [rows]. Its own `to_numpy` would load
    pandas first, a second in every loader process, however short it lives.
    """
    if is_of(column.type, TEXT):
        return np.array(column.to_pylist(), object)
    return np.from_dlpack(column.combine_chunks())


def has_any(values: "pa.Table", first: str, last: str) -> bool:
    """Whether a single column of text has values from `first` to `last`. pyarrow's own comparison
    would load its whole list of functions, and pandas where that is installed: 0.2 CPU seconds in
    every process of a job.
    """
    import polars as pl
    import pyarrow as pa

    values.validate(full=True)
    bare = pa.Table.from_arrays(values.columns, names=["text"])
    texts = cast(pl.DataFrame, pl.from_arrow(bare))["text"]
    return bool(texts.is_between(pl.lit(first), pl.lit(last)).any())


def check_parquet(path: Path, remedy: Remedy, columns: Mapping[str, str]) -> None:
    """Raises UserError unless the footer of a parquet file has the columns, and claims no more rows
    and bytes than can be.
    """
    import pyarrow.parquet as pq

    with opening(path, "parquet", remedy), pq.ParquetFile(path, pre_buffer=False) as file:
        schema, about = file.schema_arrow, file.metadata
        for name, kind in columns.items():
            if not schema.get_all_field_indices(name):
                raise wrong(path, f"lacks the column {name}", remedy)
            if not is_of(schema.field(name).type, kind):
                raise wrong(
                    path,
                    f"has {shown(str(schema.field(name).type), 30)} as column {name}, not {kind}",
                    remedy,
                )
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
        if (
            about.num_rows > path.stat().st_size
            or sum(group.total_byte_size for group in groups) > TABLE_BYTES
        ):
            raise wrong(path, f"claims {about.num_rows:,} rows, more than it can hold", remedy)


def parquet_note(path: Path, remedy: Remedy, key: str) -> bytes:
    """What the metadata of a parquet file keep under `key`."""
    import pyarrow.parquet as pq

    with opening(path, "parquet", remedy), pq.ParquetFile(path, pre_buffer=False) as file:
        notes = file.metadata.metadata or {}
    if key.encode() not in notes:
        raise wrong(path, f"has no note {key!r}", remedy)
    return notes[key.encode()]


def is_of(kind: "pa.DataType", wanted: str) -> bool:
    import pyarrow.types as types

    if wanted == TEXT:
        return types.is_string(kind) or types.is_large_string(kind)
    return types.is_integer(kind) or wanted == NUMBER and types.is_floating(kind)


def read_csv(path: Path, remedy: Remedy, columns: Mapping[str, Any]) -> "pl.DataFrame":
    """The named columns (name → polars type) of a CSV with a header."""
    import polars as pl

    content = read_bytes(path, remedy, TEXT_BYTES, "a CSV")
    with opening(path, "a CSV", remedy):
        header = next(csv.reader(io.StringIO(content.split(b"\n", 1)[0].decode("utf-8-sig"))), [])
        if absent := [name for name in columns if name not in header]:
            raise wrong(path, f"has no column {absent[0]}", remedy)
        return pl.read_csv(
            content, columns=list(columns), schema_overrides=dict(columns), glob=False
        )


def csv_header(path: Path, remedy: Remedy) -> list[str]:
    """The names of a CSV's columns."""
    with opening(path, "a CSV", remedy), path.open("rb") as file:
        return next(csv.reader(io.StringIO(file.readline(TEXT_BYTES).decode("utf-8-sig"))), [])
