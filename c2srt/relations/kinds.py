"""The kinds of relation graphs: what decides each of them, and how it is built from that.

A new relation kind needs:
1. its `Kind` in `KINDS` at the end of this file, with the two functions that it names;
2. if something of its own decides it, a key of `GraphConfig`, with its help.

Nothing heavy is imported at the top: the keys of the verbs are checked against these names, and
forked loader workers must not inherit a thread pool. Letters: C categories, K neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2srt.artefact import Input, setting
from c2srt.errors import UserError
from c2srt.keys import Mark, Takes, key
from c2srt.relations.neighbours import Neighbours, no_neighbours
from c2srt.shared_keys import shared
from c2srt.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from c2srt.relations.answers import Answers
    from c2srt.relations.cooccurrence import Counts

LLM, MINED = "llm", "mined"  # relations that came with the data set; relations mined by its user
PROVENANCE = "relations.json"  # the record of a graph
RELATIONS = "relations.jsonl"  # what `c2srt relations mine` writes


@dataclass
class GraphConfig:
    """Keys of `c2srt relations`.

    A `relations_file` makes the graph `mined`, in a folder of that name beside `llm`.
    """

    graph: str = shared("graph")
    neighbours: int = key(
        8,
        "K kept for each category, best first; training may take fewer (paper: 4, NUS-WIDE 16)",
        follows="${given:${data.neighbours},<default>}",
    )
    relations_file: str | None = key(
        None,
        (
            "graph=mined: a relations file (.jsonl, .jsonl.gz); null: what "
            "`c2srt relations mine` wrote"
        ),
        mark=Mark.CONTENT,
    )
    root: str | None = key(
        None,
        (
            "folder of the raw input; graph=llm takes its relations.jsonl if "
            "there is one, else the shipped file that fits"
        ),
        follows="${oc.select:data.root,null}",
        takes=Takes.ABOVE,
    )
    shards: str = shared("shards")
    text: str = shared("text")
    out: str = key(
        "",
        (
            "folder written: neighbours.npy, edges.parquet, relations.json (of "
            "a relations_file: …/mined)"
        ),
        mark=Mark.HARMLESS,
        follows="${relations}",
        takes=Takes.PLACE,
    )
    seed: int = shared("seed")

    def __post_init__(self) -> None:
        if self.graph not in KINDS:
            raise UserError(
                f"graph={self.graph} is not a kind of relation graph: choose one of"
                f" {', '.join(KINDS)}"
            )
        if self.neighbours < 1:
            raise UserError(
                f"neighbours={self.neighbours} must be at least 1 (graph=none is the graph without"
                " any)"
            )
        if self.relations_file and self.graph == LLM:
            self.graph = MINED
            if Path(self.out).name == LLM:  # `out` follows from `graph`
                self.out = str(Path(self.out).with_name(MINED))
        if self.relations_file and self.graph != MINED:
            raise UserError(f"graph={self.graph} reads no relations_file: leave out one of the two")
        if self.graph == MINED and not self.relations_file:
            self.relations_file = str(Path(self.out) / RELATIONS)


@dataclass(frozen=True)
class Built:
    """A graph; `notes` for its record besides what decided it; what messages call its source, where
    that is more than its kind.
    """

    neighbours: Neighbours
    notes: dict[str, Any] = field(default_factory=dict)
    source: str | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of graph, as one object.

    `inputs(config, vocabulary)` is all that decides it besides vocabulary and K, by the key that
    it has in the record. `build(vocabulary, K, **values of the inputs)` is given nothing else, so
    what is left out of the record cannot decide the graph. Both raise UserError.
    """

    name: str
    inputs: Callable[[GraphConfig, Vocabulary], dict[str, Input]]
    build: Callable[..., Built]


def no_inputs(config: GraphConfig, vocabulary: Vocabulary) -> dict[str, Input]:
    return {}


def shipped_relations(config: GraphConfig, vocabulary: Vocabulary) -> dict[str, Input]:
    from c2srt.relations.answers import find_answers

    return answers_input(find_answers(config.root, vocabulary))


def own_relations(config: GraphConfig, vocabulary: Vocabulary) -> dict[str, Input]:
    from c2srt.relations.answers import answers_about

    return answers_input(
        answers_about(Path(config.relations_file or ""), vocabulary, config.shards)
    )


def answers_input(answers: "Answers") -> dict[str, Input]:
    return {"answers": Input(lambda: answers.hash, lambda: answers)}


def build_from_answers(vocabulary: Vocabulary, k: int, answers: "Answers") -> Built:
    from c2srt.relations.answers import llm_neighbours, log_dropped

    neighbours, counts = llm_neighbours(answers, vocabulary, k)
    log_dropped(counts, answers.source)
    notes = {"source": answers.source, "counts": counts, **answers.provenance}
    return Built(neighbours, notes, answers.source)


def text_features(config: GraphConfig, vocabulary: Vocabulary) -> dict[str, Input]:
    from c2srt.text import load_text, text_identity  # open_clip takes seconds to import

    folder = Path(config.text)
    return {
        "text": Input(
            lambda: text_identity(folder, vocabulary), lambda: load_text(folder, vocabulary)
        )
    }


def build_by_similarity(vocabulary: Vocabulary, k: int, text: "Tensor") -> Built:
    from c2srt.relations.baselines import cosines, text_neighbours

    table = text_neighbours(text, vocabulary.seen_count, k)
    return Built(Neighbours(table, cosines(text, table)))


def training_labels(config: GraphConfig, vocabulary: Vocabulary) -> dict[str, Input]:
    from c2srt.relations.cooccurrence import count_labels, labels_identity

    folder = Path(config.shards)
    return {
        "labels": Input(
            lambda: labels_identity(folder, vocabulary), lambda: count_labels(folder, vocabulary)
        )
    }


def build_by_cooccurrence(vocabulary: Vocabulary, k: int, labels: "Counts") -> Built:
    from c2srt.relations.cooccurrence import cooccurrence_neighbours

    return Built(cooccurrence_neighbours(labels, len(vocabulary), k), {"images": labels.images})


def random_seed(config: GraphConfig, vocabulary: Vocabulary) -> dict[str, Input]:
    return {"seed": setting(config.seed)}


def build_at_random(vocabulary: Vocabulary, k: int, seed: int) -> Built:
    from c2srt.relations.baselines import random_neighbours

    table = random_neighbours(vocabulary, k, seed)
    return Built(Neighbours(table, np.full(table.shape, np.nan, np.float32)))


def build_none(vocabulary: Vocabulary, k: int) -> Built:
    return Built(no_neighbours(len(vocabulary), k))


KINDS = {
    kind.name: kind
    for kind in (
        Kind(LLM, shipped_relations, build_from_answers),
        Kind(MINED, own_relations, build_from_answers),
        Kind("similarity", text_features, build_by_similarity),
        Kind("cooccurrence", training_labels, build_by_cooccurrence),
        Kind("random", random_seed, build_at_random),
        Kind("none", no_inputs, build_none),
    )
}
"""The kinds by name, in the order in which reports show them."""
