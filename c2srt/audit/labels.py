"""How often each category is verified present in each split of a packed data set.

Training images are labelled with seen categories alone, so an unseen one without positives there is
as it should be; everywhere else a category without positives cannot be measured, and in training it
cannot be learnt.
"""

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from c2srt.evaluation.scorers import class_counts
from c2srt.executor import Opens
from c2srt.files import whole_file
from c2srt.progress import Progress
from c2srt.shards import Shard, ShardIndex
from c2srt.shown import csv_cell
from c2srt.vocabulary import Vocabulary

TRAIN = "train"


def positives(
    index: ShardIndex, vocabulary: Vocabulary, workers: int, opens: Opens
) -> dict[str, np.ndarray]:
    """How many images of each split are positive for each category: split → int64 [C]. No picture
    is decoded. Raises UserError on damaged labels.
    """
    found = {split: np.zeros(len(vocabulary), np.int64) for split in index.splits}
    tasks = [
        (split, shard) for split, shards in index.splits.items() for shard in shards if shard.count
    ]
    images = sum(shard.count for _, shard in tasks)
    with opens(workers, len(tasks), images) as executor:
        progress = Progress("labels", images)
        for (split, shard), counts in executor.map(
            partial(count_shard, index, vocabulary), tasks, lambda task: f"labels {task[1].name}"
        ):
            found[split] += counts
            progress.update(shard.count)
        progress.close()
    return found


def count_shard(index: ShardIndex, vocabulary: Vocabulary, task: tuple[str, Shard]) -> np.ndarray:
    """One task: int64 [C]."""
    return class_counts(index, task[1], vocabulary)


def empty(counts: dict[str, np.ndarray], vocabulary: Vocabulary) -> dict[str, list[int]]:
    """The columns without a positive, by split; of the training split seen ones alone."""
    return {
        split: np.flatnonzero(
            found[: vocabulary.seen_count if split == TRAIN else None] == 0
        ).tolist()
        for split, found in counts.items()
    }


def write_categories(path: Path, counts: dict[str, np.ndarray], vocabulary: Vocabulary) -> None:
    """A CSV: a row for each category, with its positives in each split."""
    columns = {
        "mid": [csv_cell(mid) for mid in vocabulary.mids],
        "name": [csv_cell(name) for name in vocabulary.names],
        "seen": [column < vocabulary.seen_count for column in range(len(vocabulary))],
    }
    with whole_file(path) as temporary:
        pl.DataFrame(
            columns | {f"{split} positives": of for split, of in counts.items()}
        ).write_csv(temporary)
