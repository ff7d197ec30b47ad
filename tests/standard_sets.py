"""What the tests of published sets have in common: a reader of a small tree, its tables, and what
becomes of files that were cut off, reordered or changed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from c2srt.errors import UserError
from c2srt.sharding.config import DataConfig
from c2srt.sharding.readers import Reader, find_reader

Labels = dict[str, tuple[set[str], set[str]]]
"""The categories that are present and absent in each image, by its file."""


def set_reader(root: Path, layout: str, **keys: Any) -> Reader:
    return find_reader(DataConfig(layout=layout, root=str(root), splits=["train", "test"], **keys))


def tables(found: Reader, folder: Path) -> dict[str, Labels]:
    """What the reader makes of both splits; ids are sorted."""
    made = {}
    for split in ("train", "test"):
        found.write_inputs(split, folder / f"{split}.parquet")
        rows = pl.read_parquet(folder / f"{split}.parquet")
        assert rows["id"].is_sorted() and rows["id"].is_unique().all() and rows["listed"].all()
        made[split] = {
            row["file"]: (set(row["positive"]), set(row["negative"]))
            for row in rows.iter_rows(named=True)
        }
    return made


def sentence_of(read: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
