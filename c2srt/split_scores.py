"""The scores of a split's images beside their labels, as what is fitted after a training takes
them.
"""

from collections.abc import Iterator

import numpy as np
import torch

from c2srt.export.read import Exported
from c2srt.loader import LoaderConfig, evaluation_batches
from c2srt.progress import Progress
from c2srt.shards import ShardIndex


def split_scores(
    exported: Exported,
    index: ShardIndex,
    split: str,
    images: int,
    batch: int,
    loader_workers: int,
    title: str,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(scores [b, C], labels [b, C]) of about `images` of a split: a contiguous part of it, which
    is as good as any, since shards hold images in the order of their ids. `title`: of the progress.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    exported.to(device)
    there = sum(shard.count for shard in index.split(split))
    parts = -(-there // images)
    size, vocabulary = exported.clip.image_size, exported.vocabulary
    loader = LoaderConfig(size, batch, batch, split=split, workers=loader_workers)
    progress = Progress(title, -(-there // parts))
    for one in evaluation_batches(loader, index, vocabulary, split, 0, parts, batch):
        with torch.no_grad():
            scores, _ = exported.scores(one.images.to(device))
        yield scores.float().cpu().numpy(), one.labels.numpy()
        progress.update(len(one.images))
    progress.close()
