"""`c2srt relations [build]`: the neighbour table of one kind of graph.

`llm` reads the relations that come with the data set, mined from a large language model (paper
B.3), `mined` those of a file of one's own (`c2srt relations mine`), so that the two never replace
each other; `similarity` takes the most similar text features, `cooccurrence` counts the training
labels, `random` and `none` are the controls that show what a graph is worth
(c2srt/relations/kinds.py).
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from c2srt.artefact import Input, identities, is_current, tidy, values, writing
from c2srt.errors import UserError
from c2srt.relations.kinds import KINDS, MINED, GraphConfig as Config
from c2srt.relations.table import (
    EDGES,
    PROVENANCE,
    TABLE,
    check_coverage,
    save,
    summary,
    titled,
)
from c2srt.vocabulary import Vocabulary, load_vocabulary

log = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Writes the neighbour table of `config.graph`, or says that it is up to date.

    Raises UserError on bad input, and rather than replace a graph that reaches far more categories.
    """
    vocabulary, out, kind = (
        load_vocabulary(Path(config.shards)),
        Path(config.out),
        KINDS[config.graph],
    )
    inputs = kind.inputs(config, vocabulary)
    made_from = identity(config, vocabulary, inputs)
    if is_current(out / PROVENANCE, made_from, (TABLE, EDGES)):
        tidy(out)
        log.info(f"{out / TABLE} is up to date ({config.graph})")
        return
    with writing(out):
        built = kind.build(vocabulary, config.neighbours, **values(inputs))
        if identity(config, vocabulary, inputs) != made_from:
            raise UserError(
                f"what {out} is made from was written anew meanwhile: run the same command again"
            )
        check_coverage(out, built.neighbours, built.source or f"graph={config.graph}")
        save(out, built.neighbours, vocabulary, made_from, built.notes)
    log.info(summary(built.neighbours.table, out, titled(config.graph, built.notes)))
    if config.graph == MINED:
        log.info(f"the verbs that follow take it with graph={MINED}")


def identity(config: Config, vocabulary: Vocabulary, inputs: Mapping[str, Input]) -> dict[str, Any]:
    """What a table is made from: two runs with equal identities give equal tables."""
    return {
        "kind": config.graph,
        "vocabulary": vocabulary.hash,
        "neighbours": config.neighbours,
        **identities(inputs),
    }
