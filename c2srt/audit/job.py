"""What `c2srt audit` looks at beyond the bytes: the parts that were asked for, one after the other.

    <out>/names.csv        categories whose names differ by capitals, white space or a plural alone
    <out>/categories.csv   each category's positives in each split
    <out>/audit.html       all of it for people, with pictures
    <out>/audit.json       how much was found, and the version of the data set that was looked at

What twice.py adds stands there.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from c2srt.artefact import vouch, withdraw, writing
from c2srt.audit.config import DUPLICATES, LABELS, Look
from c2srt.audit.labels import empty, positives, write_categories
from c2srt.audit.page import table, write_page
from c2srt.audit.spelling import KINDS, Twins, twins
from c2srt.errors import UserError
from c2srt.evaluation.results import counted
from c2srt.executor import Opens
from c2srt.files import whole_file
from c2srt.shards import ShardIndex
from c2srt.shown import csv_cell, shown
from c2srt.vocabulary import Vocabulary

NAMES, CATEGORIES, PAGE, RECORD = "names.csv", "categories.csv", "audit.html", "audit.json"
EXAMPLES = 3
SHOWN = 300
"""Rows of a table on the page; the files have all."""


@dataclass
class Findings:
    """Sentences, what audit.json says, sections of the page (title, HTML), and files."""

    lines: list[str]
    record: dict[str, Any]
    sections: list[tuple[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def look(
    index: ShardIndex, vocabulary: Vocabulary, wanted: Look, out: Path, opens: Opens
) -> list[str]:
    """Writes what stands above; returns what was found in sentences. Raises UserError on damaged
    labels or images, on a part that was chosen and is not possible, or a full disk.
    """
    found = Findings([f"data set {index.version}"], {"data": index.version})
    with writing(out):
        withdraw(out / RECORD)
        if LABELS in wanted.parts:
            look_at_labels(index, vocabulary, wanted, out, opens, found)
        if DUPLICATES in wanted.parts:
            look_for_duplicates(index, vocabulary, wanted, out, opens, found)
        write_page(out / PAGE, found.lines, found.sections)
        vouch(out / RECORD, found.record, [*found.files, PAGE])
    return found.lines


def look_at_labels(
    index: ShardIndex,
    vocabulary: Vocabulary,
    wanted: Look,
    out: Path,
    opens: Opens,
    found: Findings,
) -> None:
    counts = positives(index, vocabulary, wanted.workers, opens)
    alike, without = twins(vocabulary.names), empty(counts, vocabulary)
    write_names(out / NAMES, alike, vocabulary)
    write_categories(out / CATEGORIES, counts, vocabulary)
    found.files += [NAMES, CATEGORIES]
    found.lines += names_said(alike, vocabulary) + without_said(without, vocabulary)
    found.record |= {
        "names": {kind: sum(pair.kind == kind for pair in alike) for kind in KINDS},
        "without positives": {split: len(columns) for split, columns in without.items()},
    }
    rows = [
        (vocabulary.names[each.first], vocabulary.names[each.second], each.kind) for each in alike
    ]
    found.sections.append(
        ("Names of one thing?", table(["category", "other", "differ by"], rows[:SHOWN]))
    )
    empties = [(split, vocabulary.names[column]) for split in without for column in without[split]]
    found.sections.append(
        ("Categories without a positive", table(["split", "category"], empties[:SHOWN]))
    )


def look_for_duplicates(
    index: ShardIndex,
    vocabulary: Vocabulary,
    wanted: Look,
    out: Path,
    opens: Opens,
    found: Findings,
) -> None:
    """Raises UserError where that is not possible."""
    check_possible(index, wanted)
    from c2srt.audit import twice  # torch

    twice_found = twice.find(index, wanted.clip, out, wanted.cosine, wanted.workers, opens)
    found.files += twice.write(out, twice_found, vocabulary)
    found.lines += twice.said(twice_found)
    found.sections += twice.sections(index, twice_found, vocabulary)
    found.record["duplicates"] = {
        "cosine": wanted.cosine,
        "pairs": len(twice_found.copies),
        "conflicts": sum(each.conflicts for each in twice_found.copies),
        "control": {kind.name: kind.json() for kind in twice_found.kinds},
    }


def check_possible(index: ShardIndex, wanted: Look) -> None:
    """Raises UserError unless near-duplicates can be looked for."""
    images = sum(shard.count for shards in index.splits.values() for shard in shards)
    with_images = sum(any(shard.count for shard in shards) for shards in index.splits.values())
    if with_images < 2:
        raise UserError(
            f"{index.folder} has images of one split alone, and duplicates are looked for across"
            " splits: pack another split, or leave duplicates out of parts"
        )
    if images > wanted.most:
        raise UserError(
            f"{index.folder} has {images:,} images, more than most={wanted.most:,}, and each has to"
            f" go through the CLIP: give most={images}, or leave duplicates out of parts"
        )


def write_names(path: Path, alike: list[Twins], vocabulary: Vocabulary) -> None:
    """A CSV: a row for each pair of names."""
    rows = {
        "differ by": [pair.kind for pair in alike],
        **columns_of("", [pair.first for pair in alike], vocabulary),
        **columns_of("other ", [pair.second for pair in alike], vocabulary),
    }
    with whole_file(path) as temporary:
        pl.DataFrame(rows).write_csv(temporary)


def columns_of(start: str, columns: Iterable[int], vocabulary: Vocabulary) -> dict[str, list[str]]:
    """MIDs and names of categories as columns of a CSV, whose names begin with `start`."""
    chosen = list(columns)
    return {
        f"{start}mid": [csv_cell(vocabulary.mids[column]) for column in chosen],
        f"{start}name": [csv_cell(vocabulary.names[column]) for column in chosen],
    }


def names_said(alike: list[Twins], vocabulary: Vocabulary) -> list[str]:
    lines = []
    for kind in KINDS:
        pairs = [pair for pair in alike if pair.kind == kind]
        if pairs:
            named = [
                f"{shown(vocabulary.names[pair.first])}/{shown(vocabulary.names[pair.second])}"
                for pair in pairs
            ]
            how = "have the same name" if kind == KINDS[0] else f"differ by {kind} alone"
            lines.append(f"{counted(len(pairs), 'pair')} of categories {how} ({examples(named)})")
    return lines or ["no two categories differ by capitals, white space or a plural alone"]


def without_said(without: dict[str, list[int]], vocabulary: Vocabulary) -> list[str]:
    return [
        f"{split}: {counted(len(columns), 'category', 'categories')} without a positive"
        f" ({examples([shown(vocabulary.names[column]) for column in columns])})"
        if columns
        else f"{split}: every category has a positive"
        for split, columns in without.items()
    ]


def examples(texts: list[str]) -> str:
    return ", ".join(texts[:EXAMPLES]) + (", …" if len(texts) > EXAMPLES else "")
