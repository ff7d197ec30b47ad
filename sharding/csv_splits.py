"""Which images are in which split: the tables', or shares of train's, and none in two.

An image of a later split is not in an earlier one (train, validation, test), whatever the tables
say: a model would be measured by what it was trained on.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from c2srt.data_keys import CsvKeys
from c2srt.errors import UserError
from c2srt.files import sha256_of_file
from c2srt.sharding.csv_labels import Labels, read_table
from c2srt.shown import shown

SPLITS = ("train", "validation", "test")
TABLES = {"train": "train", "validation": "val", "test": "test"}
"""The key that names the table of a split."""


@dataclass
class Lists:
    """What the tables say: the labels of each image by its path, and sentences, by split."""

    images: dict[str, dict[str, Labels]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def tables_of(keys: CsvKeys) -> dict[str, Path]:
    """The tables by split. Raises UserError where they and `data.splits` do not fit."""
    if odd := [split for split in keys.splits if split not in SPLITS]:
        raise UserError(f"data.splits: {shown(odd[0])} is none of {', '.join(SPLITS)}")
    given = {split: getattr(keys, TABLES[split]) for split in SPLITS}
    if not given["train"] or "train" not in keys.splits:
        raise UserError(
            "data.train=… is needed: the table of your images and their labels, such as train.csv"
            " with columns image and labels"
        )
    for split in (split for split in SPLITS if given[split] and split not in keys.splits):
        raise UserError(
            f"data.{TABLES[split]}={shown(given[split])} is given, but data.splits leaves {split}"
            " out"
        )
    if not 0 < keys.share < 1:
        raise UserError(f"data.share={keys.share} must be above 0 and below 1")
    return {split: Path(path) for split, path in given.items() if path}


def read_lists(keys: CsvKeys) -> Lists:
    """All splits. Raises UserError where a table is none, or leaves nothing to train on."""
    tables, lists = tables_of(keys), Lists()
    for split, path in tables.items():
        table = read_table(path, keys)
        lists.images[split], lists.notes[split] = table.images, table.notes
    leave_out_shared(lists, tables)
    count = len(lists.images["train"])
    for split in (split for split in SPLITS if split in keys.splits and split not in tables):
        split_off(lists, split, round(keys.share * count) or 1, keys)
    return lists


def leave_out_shared(lists: Lists, tables: dict[str, Path]) -> None:
    """Images that stand in the tables of two splits stay in the later one."""
    for split in tables:
        later = [other for other in later_than(split) if other in tables]
        images = lists.images[split]
        shared = {path for path in images if any(path in lists.images[other] for other in later)}
        if not shared:
            continue
        if len(shared) == len(images):
            raise UserError(
                f"every image of {tables[split]} is in {' or '.join(str(tables[o]) for o in later)}"
                f", too: nothing is left for {split}; give images of its own"
            )
        lists.images[split] = {path: images[path] for path in images if path not in shared}
        lists.notes[split].append(
            f"{len(shared):,} images are in {' or '.join(later)}, too, and were left out here"
            f" ({os.path.basename(min(shared))}{', …' if len(shared) > 1 else ''})"
        )


def later_than(split: str) -> tuple[str, ...]:
    return SPLITS[SPLITS.index(split) + 1 :]


def split_off(lists: Lists, split: str, count: int, keys: CsvKeys) -> None:
    """Moves `count` images of train to a split that has no table: those of lowest hash, so that a
    table that grows keeps most of them where they were.
    """
    train, base = lists.images["train"], base_of(keys)
    if count >= len(train):
        raise UserError(
            f"{keys.train} has {len(train):,} images: too few to hold out {count:,} for {split};"
            f" give data.{TABLES[split]}=…, or leave it out of data.splits"
        )
    order = sorted(train, key=lambda path: drawn(keys.split_seed, split, relative(path, base)))
    lists.images[split] = {path: train.pop(path) for path in order[:count]}
    lists.notes[split] = [
        f"there is no data.{TABLES[split]}: {count:,} images of {keys.train} were held out for it"
        " (data.share, data.split_seed)"
    ]


def drawn(seed: int, what: str, name: str) -> str:
    """A number in [0, 1) of a name, as text that sorts like it."""
    return hashlib.sha256(f"{seed}\0{what}\0{name}".encode(errors="surrogateescape")).hexdigest()


def base_of(keys: CsvKeys) -> str:
    """The folder that images are told apart below: what is moved with it keeps its splits."""
    return os.path.abspath(keys.root or Path(keys.train or "").parent)


def relative(path: str, base: str) -> str:
    return os.path.relpath(path, base)


def same_bytes(paths: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Which files are copies of one of `others`: path → that one's. What does not exist is none."""
    known: dict[int, list[str]] = {}
    for other, size in sizes(others):
        known.setdefault(size, []).append(other)
    digests: dict[int, dict[str, str]] = {}
    found = {}
    for path, size in sizes(paths):
        if size not in known:
            continue
        if size not in digests:
            digests[size] = {sha256_of_file(Path(other)): other for other in known[size]}
        if copied := digests[size].get(sha256_of_file(Path(path))):
            found[path] = copied
    return found


def sizes(paths: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Those of paths that are files, with their bytes; an empty file is no copy of another."""
    for path in paths:
        if os.path.isfile(path) and (size := os.path.getsize(path)):
            yield path, size
