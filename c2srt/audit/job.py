"""What `c2srt audit` looks at beyond the bytes: the parts that were asked for, one after the other.

<out>/names.csv        categories whose names differ by capitals, white space or a plural alone
<out>/categories.csv   each category's positives in each split
<out>/audit.json       how much was found, and the version of the data set that was looked at
"""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from c2srt.artefact import vouch, withdraw, writing
from c2srt.audit.labels import empty, positives, write_categories
from c2srt.audit.spelling import KINDS, Twins, twins
from c2srt.evaluation.results import counted
from c2srt.executor import Opens
from c2srt.files import whole_file
from c2srt.shards import ShardIndex
from c2srt.shown import csv_cell, shown
from c2srt.vocabulary import Vocabulary

NAMES, CATEGORIES, RECORD = "names.csv", "categories.csv", "audit.json"
EXAMPLES = 3


def look(
    index: ShardIndex, vocabulary: Vocabulary, out: Path, workers: int, opens: Opens
) -> list[str]:
    """Writes what stands above; returns what was found in sentences. Raises UserError on damaged
    labels, or a full disk.
    """
    with writing(out):
        withdraw(out / RECORD)
        lines, found = [f"data set {index.version}"], {"data": index.version}
        counts = positives(index, vocabulary, workers, opens)
        alike, without = twins(vocabulary.names), empty(counts, vocabulary)
        write_names(out / NAMES, alike, vocabulary)
        write_categories(out / CATEGORIES, counts, vocabulary)
        lines += names_said(alike, vocabulary) + without_said(without, vocabulary)
        vouch(
            out / RECORD,
            found
            | {
                "names": {kind: sum(pair.kind == kind for pair in alike) for kind in KINDS},
                "without positives": {split: len(columns) for split, columns in without.items()},
            },
            [NAMES, CATEGORIES],
        )
    return lines


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
