"""`c2srt relations [build]`: the neighbour table of one kind of graph.

`llm` reads the relations that come with the data set, mined from a large language model (paper
B.3), `mined` those of a file of one's own (`c2srt relations mine`), so that the two never replace
each other; `similarity` takes the most similar text features, `cooccurrence` counts the training
labels, `random` and `none` are the controls that show what a graph is worth. Letters: C categories,
K neighbours.
"""

from pathlib import Path

import numpy as np

from c2srt.artefact import tidy, writing
from c2srt.errors import UserError
from c2srt.relations.answers import (
    Answers,
    find_answers,
    llm_neighbours,
    print_dropped,
    read_answers,
)
from c2srt.relations.baselines import cosines, random_neighbours, text_neighbours
from c2srt.relations.config import GraphConfig as Config
from c2srt.relations.cooccurrence import cooccurrence_neighbours, count_labels, labels_identity
from c2srt.relations.kinds import LLM, MINED
from c2srt.relations.table import (
    TABLE,
    Neighbours,
    check_coverage,
    is_current,
    no_neighbours,
    save,
    summary,
    titled,
)
from c2srt.vocabulary import Vocabulary, load_vocabulary


def run(config: Config) -> None:
    """Writes the neighbour table of `config.graph`, or says that it is up to date.

    Raises UserError on bad input, and rather than replace a graph that reaches far more categories.
    """
    vocabulary, out = load_vocabulary(Path(config.shards)), Path(config.out)
    answers = answers_for(config, vocabulary)
    made_from = identity(config, vocabulary, answers)
    if is_current(out, made_from):
        tidy(out)
        print(f"{out / TABLE} is up to date ({config.graph})")
        return
    with writing(out):
        neighbours, notes = build(config, vocabulary, answers)
        if identity(config, vocabulary, answers) != made_from:
            raise UserError(
                f"what {out} is made from was written anew meanwhile: run the same command again"
            )
        check_coverage(out, neighbours, answers.source if answers else f"graph={config.graph}")
        save(out, neighbours, vocabulary, made_from, notes)
    print(summary(neighbours.table, out, titled(config.graph, notes)))
    if config.graph == MINED:
        print(f"the verbs that follow take it with graph={MINED}")


def answers_for(config: Config, vocabulary: Vocabulary) -> Answers | None:
    """The mined relations that the kind is made of, if it is made of any. Raises UserError."""
    if config.graph == LLM:
        return find_answers(config.root, vocabulary)
    if config.graph != MINED:
        return None
    answers = read_answers(Path(config.relations_file))
    if not any(mid in answers.related for mid in vocabulary.mids):
        raise UserError(
            f"{answers.source} answers for none of the {len(vocabulary):,} categories of"
            f" {config.shards}: give the data set that it belongs to (data=…), or the file of"
            " this one"
        )
    return answers


def identity(config: Config, vocabulary: Vocabulary, answers: Answers | None) -> dict:
    """What a table was made from: two runs with equal identities give equal tables."""
    made_from = {
        "kind": config.graph,
        "vocabulary": vocabulary.hash,
        "neighbours": config.neighbours,
    }
    if config.graph == "random":
        made_from["seed"] = config.seed
    if config.graph == "similarity":
        from c2srt.text import text_identity  # as in `build`

        made_from["text"] = text_identity(Path(config.text), vocabulary)
    if config.graph == "cooccurrence":
        made_from["labels"] = labels_identity(Path(config.shards), vocabulary)
    if answers is not None:
        made_from["answers"] = answers.hash
    return made_from


def build(
    config: Config, vocabulary: Vocabulary, answers: Answers | None
) -> tuple[Neighbours, dict]:
    """The graph of one kind, and what its provenance should say besides the identity."""
    if answers is not None:
        neighbours, counts = llm_neighbours(answers, vocabulary, config.neighbours)
        print_dropped(counts, answers.source)
        return neighbours, {"source": answers.source, "counts": counts, **answers.provenance}
    if config.graph == "similarity":
        from c2srt.text import (
            load_text,
        )  # open_clip takes seconds to import, and only this kind needs it

        features = load_text(Path(config.text), vocabulary)
        table = text_neighbours(features, vocabulary.seen_count, config.neighbours)
        return Neighbours(table, cosines(features, table)), {}
    if config.graph == "cooccurrence":
        counted = count_labels(Path(config.shards), vocabulary)
        return cooccurrence_neighbours(counted, len(vocabulary), config.neighbours), {
            "images": counted.images
        }
    if config.graph == "random":
        table = random_neighbours(vocabulary, config.neighbours, config.seed)
        return Neighbours(table, np.full(table.shape, np.nan, np.float32)), {}
    return no_neighbours(len(vocabulary), config.neighbours), {}
