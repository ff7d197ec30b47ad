"""JSON files of hundreds of megabytes, of which little is wanted: instances_train2014.json of
MS-COCO is 9/10 outlines.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from c2srt.opened import opening, wrong
from c2srt.shown import shown

AGAIN = "download it again"


def read_kept(path: Path, keys: tuple[str, ...]) -> Any:
    """The value of a JSON file; each object in it has lost its other keys as soon as it was read.
    Raises UserError where it is none.
    """

    def slim(found: dict[str, Any]) -> dict[str, Any]:
        return {key: found[key] for key in keys if key in found}

    with opening(path, "JSON", AGAIN), path.open(encoding="utf-8-sig") as file:
        return json.load(file, object_hook=slim)


def rows_of(value: Any, name: str, columns: Mapping[str, type], path: Path) -> pl.DataFrame:
    """The objects of the list `value[name]` as rows. Raises UserError where it is no such list, or
    one of them lacks a value of its column's type, int or str.
    """
    rows = value.get(name) if isinstance(value, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise wrong(path, f"has no list of objects {shown(name)}", AGAIN)
    for number, row in enumerate(rows, 1):
        if odd := [column for column, kind in columns.items() if type(row.get(column)) is not kind]:
            word = "number" if columns[odd[0]] is int else "text"
            raise wrong(path, f"has no {word} as {odd[0]} in {number:,} of {name}", AGAIN)
    with opening(path, f"a list of {name}", AGAIN):
        data = {column: [row[column] for row in rows] for column in columns}
        kinds = {int: pl.Int64, str: pl.String}
        return pl.DataFrame(data, {column: kinds[kind] for column, kind in columns.items()})
