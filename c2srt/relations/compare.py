"""What a relation graph looks like in numbers, and how much two of them agree.

A graph is a neighbour table [C, K] (−1 absent). Letters: C categories, S seen, K neighbours.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl

from c2srt.relations.neighbours import ABSENT
from c2srt.relations.table import titled
from c2srt.vocabulary import Vocabulary

HUBS = 15
QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Graph:
    """One kind's graph: `table` int64 [C, K], and its `edges` (c2srt/relations/table.py) cut to the
    same K.
    """

    kind: str
    table: np.ndarray
    edges: pl.DataFrame
    provenance: dict

    @property
    def title(self) -> str:
        """The kind as people are shown it: what no language model made is not called so."""
        return titled(self.kind, self.provenance)


def describe(graph: Graph, vocabulary: Vocabulary) -> dict:
    """Coverage, degrees, hubs, reciprocity, relation types, and who has no out-neighbours."""
    table, seen = graph.table, vocabulary.seen_count
    degree = (table != ABSENT).sum(1)
    out_degree = np.bincount(table[table != ABSENT], minlength=seen)[:seen]
    hubs = np.argsort(-out_degree, kind="stable")[:HUBS]
    return {
        "edges": int(degree.sum()),
        "mean_neighbours": float(degree.mean()),
        "coverage": {
            "all": share(degree > 0),
            "seen": share(degree[:seen] > 0),
            "unseen": share(degree[seen:] > 0),
        },
        "without_neighbours": [vocabulary.titles[row] for row in np.flatnonzero(degree == 0)],
        "listeners": {
            "mean": float(out_degree.mean()) if seen else 0.0,
            **{
                f"quantile_{quantile:g}": float(np.quantile(out_degree, quantile))
                for quantile in QUANTILES
                if seen
            },
        },
        "hubs": [
            {
                "name": vocabulary.titles[column],
                "mid": vocabulary.mids[column],
                "listeners": int(out_degree[column]),
            }
            for column in hubs
            if out_degree[column]
        ],
        "edges_from_top_percent": top_share(out_degree),
        "reciprocal": reciprocal(table, seen),
        "unreached": [vocabulary.titles[column] for column in np.flatnonzero(out_degree == 0)],
        "types": dict(
            Counter(kind for kind in graph.edges["type"].to_list() if kind).most_common()
        ),
    }


def share(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def top_share(out_degree: np.ndarray) -> float:
    """Share of all edges that start at the hundredth of the seen categories with most of them."""
    top = np.sort(out_degree)[::-1][: max(1, len(out_degree) // 100)]
    return float(top.sum() / max(out_degree.sum(), 1))


def reciprocal(table: np.ndarray, seen: int) -> float | None:
    """Share of the edges between seen categories whose reverse is an edge too; None without
    edges.
    """
    rows, places = np.nonzero(table[:seen] != ABSENT)
    forward = rows * seen + table[rows, places]
    backward = table[rows, places] * seen + rows
    return float(np.isin(forward, backward).mean()) if len(rows) else None


def overlap(one: np.ndarray, other: np.ndarray) -> float | None:
    """Mean share of a category's neighbours in `one` that it also has in `other`, over categories
    with neighbours in `one`.
    """
    degree = (one != ABSENT).sum(1)
    common = ((one[:, :, None] == other[:, None, :]) & (one != ABSENT)[:, :, None]).any(2).sum(1)
    kept = degree > 0
    return float((common[kept] / degree[kept]).mean()) if kept.any() else None
