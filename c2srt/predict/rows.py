"""One table of the parts' rows, row by row: .jsonl, .csv or .parquet.

    .jsonl      {"image", "labels": [{"label", "score"}…]} or {"image", "error"} a line
    .csv        image, rank, label, score, error: a row a label, best first; one with an empty label
                where a picture has none
    .parquet    image, labels (list of text), scores (list of float32), error: a row a picture

Where labels have ids of their own, they stand beside them as `id` (in .parquet `ids`).
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from c2srt.files import whole_file
from c2srt.shown import csv_cell


def assemble(parts: list[Path], out: Path, with_ids: bool) -> None:
    """Writes `out`, whole or not at all, from the files of its parts, in order."""
    write = WRITERS[out.suffix.lower()]
    with whole_file(out) as temporary:
        write(parts, temporary, with_ids)


def rows_in(part: Path) -> Iterator[dict[str, Any]]:
    with part.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def write_jsonl(parts: list[Path], path: Path, with_ids: bool) -> None:
    with path.open("wb") as file:
        for part in parts:
            with part.open("rb") as rows:
                shutil.copyfileobj(rows, file)


def write_csv(parts: list[Path], path: Path, with_ids: bool) -> None:
    header = ["image", "rank", "label", *["id"] * with_ids, "score", "error"]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, header, lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        for part in parts:
            for row in rows_in(part):
                table.writerows(cells_of(row))


def cells_of(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A CSV's rows of one picture."""
    image = {"image": csv_cell(row["image"])}
    if not row.get("labels"):
        yield image | {"error": csv_cell(row.get("error", ""))}
    for rank, found in enumerate(row.get("labels", ()), 1):
        named = {key: csv_cell(found[key]) for key in ("label", "id") if key in found}
        yield image | named | {"rank": rank, "score": found["score"]}


def write_parquet(parts: list[Path], path: Path, with_ids: bool) -> None:
    """A row group a part: memory does not grow with their number."""
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.list_(pa.string())
    ids = [("ids", texts)] * with_ids
    scores = [("scores", pa.list_(pa.float32())), ("error", pa.string())]
    schema = pa.schema([("image", pa.string()), ("labels", texts), *ids, *scores])
    with parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            writer.write_table(pa.Table.from_pylist(list(map(columns_of, rows_in(part))), schema))


def columns_of(row: dict[str, Any]) -> dict[str, Any]:
    """A parquet's row of one picture."""
    found = row.get("labels", ())
    return {
        "image": row["image"],
        "labels": [one["label"] for one in found],
        "ids": [one.get("id", "") for one in found],
        "scores": [one["score"] for one in found],
        "error": row.get("error"),
    }


WRITERS: dict[str, Callable[[list[Path], Path, bool], None]] = {
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
}
