"""The labels of a whole split as one array, beside which scores of any origin can be measured."""

from pathlib import Path

import numpy as np

from c2srt.progress import Progress
from c2srt.samples import Samples
from c2srt.shards import ShardIndex
from c2srt.vocabulary import Vocabulary


def read_labels(
    index: ShardIndex, vocabulary: Vocabulary, split: str, out: Path
) -> tuple[list[str], np.ndarray]:
    """The ids [N] of a split's images, in the order of its shards, and their labels int8 [N, C] in
    −1/0/1, mapped from the new file `out`; no picture is decoded. Raises UserError on damaged
    labels.
    """
    shards, ids = index.split(split), list[str]()
    images = sum(shard.count for shard in shards)
    labels = np.lib.format.open_memmap(out, "w+", np.int8, (images, len(vocabulary)))
    progress = Progress("labels", images)
    for shard in shards:
        samples = Samples(index.folder, (shard,), vocabulary, len(vocabulary), 1)
        reader = samples.reader(0)
        for row, found in enumerate(reader.all_labels(), len(ids)):
            labels[row] = samples.labels(found)
        ids += reader.ids
        progress.update(shard.count)
    progress.close()
    return ids, labels
