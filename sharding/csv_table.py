"""A table of one's own → rows of text: .csv and .tsv with a header, .jsonl with an object a line.

Which character parts the columns is found from the header; what a cell means is said in
sharding/csv_labels.py.
"""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from c2srt.errors import UserError
from c2srt.opened import check_regular, parse_json, read_lines, reason
from c2srt.pictures import HEIF_SUFFIXES, SUFFIXES
from c2srt.sharding.csvs import not_utf8
from c2srt.shown import shown

JSON_LINES = (".jsonl", ".ndjson")
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t"}
PICTURES = (*SUFFIXES, *HEIF_SUFFIXES)
"""Also those that cannot be read here: they become rows with that reason."""
AGAIN = "correct its path"
BYTES = 1 << 40  # of a table of lines: as many as there are

Row = tuple[int, dict[str, Any]]
"""The number of its line, and its cells by column: text, or what JSON has there."""


def read_rows(path: Path, needed: dict[str, str], separator: str | None) -> Iterator[Row]:
    """The rows of a table that are not empty. `needed`: the columns that it must have, each with
    the key that names it. Raises UserError where the table or one of its rows is none.
    """
    check_regular(path, AGAIN)
    if path.suffix.lower() in JSON_LINES:
        yield from json_rows(path, needed)
    else:
        yield from csv_rows(path, needed, separator)


def json_rows(path: Path, needed: dict[str, str]) -> Iterator[Row]:
    for number, line in read_lines(path, AGAIN, BYTES):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number:,} is not valid JSON ({reason(error)}): a .jsonl file has"
                " an object a line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number:,} is no JSON object: correct it")
        for column in needed.keys() - row.keys():
            raise without_column(path, column, needed[column], list(row))
        yield number, row


def csv_rows(path: Path, needed: dict[str, str], separator: str | None) -> Iterator[Row]:
    with opened(path) as file:
        first = next((line for line in file if line.strip()), "")
    mark, columns = header_of(path, first, needed, separator)
    with opened(path) as file:
        lines = csv.reader(file, delimiter=mark)
        rows = ((lines.line_num, fields) for fields in lines if "".join(fields).strip())
        next(rows)  # the header
        for number, fields in rows:
            fields = fields[: len(columns)] + [f for f in fields[len(columns) :] if f.strip()]
            if len(fields) != len(columns):
                raise UserError(
                    f"{path}, line {number:,} has {len(fields)} cells, the header"
                    f" {len(columns)}: put a cell that holds {mark!r} in double quotes"
                )
            yield number, dict(zip(columns, fields, strict=True))


@contextmanager
def opened(path: Path) -> Iterator[io.TextIOBase]:
    """A text without its BOM. Raises UserError on what is wrong while it is read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except csv.Error as error:
        raise UserError(
            f"{path} is no table ({reason(error)}): is a double quote in it never closed?"
        ) from None


def header_of(
    path: Path, line: str, needed: dict[str, str], separator: str | None
) -> tuple[str, list[str]]:
    """(what parts the columns, their names). Raises UserError where a column is absent."""
    known = SEPARATORS.get(separator or "", separator)
    if known is not None and len(known) != 1:
        raise UserError(
            f"data.separator={shown(known)} is none of {', '.join(SEPARATORS)}, nor a character"
        )
    found = {mark: fields_of(line, mark) for mark in ([known] if known else SEPARATORS.values())}
    mark = max(found, key=lambda mark: (len(needed.keys() & set(found[mark])), len(found[mark])))
    columns = found[mark]
    if len(twice := [name for name in columns if name and columns.count(name) > 1]):
        raise UserError(f"{path} has two columns {shown(twice[0])}: rename one")
    for column in needed:
        if column not in columns:
            raise without_column(path, column, needed[column], columns)
    return mark, columns


def fields_of(line: str, mark: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line], delimiter=mark), [])]


def without_column(path: Path, column: str, key: str, columns: list[str]) -> UserError:
    """Its columns lack one that is needed: because they are none, or have other names."""
    if not any(columns):
        return UserError(f"{path} is empty: its first line names the columns, such as image,labels")
    if any(name.lower().endswith(PICTURES) for name in columns):
        return UserError(
            f"{path} has no header (it begins with {shown(','.join(columns))}): put a line that"
            " names the columns before it, such as image,labels"
        )
    return UserError(
        f"{path} has no column {shown(column)} (it has {shown(', '.join(columns), 120)}): name"
        f" yours with {key}=…"
    )
