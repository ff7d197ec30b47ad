"""Which categories a category may hear.

A seen one: its neighbours in the relation graph, and the seen categories that its training images
are most often labelled with; its labels then decide which of them count. An unseen one has no
labels: only neighbours by a relation that its own name does not tell (c2srt/relations/untold.py).
Letters: C categories, E sources.
"""

from pathlib import Path

import numpy as np

from c2srt.messages.config import Config
from c2srt.relations.cooccurrence import cooccurrence_neighbours, count_labels
from c2srt.relations.neighbours import ABSENT
from c2srt.relations.table import load_relations
from c2srt.relations.untold import untold
from c2srt.vocabulary import Vocabulary


def sources_of_seen(config: Config, vocabulary: Vocabulary) -> np.ndarray:
    """int64 [S, E], ABSENT where there is none; no category twice, or its own. Raises UserError if
    the graph or the labels cannot be read.
    """
    graph = load_relations(Path(config.relations), vocabulary, config.neighbours).numpy()
    counts = count_labels(Path(config.shards), vocabulary)
    together = cooccurrence_neighbours(counts, len(vocabulary), config.together).table
    seen = np.concatenate([graph, together], 1)[: vocabulary.seen_count]
    width = max(seen.shape[1], 1)
    return np.stack([once(row, own, width) for own, row in enumerate(seen)])


def neighbours_of_unseen(config: Config, vocabulary: Vocabulary) -> np.ndarray:
    """int64 [U, K], ABSENT where there is none: seen categories. Raises UserError as above."""
    table = untold(Path(config.relations), vocabulary, config.unseen_neighbours)
    return table[vocabulary.seen_count :]


def once(row: np.ndarray, own: int, width: int) -> np.ndarray:
    """The sources of a row, each the first time that it comes, filled up to `width`."""
    found = [source for source in dict.fromkeys(row.tolist()) if source not in (ABSENT, own)]
    return np.array(found + [ABSENT] * (width - len(found)), np.int64)
