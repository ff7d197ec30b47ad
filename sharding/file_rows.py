"""The parquet that sharding/annotations.py specifies, of data sets whose images are files in any
folder: one more column, file (str), is the image's path below the data set's folder.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet

from c2srt.files import whole_file
from c2srt.sharding.annotations import SCHEMA, TEXTS

FILE_SCHEMA = SCHEMA.append(pa.field("file", pa.string()))
GROUP_ROWS = 4096  # of the parquet; each row lists every category

Block = tuple[pl.DataFrame, np.ndarray, np.ndarray]
"""Images (columns id, file), and which categories are present and absent, bool [images, C]."""


def write_rows(out: Path, blocks: Iterable[Block], names: list[str]) -> None:
    """The parquet of FILE_SCHEMA, of blocks that are sorted by id; `names` [C] are sorted."""
    dictionary = pa.array(names, pa.string())
    empty = dict.fromkeys(TEXTS[:-1], "")
    with (
        whole_file(out) as temporary,
        pa.parquet.ParquetWriter(temporary, FILE_SCHEMA, compression="zstd") as writer,
    ):
        for rows, present, absent in blocks:
            values = {
                "id": rows["id"].to_list(),
                "file": rows["file"].to_list(),
                "listed": [True] * len(rows),
                "positive": name_lists(present, dictionary),
                "negative": name_lists(absent, dictionary),
            }
            unknown = {
                name: [empty.get(name)] * len(rows)
                for name in FILE_SCHEMA.names
                if name not in values
            }
            writer.write_table(pa.table(values | unknown, schema=FILE_SCHEMA))


def name_lists(marked: np.ndarray, names: pa.Array) -> pa.ListArray:
    """bool [n, C], names [C] → for each row the names that are marked."""
    offsets = np.concatenate([[0], marked.sum(1).cumsum()])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), names.take(pa.array(np.nonzero(marked)[1]))
    )
