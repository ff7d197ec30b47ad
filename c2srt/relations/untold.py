"""Relations that a category's own name does not tell: a name says of itself what it is (*is-a*,
*synonymy*), and not what it comes with. And the plainest use of these: scores of neighbours.

Letters: b images, C categories, K neighbours.
"""

from pathlib import Path

import numpy as np

from c2srt.artefact import FILES, is_recorded
from c2srt.hints import Command
from c2srt.opened import read_json, wrong
from c2srt.opened_tables import INTEGER, TEXT, read_parquet
from c2srt.relations.neighbours import ABSENT
from c2srt.relations.table import EDGES, PROVENANCE, TABLE, Provenance, load_relations
from c2srt.vocabulary import Vocabulary

TOLD_BY_NAME = ("is-a", "synonymy")


def untold(relations: Path, vocabulary: Vocabulary, count: int) -> np.ndarray:
    """int64 [C, count]: of the graph's first neighbours those whose relation the name does not
    tell; all of them where the graph knows no types.
    """
    table = load_relations(relations, vocabulary, count).numpy().copy()
    kinds = {"target": TEXT, "place": INTEGER, "type": TEXT}
    edges = read_parquet(relations / EDGES, Command("relations"), kinds)
    row = {mid: column for column, mid in enumerate(vocabulary.mids)}
    for target, place, kind in zip(*(edges[name].to_pylist() for name in kinds), strict=True):
        if kind in TOLD_BY_NAME and place < count:
            table[row[target], place] = ABSENT
    return table


def of_unseen(relations: Path, vocabulary: Vocabulary, count: int) -> np.ndarray:
    """As `untold`, of unseen categories only: ABSENT for the seen ones."""
    table = untold(relations, vocabulary, count)
    table[: vocabulary.seen_count] = ABSENT
    return table


def by_neighbours(scores: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Scores [b, C]: the mean of the neighbours' in table [C, K] where there are any, else as they
    are.
    """
    hearing = np.flatnonzero((table != ABSENT).any(1))
    there = table[hearing] != ABSENT
    heard = np.where(there, scores[:, table[hearing].clip(0)], 0)
    result = scores.copy()
    result[:, hearing] = heard.sum(2) / there.sum(1)
    return result


def graph_identity(relations: Path, vocabulary: Vocabulary, count: int) -> list[str]:
    """Changes when the graph does: hashes of its table and its edges. Raises UserError if it is
    absent, damaged, of another vocabulary, or holds fewer than `count` neighbours.
    """
    load_relations(relations, vocabulary, count)
    files = read_json(relations / PROVENANCE, Command("relations"), Provenance)[FILES]
    if not is_recorded(relations, EDGES, files):
        raise wrong(relations / EDGES, f"is not what {PROVENANCE} describes", Command("relations"))
    return [files[TABLE], files[EDGES]]
