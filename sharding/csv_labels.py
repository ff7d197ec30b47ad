"""The rows of a table → the labels of each image.

A row is an image with its labels in one cell (`dog|red car`), in several columns, or with one
label; rows of one image are put together. Columns of 0 and 1 are categories by their names.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c2srt.data_keys import CsvKeys
from c2srt.errors import UserError
from c2srt.sharding.csv_folders import labelled_files
from c2srt.sharding.csv_table import Row, read_rows
from c2srt.shown import shown

MARKS = ("|", ";", ",")
"""Between labels in a cell: the first of these that any cell has."""
WORDS = {"comma": ",", "semicolon": ";", "pipe": "|", "tab": "\t", "none": ""}
YES, NO, UNKNOWN = ("1", "1.0", "true"), ("0", "0.0", "-1", "-1.0", "false"), ("",)


@dataclass
class Labels:
    """Of an image."""

    present: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)


@dataclass
class Table:
    """`images`: by path, in the order of their first rows. `notes`: what was made of it, in
    sentences.
    """

    images: dict[str, Labels] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_table(path: Path, keys: CsvKeys) -> Table:
    """Of a table, or of a folder with a folder for each label. Raises UserError where it is none,
    has no image, or a row has none.
    """
    if path.is_dir():
        files = labelled_files(path)
        return Table({file: Labels({tidy(label)}) for file, label in files}, [])
    present, absent = listed(keys.labels), listed(keys.absent)
    needed = {keys.image: "data.image"}
    needed |= dict.fromkeys([name for name in present if name != "*"], "data.labels")
    needed |= dict.fromkeys(absent, "data.absent")
    rows = list(read_rows(path, needed, keys.separator))
    if not rows:
        raise UserError(f"{path} has no image: a header, but no row follows")
    if present == ["*"]:
        present = [name for name in rows[0][1] if name and name not in (keys.image, *absent)]
    table = Table()
    images = [image_of(row, path, keys) for row in rows]
    if is_bits(rows, present):
        table.notes.append(
            f"{len(present):,} columns of {path.name} hold 0 and 1: their names are labels"
        )
        found = [bits_of(row, present, path) for row in rows]
    else:
        found = words_of(rows, present, absent, keys.label_separator, table)
    gather(images, found, table, path)
    return table


def listed(value: Any) -> list[str]:
    """A key's value: text, or a list of text."""
    if value is None:
        return []
    names = value if isinstance(value, list) else str(value).split(",")
    return [str(name).strip() for name in names if str(name).strip()]


def image_of(row: Row, path: Path, keys: CsvKeys) -> str:
    """The path of a row's image, which need not exist."""
    number, cells = row
    name = cells[keys.image]
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise UserError(f"{path}, line {number:,} has no path in column {shown(keys.image)}")
    if "://" in name:
        raise UserError(
            f"{path}, line {number:,}: {shown(name)} is an address: download the images, and give"
            " their paths"
        )
    return os.path.normpath(os.path.join(os.path.abspath(keys.root or path.parent), name))


def text_of(cell: Any) -> str:
    """A value of JSON as a cell of a CSV has it."""
    return "" if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell)


def is_bits(rows: list[Row], columns: list[str]) -> bool:
    """Whether several columns hold nothing but 0, 1 and blanks, and so are categories."""
    known = {*YES, *NO, *UNKNOWN}
    values = {text_of(cells.get(name)).strip().lower() for _, cells in rows for name in columns}
    return len(columns) > 1 and values <= known and values != set(UNKNOWN)


def bits_of(row: Row, columns: list[str], path: Path) -> Labels:
    values = {name: text_of(row[1].get(name)).strip().lower() for name in columns}
    return Labels(
        {tidy(name) for name, value in values.items() if value in YES},
        {tidy(name) for name, value in values.items() if value in NO},
    )


def words_of(
    rows: list[Row], present: list[str], absent: list[str], separator: str | None, table: Table
) -> list[Labels]:
    """The labels of each row, from cells that hold their names; says what parts them in a cell."""
    mark = WORDS.get(separator or "", separator)
    if mark is None:
        texts = [
            cells[name]
            for _, cells in rows
            for name in (*present, *absent)
            if isinstance(cells.get(name), str)
        ]
        mark = next((mark for mark in MARKS if any(mark in text for text in texts)), "")
        if mark:
            table.notes.append(
                f"labels in a cell are parted by {mark!r} (another: data.label_separator=…, or"
                " none)"
            )
    return [
        Labels(
            {label for name in present for label in labels_in(cells.get(name), mark)},
            {label for name in absent for label in labels_in(cells.get(name), mark)},
        )
        for _, cells in rows
    ]


def labels_in(cell: Any, mark: str) -> list[str]:
    """The labels in a cell, or in a list of JSON."""
    parts = cell if isinstance(cell, list) else [text_of(cell)]
    if mark and not isinstance(cell, list):
        parts = parts[0].split(mark)
    return [label for part in parts if (label := tidy(text_of(part)))]


def tidy(label: str) -> str:
    """Without blanks at its ends, and with one between its words."""
    return " ".join(label.split())


def gather(images: list[str], found: list[Labels], table: Table, path: Path) -> None:
    """Puts the rows of one image together. A label that is present and absent there is neither."""
    for image, labels in zip(images, found, strict=True):
        known = table.images.setdefault(image, Labels())
        known.present |= labels.present
        known.absent |= labels.absent
    if len(images) > len(table.images):
        table.notes.append(
            f"{len(images):,} rows of {path.name} are of {len(table.images):,} images: the rows of"
            " an image were put together"
        )
    clashes = 0
    for labels in table.images.values():
        both = labels.present & labels.absent
        labels.present -= both
        labels.absent -= both
        clashes += len(both)
    if clashes:
        table.notes.append(
            f"{clashes:,} labels are both present and absent in an image: taken as unknown there"
        )
