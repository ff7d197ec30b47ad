"""Which images of a split are shown, and reading them: a few for pictures, many in batches for
statistics.

Shapes: n images, C categories, S pixels a side.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch

from c2srt.errors import UserError
from c2srt.loader import Batch, LoaderConfig, iterate
from c2srt.samples import Sample, Samples
from c2srt.shards import ShardIndex
from c2srt.views import centre_pixels
from c2srt.vocabulary import Vocabulary

CANDIDATES = 2000
"""Images among which photos are chosen: their labels alone are read."""


class Photos:
    """The images of a split by place (0 … total − 1, in index order). Raises UserError if the split
    has none.
    """

    def __init__(self, index: ShardIndex, vocabulary: Vocabulary, split: str, seed: int) -> None:
        shards = index.split(split)
        self.samples = Samples(index.folder, shards, vocabulary, len(vocabulary), 2)
        self.starts = np.cumsum([0] + [shard.count for shard in shards])
        self.seen, self.seed, self.split = vocabulary.seen_count, seed, split

    @property
    def total(self) -> int:
        return int(self.starts[-1])

    def shard_of(self, place: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self.starts, place, side="right")) - 1
        return shard, int(place - self.starts[shard])

    def some(self, count: int | None) -> np.ndarray:
        """Ascending places of `count` images, drawn by the seed; of all where there are no more, or
        `count` is None.
        """
        if count is None or count >= self.total:
            return np.arange(self.total)
        return np.sort(np.random.default_rng(self.seed).choice(self.total, count, replace=False))

    def read(self, place: int) -> Sample:
        return self.samples.read(*self.shard_of(place))

    @cached_property
    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """Places [n] of at most CANDIDATES images and their labels int8 [n, C] in −1/0/1."""
        places, labels = self.some(CANDIDATES), []
        for place in places:
            shard, sample = self.shard_of(place)
            labels.append(self.samples.labels(self.samples.reader(shard).labels(sample)))
        return places, np.stack(labels)

    def choose(self, ids: list[str] | None, count: int) -> list[Sample]:
        """The images of `ids`, or `count` chosen ones: first those with a present seen, a present
        unseen and an absent category, among them those with most verified labels, equal ones in an
        order that the seed decides.
        """
        if ids is not None:
            return [self.read(place) for place in self.places_of(ids)]
        places, labels = self.candidates
        wanted = (labels[:, : self.seen] == 1, labels[:, self.seen :] == 1, labels == -1)
        kinds = sum(found.any(1).astype(int) for found in wanted)
        lot = np.random.default_rng(self.seed).random(len(places))
        order = np.lexsort((lot, -(labels != 0).sum(1), -kinds))
        return [self.read(place) for place in places[order[:count]]]

    def places_of(self, ids: list[str]) -> list[int]:
        """Raises UserError if the split lacks one."""
        wanted: dict[str, int] = {}
        for shard, start in enumerate(self.starts[:-1]):
            here = self.samples.reader(shard).ids
            wanted |= {name: int(start) + here.index(name) for name in set(ids).intersection(here)}
        if lacking := next((name for name in ids if name not in wanted), None):
            raise UserError(
                f"images: split {self.split} has no image {lacking!r} (an id of digits alone needs"
                " quotes: 'images=[\"0123\"]')"
            )
        return [wanted[name] for name in ids]

    def batches(self, places: np.ndarray, size: int, batch: int, workers: int) -> Iterator[Batch]:
        """The centre views of images in batches, decoded by `workers` processes (0: this one)."""

        def batch_at(position: int) -> Batch:
            found = [
                self.read(place) for place in places[position * batch : (position + 1) * batch]
            ]
            images = torch.stack([centre_pixels(sample.image, size) for sample in found])
            labels = torch.from_numpy(np.stack([sample.labels for sample in found]))
            return Batch(
                images, labels, None, torch.ones(len(found)), [sample.id for sample in found]
            )

        yield from iterate(
            batch_at, range(-(-len(places) // batch)), LoaderConfig(size, workers=workers)
        )


def framed(sample: Sample) -> np.ndarray:
    """What the model sees of an image, at the resolution of the shard: [side, side, 3] uint8, the
    centre square.
    """
    return centre_pixels(sample.image, min(sample.image.shape[:2])).permute(1, 2, 0).numpy()
