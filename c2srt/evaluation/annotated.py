"""The annotated columns of a split: those with a label ±1 on an image that has a positive in the
label set. QKS's F1@K ranks nothing else, so they must be known before the first score is looked at.

Shapes: b images, C categories; the axis of 2 is LABEL_SETS.
"""

from functools import partial
from itertools import islice

import numpy as np

from c2srt.evaluation.metric_state import LABEL_SETS, columns_of
from c2srt.executor import Executor
from c2srt.progress import Progress
from c2srt.samples import Samples
from c2srt.shards import Shard, ShardIndex
from c2srt.vocabulary import Vocabulary

IMAGES_AT_ONCE = 1024


def annotated_columns(labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """bool [2, C] of labels [b, C] in −1/0/1; those of a split are the `|` of its parts'."""
    verified, found = labels != 0, []
    for label_set in LABEL_SETS:
        inside = columns_of(label_set, seen)
        chosen = ((labels == 1) & inside).any(1)
        found.append(inside & verified[chosen].any(0))
    return np.stack(found)


def annotated_in_split(
    executor: Executor, index: ShardIndex, vocabulary: Vocabulary, split: str
) -> np.ndarray:
    """Those of a split's shards, bool [2, C]: their labels are read, no picture is decoded. Raises
    UserError on damaged labels.
    """
    shards, found = index.split(split), np.zeros((len(LABEL_SETS), len(vocabulary)), bool)
    progress = Progress("labels", sum(shard.count for shard in shards))
    for shard, part in executor.map(partial(annotated_in_shard, index, vocabulary), shards):
        found |= part
        progress.update(shard.count)
    progress.close()
    return found


def annotated_in_shard(index: ShardIndex, vocabulary: Vocabulary, shard: Shard) -> np.ndarray:
    """One task: those of a shard."""
    seen = np.arange(len(vocabulary)) < vocabulary.seen_count
    samples = Samples(index.folder, (shard,), vocabulary, len(vocabulary), 1)
    labels = map(samples.labels, samples.reader(0).all_labels())
    found = np.zeros((len(LABEL_SETS), len(vocabulary)), bool)
    while rows := list(islice(labels, IMAGES_AT_ONCE)):
        found |= annotated_columns(np.stack(rows), seen)
    return found
