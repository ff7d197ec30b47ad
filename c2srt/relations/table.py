"""The neighbour table on disk.

    <relations>/neighbours.npy   int32 [C, K] of vocabulary columns, best first, −1 absent: all that
                                 training reads
    <relations>/edges.parquet    the same edges for people and reports: target and source (MIDs),
                                 place (0 = best), strength (float32: mean answer 0–3, cosine, or
                                 co-occurrence probability; null for random), type (str)
    <relations>/relations.json   provenance, the record of both (c2srt/artefact.py)

Letters: C categories, K neighbours.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from c2srt.artefact import FILES, is_recorded, vouch, withdraw
from c2srt.bounds import Count
from c2srt.errors import UserError
from c2srt.files import whole_file
from c2srt.hints import Command
from c2srt.opened import open_npy, read_json, wrong
from c2srt.relations.kinds import KINDS, PROVENANCE
from c2srt.relations.neighbours import ABSENT, Neighbours
from c2srt.shown import shown
from c2srt.vocabulary import Vocabulary, check_same_vocabulary

TABLE, EDGES = "neighbours.npy", "edges.parquet"
FAR_LESS = 0.5  # of the share of categories with neighbours that the graph in the same folder has


@dataclass(frozen=True)
class MadeFrom:
    """What a graph must say of what it was made from."""

    kind: str
    neighbours: Count
    vocabulary: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"made_from.kind: {shown(self.kind)} is not one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Provenance:
    """What relations.json must have."""

    made_from: MadeFrom
    files: dict[str, str]


def check_coverage(out: Path, neighbours: Neighbours, source: str) -> None:
    """Raises UserError if the graph would replace one that reaches far more of its categories: a
    trial, or a file of another data set, must not destroy it in passing.
    """
    try:
        old = (open_npy(out / TABLE, "", "i") != ABSENT).any(1)
    except (UserError, ValueError):  # there is none, or none that is worth keeping
        return
    new = (neighbours.table != ABSENT).any(1)
    if new.mean() < FAR_LESS * old.mean():
        raise UserError(
            f"{out / TABLE} has neighbours for {old.sum():,} of {len(old):,} categories, {source}"
            f" would leave {new.sum():,} of {len(new):,} with any: nothing was written; mine the"
            " others first, give the data set that the file belongs to (data=…), write elsewhere"
            f" with out=…, or remove {out / TABLE}"
        )


def save(
    out: Path, neighbours: Neighbours, vocabulary: Vocabulary, made_from: dict, notes: dict
) -> None:
    """Writes the edges, the table, and their record; the caller holds the folder."""
    withdraw(out / PROVENANCE)
    write_edges(out / EDGES, neighbours, vocabulary)
    with whole_file(out / TABLE) as temporary, temporary.open("wb") as file:
        np.save(file, neighbours.table)
    degree = (neighbours.table != ABSENT).sum(1)
    vouch(
        out / PROVENANCE,
        {
            **notes,
            "made_from": made_from,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "degree": {
                "mean": float(degree.mean()),
                "min": int(degree.min()),
                "max": int(degree.max()),
            },
            "without_neighbours": int((degree == 0).sum()),
        },
        [TABLE, EDGES],
    )


def write_edges(path: Path, neighbours: Neighbours, vocabulary: Vocabulary) -> None:
    # here, because forked loader workers import this module and must not inherit a thread pool
    import polars as pl

    rows, places = np.nonzero(neighbours.table != ABSENT)
    mids = np.array(vocabulary.mids, dtype=object)
    types = (
        neighbours.types[rows, places]
        if neighbours.types is not None
        else np.full(len(rows), "", dtype=object)
    )
    frame = pl.DataFrame(
        {
            "target": mids[rows].tolist(),
            "source": mids[neighbours.table[rows, places]].tolist(),
            "place": places.astype(np.int32),
            "strength": neighbours.strengths[rows, places],
            "type": types.tolist(),
        },
        schema_overrides={"target": pl.String, "source": pl.String, "type": pl.String},
    )
    with whole_file(path) as temporary:
        frame.with_columns(pl.col("strength").fill_nan(None)).write_parquet(temporary)


def titled(kind: str, provenance: dict) -> str:
    """A kind of graph as people are shown it: what an oracle wrote, by its relations file's own
    word, is called so.
    """
    return f"{kind} (oracle graph)" if provenance.get("oracle") else kind


def summary(table: np.ndarray, out: Path, kind: str) -> str:
    degree = (table != ABSENT).sum(1)
    return (
        f"{out / TABLE}: {kind}, {len(table):,} categories, {degree.mean():.1f} neighbours each"
        f" ({degree.min()}–{degree.max()}), {(degree == 0).sum():,} without any"
    )


def load_relations(folder: Path, vocabulary: Vocabulary, k: int) -> Tensor:
    """The first k neighbours of every category: int64 [C, k], −1 absent.

    Raises UserError if the graph is absent, of another vocabulary, damaged, or holds fewer than k
    neighbours.
    """
    content = read_json(folder / PROVENANCE, Command("relations"), Provenance)
    made_from = content["made_from"]
    rebuild = Command(
        "relations", graph=made_from["kind"], neighbours=max(k, made_from["neighbours"])
    )
    check_same_vocabulary(
        vocabulary, made_from["vocabulary"], f"the relation graph {folder}", rebuild
    )
    if k > made_from["neighbours"]:
        raise UserError(
            f"{folder} keeps {made_from['neighbours']} neighbours a category, but {k} are asked"
            f" for: rebuild it with `{rebuild}`"
        )
    if not is_recorded(folder, TABLE, content[FILES]):
        raise UserError(
            f"{folder / TABLE} is absent or not what {PROVENANCE} describes: rebuild it with"
            f" `{rebuild}`"
        )
    table = open_npy(folder / TABLE, rebuild, "i")
    if table.ndim != 2 or len(table) != len(vocabulary) or table.shape[1] < k:
        raise wrong(
            folder / TABLE,
            f"has shape {list(table.shape)}, not {len(vocabulary):,} categories with {k}"
            " neighbours",
            rebuild,
        )
    if table.size and not ABSENT <= table.min() <= table.max() < len(vocabulary):
        raise wrong(folder / TABLE, "names categories that the vocabulary has not", rebuild)
    return torch.from_numpy(table.astype(np.int64))[:, :k]
