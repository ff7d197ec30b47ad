"""The reader (sharding/readers.py) of tables of one's own: paths of images, and their labels.

    csv_table.py        a .csv, .tsv or .jsonl → rows
    csv_labels.py       rows → the labels of each image
    csv_folders.py      in the place of both: a folder with a folder for each label
    csv_splits.py       which images are in which split
    csv_categories.py   which labels are seen

An image's id is its name's letters and digits, with a hash of its path below the folder of
data.train (or data.root), so that what is moved as a whole keeps its ids. Training images have the
seen labels only, all others have all of them. What does not exist, or is no picture, becomes a row
with its reason, as in every layout.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from c2srt.data_keys import CsvKeys
from c2srt.files import hash_of
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.counts import Acceptance, acceptance
from c2srt.sharding.csv_categories import Names, categories, read_names, renamed, say
from c2srt.sharding.csv_folders import labelled_files
from c2srt.sharding.csv_labels import Labels
from c2srt.sharding.csv_splits import (
    Lists,
    base_of,
    later_than,
    read_lists,
    relative,
    same_bytes,
    tables_of,
)
from c2srt.sharding.file_rows import GROUP_ROWS, Block, write_rows
from c2srt.sharding.folders import FileSource
from c2srt.sharding.label_report import LabelReport
from c2srt.vocabulary import Vocabulary

SLUG = 60  # letters of an image's name in its id
TABLE_KEYS = tuple(
    each.name
    for each in fields(CsvKeys)
    if each.name not in ("name", "layout", "groups", "exclude")
)
"""Those that decide what a split's table holds."""


@dataclass(frozen=True)
class OwnTables:
    """The reader of this layout."""

    data: DataConfig
    report = LabelReport
    vocabulary_splits = ()

    @cached_property
    def names(self) -> Names:
        return read_names(self.data)

    @cached_property
    def lists(self) -> Lists:
        lists = read_lists(self.data)
        renamed(lists, self.names)
        return lists

    @cached_property
    def found(self) -> Vocabulary:
        return categories(self.lists, self.data, self.names)

    def made_from(self, split: str) -> dict[str, Any]:
        """Every split depends on all tables: which labels there are, and which images are left."""
        used = list(tables_of(self.data).values())
        used += [
            Path(name)
            for name in (self.data.names, self.data.unseen)
            if isinstance(name, str) and os.path.isfile(name)
        ]
        return {
            "csvs": {str(path): state_of(path) for path in used if path.exists()},
            "keys": {name: getattr(self.data, name) for name in TABLE_KEYS},
        }

    def write_inputs(self, split: str, out: Path) -> LabelReport:
        images, notes = self.lists.images[split], self.lists.notes[split]
        later = [
            on_disk(path)
            for other in later_than(split)
            for path in self.lists.images.get(other, ())
        ]
        here = {on_disk(path): path for path in images} if later else {}
        copies = {here[path] for path in same_bytes(here, later)}
        left = {path: labels for path, labels in images.items() if path not in copies}
        columns = self.found.mids[: self.found.seen_count] if split == "train" else self.found.mids
        report = LabelReport(split, len(left), len(columns), copies=len(copies), notes=notes)
        report.closed = self.data.closed
        write_rows(out, self.blocks(left, sorted(columns), report), sorted(columns))
        return report

    def blocks(
        self, images: dict[str, Labels], names: list[str], report: LabelReport
    ) -> Iterator[Block]:
        """The images, sorted by id, with their labels in the columns of `names`."""
        base, column = base_of(self.data), {name: at for at, name in enumerate(names)}
        files = {path: relative(path, base) for path in images}
        order = sorted((id_of(file), path) for path, file in files.items())
        for start in range(0, len(order), GROUP_ROWS):
            rows = order[start : start + GROUP_ROWS]
            present = np.zeros((len(rows), len(names)), bool)
            absent = np.zeros_like(present)
            for row, (_, path) in enumerate(rows):
                for labels, marked in (
                    (images[path].present, present),
                    (images[path].absent, absent),
                ):
                    marked[row, [column[label] for label in labels if label in column]] = True
            report.positives += int(present.sum())
            report.without_positive += int((~present.any(1)).sum())
            frame = pl.DataFrame(
                {"id": [each for each, _ in rows], "file": [files[path] for _, path in rows]},
                schema={"id": pl.String, "file": pl.String},
            )
            yield frame, present, ~present if self.data.closed else absent

    def vocabulary(self, inputs: dict[str, Path]) -> Vocabulary:
        say(self.found, self.data, bool(self.names.of))
        return self.found

    def source(self, config: Config) -> FileSource:
        return FileSource(base_of(self.data), "files", placed)

    def acceptance(
        self, vocabulary: Vocabulary, inputs: dict[str, Path], packed: dict[str, int]
    ) -> Acceptance:
        return acceptance(vocabulary, inputs, packed)


def find(data: DataConfig) -> OwnTables:
    """The tables that the keys name. Raises UserError where they do not fit."""
    tables_of(data)
    return OwnTables(data)


def state_of(path: Path) -> list[Any]:
    """What shows that a table was changed: size and time; or a folder: which pictures are where."""
    if path.is_dir():
        return [hash_of([file for file, _ in labelled_files(path)])]
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def id_of(file: str) -> str:
    """What an image is called (c2srt/shards.py): letters and digits of its name, and 16 hex digits
    of a hash of its path.
    """
    name = unicodedata.normalize("NFKD", Path(file).stem).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^0-9A-Za-z_]+", "-", name).strip("-")[:SLUG] or "image"
    return f"{slug}-{hashlib.sha256(file.encode(errors='surrogateescape')).hexdigest()[:16]}"


def placed(path: str) -> str:
    """As `on_disk`, of a path that may go up and down again."""
    return on_disk(os.path.normpath(path))


def on_disk(path: str) -> str:
    """The path as the disk has it: a file's name may be written with composed letters (ü) in a
    table and with combining ones there, or the other way round, and a table's cell may have blanks
    around it.
    """
    if os.path.lexists(path):
        return path
    forms = [unicodedata.normalize(form, path) for form in ("NFC", "NFD")]
    folder, name = os.path.split(path)
    return next(filter(os.path.lexists, [*forms, os.path.join(folder, name.strip())]), path)
