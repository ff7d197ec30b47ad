"""Pairs of images of two splits whose CLIP features lie close: what may be one picture.

The features are those of `c2srt teacher` without views, in a folder of the audit's own, made by the
same job: one task a shard, finished shards stay. They are compared in blocks, a shard of the
earlier split against ROWS images of the later one, so memory depends on neither.

Letters: n images of a shard, m of a block, D the width of a feature.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from c2srt.backbone.config import ClipConfig
from c2srt.executor import Opens
from c2srt.hints import Command
from c2srt.opened import open_npy
from c2srt.progress import Progress
from c2srt.shards import Shard, ShardIndex
from c2srt.storage import mirror
from c2srt.teacher.config import Config as TeacherConfig
from c2srt.teacher.job import cache_features
from c2srt.view_config import ViewConfig

MADE_BY = Command("audit")
ROWS = 4096
NEAREST = 10
"""Of an earlier split, looked at for each image of a later one."""
COSINES = (0.8, 0.85, 0.9, 0.95, 0.98)
"""Thresholds for which pairs are counted, beside the one in use."""
ORDER = ("train", "validation", "test")


@dataclass(frozen=True)
class Place:
    """A sample of a data set."""

    split: str
    shard: Shard
    sample: int


@dataclass(frozen=True)
class Candidate:
    """An image of an earlier split, one of a later one, and the cosine of their features."""

    earlier: Place
    later: Place
    cosine: float


@dataclass
class Candidates:
    """`above`: how many of `pairs` pairs have at least each cosine."""

    found: list[Candidate] = field(default_factory=list)
    pairs: int = 0
    above: dict[float, int] = field(default_factory=dict)


def splits_in_order(index: ShardIndex) -> list[str]:
    """Those with images; what an earlier and a later one share is left to the later one."""
    there = [split for split in index.splits if any(each.count for each in index.splits[split])]
    return sorted(there, key=lambda split: (ORDER.index(split) if split in ORDER else -1, split))


def make_features(
    index: ShardIndex, clip: ClipConfig, out: Path, workers: int, opens: Opens
) -> None:
    """Raises UserError as `c2srt teacher` does."""
    splits, views = splits_in_order(index), ViewConfig(count=0)
    cache_features(
        TeacherConfig(clip, views, str(index.folder), str(out), splits, workers=workers), opens
    )


def candidates(index: ShardIndex, features: Path, cosine: float) -> Candidates:
    """Each image of a later split with its NEAREST of each earlier one, from that cosine on."""
    splits = splits_in_order(index)
    result = Candidates(above=dict.fromkeys(sorted({*COSINES, cosine}), 0))
    counts = {split: sum(shard.count for shard in index.splits[split]) for split in splits}
    order = [(one, other) for at, other in enumerate(splits) for one in splits[:at]]
    progress = Progress(
        "compare", sum(counts[one] * counts[other] for one, other in order), "pairs"
    )
    for earlier, later in order:
        result.pairs += counts[earlier] * counts[later]
        for block in blocks(index, features, later):
            nearest(index, features, earlier, block, cosine, result, progress)
    progress.close()
    return result


Block = tuple[list[Place], np.ndarray]
"""Images [m] and their features [m, D]."""


def blocks(index: ShardIndex, features: Path, split: str) -> Iterator[Block]:
    """A split's images, at most ROWS at a time."""
    for shard in index.splits[split]:
        for first in range(0, shard.count, ROWS):
            samples = range(first, min(first + ROWS, shard.count))
            found = features_of(features, shard)[samples.start : samples.stop]
            yield [Place(split, shard, sample) for sample in samples], normal(found)


def nearest(
    index: ShardIndex,
    features: Path,
    earlier: str,
    block: Block,
    cosine: float,
    result: Candidates,
    progress: Progress,
) -> None:
    """Adds what one block of a later split has in an earlier one."""
    places, rows = block
    close: list[list[Candidate]] = [[] for _ in places]
    for others, features_there in blocks(index, features, earlier):
        cosines = rows @ features_there.T  # [m, n]
        for least in result.above:
            result.above[least] += int((cosines >= least).sum())
        top = np.argsort(-cosines, axis=1)[:, :NEAREST]
        for row, other in np.argwhere(np.take_along_axis(cosines, top, 1) >= cosine).tolist():
            at = int(top[row, other])
            close[row].append(Candidate(others[at], places[row], float(cosines[row, at])))
        close = [best(found) for found in close]
        progress.update(cosines.size)
    result.found += [each for found in close for each in found]


def best(found: list[Candidate]) -> list[Candidate]:
    return sorted(found, key=lambda each: -each.cosine)[:NEAREST]


def features_of(folder: Path, shard: Shard) -> np.ndarray:
    """[n, D] float16 of a shard, mapped."""
    path = folder / f"{shard.name}.npy"
    mirror.fetched(path)
    return open_npy(path, MADE_BY, "f")[0]


def normal(rows: np.ndarray) -> np.ndarray:
    """float32, of length 1."""
    found = np.asarray(rows, np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
