"""What the readers (sharding/readers.py) of published sets of single files share: a set's own
module says only what its files hold.

Each image has every category of the set present, absent or unknown. `data.classes` names a
published division of the categories into seen and unseen ones; training images have the seen ones
only, all others have both.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.scratch import origin
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.counts import Acceptance, Count
from c2srt.sharding.file_rows import GROUP_ROWS, Block, write_rows
from c2srt.sharding.folders import FileSource
from c2srt.sharding.label_report import LabelReport
from c2srt.sharding.large_json import AGAIN
from c2srt.shown import shown
from c2srt.vocabulary import Vocabulary

log = logging.getLogger(__name__)

ALL = "all"
"""`data.classes`: every category is seen."""
LISTED = "images listed"
POSITIVES = "positives per image that has one"


@dataclass(frozen=True)
class Images:
    """Those of one split. `ids` and `files` (paths below the set's folder): columns of `frame`, in
    any order; `present` bool [images, categories], and where that is not known, `unknown`.
    """

    frame: pl.DataFrame
    present: np.ndarray
    unknown: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Classes:
    """C categories: what the files call them, their names, and which are unseen; one that is
    neither seen nor unseen is left out.
    """

    mids: tuple[str, ...]
    names: tuple[str, ...]
    seen: tuple[int, ...]
    unseen: tuple[int, ...] = ()

    @property
    def vocabulary(self) -> Vocabulary:
        columns = (*self.seen, *self.unseen)
        return Vocabulary(
            tuple(self.mids[column] for column in columns),
            tuple(self.names[column] for column in columns),
            len(self.seen),
        )


def shipped_classes(name: str, division: str | None) -> Classes:
    """Of data_files/<name>_classes.tsv, whose columns are what the files say, the name if that
    differs, and a column for each division: seen, unseen or empty. Raises UserError on a division
    that is none.
    """
    text = files("c2srt").joinpath(f"data_files/{name}_classes.tsv").read_text(encoding="utf-8")
    header, *rows = (line.split("\t") for line in text.splitlines())
    divisions = [column for column in header if "/" in column]
    if division not in (ALL, *divisions):
        raise UserError(f"data.classes={shown(division)} is none of {', '.join((*divisions, ALL))}")
    word = header.index("word") if "word" in header else 0
    said = [row[header.index(str(division))] if division != ALL else "seen" for row in rows]
    seen, unseen = (
        tuple(column for column, each in enumerate(said) if each == which)
        for which in ("seen", "unseen")
    )
    mids, names = (tuple(row[column] for row in rows) for column in (0, word))
    return Classes(mids, names, seen, unseen)


class StandardSet(ABC):
    """The reader of one set. Methods raise UserError on files that are absent or damaged."""

    title: str
    report = LabelReport
    vocabulary_splits = ()
    keys: tuple[str, ...] = ("classes",)
    """Of DataConfig, those that decide what a split's table holds."""

    def __init__(self, data: DataConfig, root: Path) -> None:
        self.data, self.root = data, root

    @property
    @abstractmethod
    def classes(self) -> Classes: ...

    @abstractmethod
    def files(self, split: str) -> list[Path]:
        """Those that the split's table is made from. Raises UserError naming the first that is not
        there.
        """

    @abstractmethod
    def read(self, split: str) -> Images:
        """The split's images, with the categories of `classes` in its order."""

    @abstractmethod
    def published(self) -> dict[str, float]:
        """What is published of the counts of `acceptance`, by their sentence."""

    def chosen(self, split: str, images: Images) -> np.ndarray:
        """Which of the images belong to the split, bool [images]: all."""
        return np.ones(len(images.frame), bool)

    def made_from(self, split: str) -> dict[str, Any]:
        """Size and modification time (ns) of each file, and the keys."""
        used = self.files(split)
        return {
            "csvs": {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in used},
            "keys": {name: getattr(self.data, name) for name in self.keys},
        }

    def write_inputs(self, split: str, out: Path) -> LabelReport:
        """Writes the split's parquet, sorted by id. Raises UserError where no image is left."""
        self.files(split)
        images = self.read(split)
        kept = np.flatnonzero(self.chosen(split, images))
        if not len(kept):
            raise UserError(
                f"{self.root}: no image is left for {split}: is it all of {self.title}?"
            )
        order = kept[images.frame[kept]["id"].arg_sort().to_numpy()]
        frame = images.frame[order]
        twice = frame.filter(pl.col("id").is_duplicated())
        if len(twice):
            raise UserError(f"{self.root}: image {shown(twice['file'][0])} is there twice: {AGAIN}")
        columns = [*self.classes.seen, *(() if split == "train" else self.classes.unseen)]
        columns.sort(key=lambda column: self.classes.mids[column])
        present = images.present[np.ix_(order, columns)]
        unknown = images.unknown[np.ix_(order, columns)] if images.unknown is not None else None
        names = [self.classes.mids[column] for column in columns]
        write_rows(out, blocks_of(frame, present, unknown), names)
        left_out = len(images.frame) - len(kept)
        notes = [*images.notes]
        if left_out:
            notes.append(f"{left_out:,} images of {split} are left out: {self.why_left_out(split)}")
        return LabelReport(
            split,
            len(frame),
            len(names),
            int(present.sum()),
            int((~present.any(1)).sum()),
            notes=notes,
        )

    def why_left_out(self, split: str) -> str:
        return "they are not of it"

    def vocabulary(self, inputs: dict[str, Path]) -> Vocabulary:
        found = self.classes.vocabulary
        log.info(
            f"vocabulary: {found.seen_count:,} seen + {found.unseen_count:,} unseen categories of"
            f" {self.title} (data.classes={self.data.classes})"
        )
        return found

    def source(self, config: Config) -> FileSource:
        return FileSource(str(self.root.resolve()), "files")

    def acceptance(
        self, vocabulary: Vocabulary, inputs: dict[str, Path], packed: dict[str, int]
    ) -> Acceptance:
        """Images by split, and the positives of each test image, beside what is published."""
        found: list[tuple[str, float]] = []
        for split, path in inputs.items():
            listed = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
            found += [(f"{split}: {LISTED}", listed), (f"{split}: images packed", packed[split])]
        if "test" in inputs:
            found += test_counts(vocabulary, inputs["test"])
        known = self.published()
        known |= {
            what.replace(LISTED, "images packed"): value
            for what, value in known.items()
            if LISTED in what
        }
        counts = [Count(what, value, one_of(known.get(what))) for what, value in found]
        return Acceptance(vocabulary.hash, tuple(counts))


class YearlySet(StandardSet):
    """A set of several years, whose categories are shipped with their divisions."""

    shipped: str
    years: tuple[int, ...]
    keys = ("classes", "year")

    @cached_property
    def classes(self) -> Classes:
        return shipped_classes(self.shipped, self.data.classes)

    @property
    def year(self) -> int:
        return year_of(self.data, self.years)


def one_of(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


def blocks_of(
    frame: pl.DataFrame, present: np.ndarray, unknown: np.ndarray | None
) -> Iterator[Block]:
    """Some rows at a time; what is neither present nor unknown is absent."""
    for start in range(0, len(frame), GROUP_ROWS):
        rows = slice(start, start + GROUP_ROWS)
        absent = ~present[rows] if unknown is None else ~(present[rows] | unknown[rows])
        yield frame[rows], present[rows], absent


def test_counts(vocabulary: Vocabulary, inputs: Path) -> list[tuple[str, float]]:
    """Positives per image that has one, and categories with a positive, for the label sets."""
    lists = pl.scan_parquet(inputs, glob=False).select("positive").collect()["positive"]
    unseen = list(vocabulary.mids[vocabulary.seen_count :])
    sets = {"ZSL": unseen} if unseen else {}
    found: list[tuple[str, float]] = []
    for name, mids in {**sets, "GZSL": list(vocabulary.mids)}.items():
        numbers = lists.list.eval(pl.element().is_in(mids)).list.sum()
        images = int((numbers > 0).sum())
        found.append((f"test: {name} {POSITIVES}", int(numbers.sum()) / images if images else 0.0))
    every = set(lists.explode().drop_nulls())
    seen = vocabulary.mids[: vocabulary.seen_count]
    return found + [
        (f"test: {what} categories (of {len(of):,}) with a positive", len(every & set(of)))
        for what, of in (("seen", seen), ("unseen", unseen))
    ]


def local_root(data: DataConfig, title: str, holds: str) -> Path:
    """`data.root` as a folder of this machine. Raises UserError where it is none."""
    root = Path(data.root)
    if origin(root):
        raise UserError(
            f"data.root={root}: {title} is read from a folder of this machine only: copy it"
        )
    if not root.is_dir():
        raise UserError(f"data.root {root} is not a folder: name the one that holds {holds}")
    return root


def year_of(data: DataConfig, years: tuple[int, ...]) -> int:
    """`data.year`, or the first. Raises UserError on one that is none."""
    if data.year not in (None, *years):
        raise UserError(f"data.year={data.year} is none of {', '.join(map(str, years))}")
    return data.year or years[0]


def require(path: Path, what: str) -> Path:
    """Raises UserError unless it is a file; `what` to download."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: download {what} and unpack it in data.root")
    return path
