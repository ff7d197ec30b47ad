"""The order of training samples, as a pure function of (seed, epoch), the shards' counts and the
global batch size.

One epoch is one permutation of all N samples: the shards are shuffled, cut into windows of `window`
shards, and the samples of a window are shuffled together. Step t of the epoch takes positions t·G …
(t+1)·G − 1 of it, G being the *global* batch. Ranks, accumulation steps and loader processes only
slice those positions, so the order is the same on any number of them, and one number, the global
step, says where training stands.

The last batch of an epoch has R = N − (T − 1)·G real samples; its other positions repeat them with
weight 0 and the real ones weigh G / R, so the mean of weight × loss over the global batch is the
mean over the real samples. That holds for N < G too: one step an epoch. All ranks thus take the
same T = ceil(N / G) steps: none waits for a batch that never comes. The same rule gives a global
batch to a number of ranks that does not divide it (`BatchPartition`).

Memory: a few integers a shard, and one window's permutation at a time (160,000 samples for 16
shards of 10,000).

With `streams` above 0 the permutation of an epoch is another one, which gives each node a fixed
share of the shards (c2srt/streams.py); all else is the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from c2srt.errors import UserError
from c2srt.permuted import permutation
from c2srt.streams import Streams


@dataclass(frozen=True)
class SamplePositions:
    """n positions of a global batch: `shard` and `sample` (within the shard) [n] int64, `weight`
    [n] float32.
    """

    shard: np.ndarray
    sample: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class BatchPartition:
    """How `world` ranks take a global batch of `batch` G positions in micro-batches of at most
    `most`.

    Each takes `accumulation` A of them, so there are A · world, numbered rank by rank, of equal
    size: G is cut into runs that differ by one position at most, and the shorter ones are filled up
    with padding. Nothing is padded where most · world divides G.
    """

    batch: int
    most: int
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch < self.world:
            raise UserError(
                f"batch={self.batch} is less than one image for each of {self.world} workers: take"
                " fewer workers, or a larger batch"
            )

    @property
    def accumulation(self) -> int:
        return -(-self.batch // (self.most * self.world))

    @property
    def micro_batches(self) -> int:
        """Micro-batches over all ranks."""
        return self.accumulation * self.world

    @property
    def micro_batch(self) -> int:
        """Positions of each micro-batch, padding included."""
        return -(-self.batch // self.micro_batches)

    @property
    def padded(self) -> int:
        """Positions of a step, padding included."""
        return self.micro_batches * self.micro_batch

    def span(self, number: int) -> tuple[int, int]:
        """The positions (start, stop) of G that micro-batch `number` takes."""
        count = self.micro_batches
        return self.batch * number // count, self.batch * (number + 1) // count


@dataclass(frozen=True)
class Order:
    """`counts` [shards] samples of each shard; global batch `batch` G in samples; `window` in
    shards; `streams`, 0 for none.

    Raises UserError when there is no sample, or a size is not positive.
    """

    counts: tuple[int, ...]
    batch: int
    window: int = 16
    seed: int = 0
    streams: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(
                "the shards hold no sample to train on: pack some, or choose another split"
            )
        if self.batch < 1 or self.window < 1:
            raise UserError(
                f"the global batch ({self.batch}) and the shuffle window ({self.window} shards)"
                " must be at least 1"
            )
        if self.streams < 0:
            raise UserError(f"the number of streams ({self.streams}) must be at least 0")

    @property
    def samples(self) -> int:
        """N, the samples of an epoch."""
        return sum(self.counts)

    @property
    def steps_per_epoch(self) -> int:
        """T = ceil(N / G)."""
        return -(-self.samples // self.batch)

    def open_shards(self, share: float) -> int:
        """How many shards whoever takes this share of every batch, in neighbouring positions,
        reads at a time: those of this window and the next.
        """
        if not self.streams:
            return min(2 * self.window, len(self.counts))
        streams = min(self.streams, self.batch)
        each = min(self.window, len(self.counts) // streams + 2)
        return min(len(self.counts), (int(share * streams) + 2) * each)

    def coming(self, step: int, begin: float, end: float) -> Iterator[int]:
        """The shards that whoever takes the positions from share `begin` to share `end` of every
        batch reads from global step `step` on, in the order of need, to the end of the next epoch.
        """
        for epoch in (self.epoch_of(step), self.epoch_of(step) + 1):
            first = max(0, step - epoch * self.steps_per_epoch)
            if self.streams:
                yield from streams_of(self).coming(epoch, first, begin, end)
            else:
                window = (
                    np.searchsorted(window_starts(self, epoch), first * self.batch, "right") - 1
                )
                yield from shuffled_shards(self, epoch)[window * self.window :].tolist()

    def epoch_of(self, step: int) -> int:
        """The epoch of global step `step`, both counted from 0."""
        return step // self.steps_per_epoch

    def positions(self, step: int, start: int, stop: int) -> SamplePositions:
        """Positions `start`…`stop` − 1 of global step `step`'s batch."""
        epoch, step = divmod(step, self.steps_per_epoch)
        first = step * self.batch
        real = min(self.batch, self.samples - first)
        within = np.arange(start, stop)
        shard, sample = self._at(epoch, first + within % real)
        weight = np.where(within < real, self.batch / real, 0.0).astype(np.float32)
        return SamplePositions(shard, sample, weight)

    def micro_batch(self, step: int, partition: BatchPartition, number: int) -> SamplePositions:
        """Micro-batch `number` of global step `step`, filled up to `partition.micro_batch`
        positions with padding of weight 0.

        The real samples weigh more by padded / G: the mean of weight × loss over all of them is
        that over the batch.
        """
        start, stop = partition.span(number)
        positions = self.positions(step, start, start + partition.micro_batch)
        own = np.arange(start, start + partition.micro_batch) < stop
        return replace(
            positions,
            weight=np.where(own, positions.weight * (partition.padded / partition.batch), 0).astype(
                np.float32
            ),
        )

    def _at(self, epoch: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n] positions of an epoch -> [n] shard, [n] sample."""
        if self.streams:
            shard, sample = streams_of(self).at(epoch, positions)
            return shard, sample
        starts = window_starts(self, epoch)
        windows = np.searchsorted(starts, positions, side="right") - 1
        found = np.empty((len(positions), 2), np.int64)
        for window in np.unique(windows):
            here = windows == window
            found[here] = window_samples(self, epoch, int(window))[positions[here] - starts[window]]
        return found[:, 0], found[:, 1]


@lru_cache(maxsize=2)
def streams_of(order: Order) -> Streams:
    return Streams(order.counts, order.batch, order.window, order.seed, order.streams)


@lru_cache(maxsize=4)
def shuffled_shards(order: Order, epoch: int) -> np.ndarray:
    """[shards] the shards in the epoch's order."""
    return permutation(len(order.counts), order.seed, epoch)


@lru_cache(maxsize=4)
def window_starts(order: Order, epoch: int) -> np.ndarray:
    """[windows] the position in the epoch at which each window starts."""
    counts = np.array(order.counts, np.int64)[shuffled_shards(order, epoch)]
    totals = np.add.reduceat(counts, np.arange(0, len(counts), order.window))
    return np.cumsum(totals) - totals


@lru_cache(maxsize=2)
def window_samples(order: Order, epoch: int, window: int) -> np.ndarray:
    """[n, 2] (shard, sample) of a window's samples, in the epoch's order."""
    shards = shuffled_shards(order, epoch)[window * order.window : (window + 1) * order.window]
    counts = np.array(order.counts, np.int64)[shards]
    shard = np.repeat(shards, counts)
    sample = np.arange(len(shard)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([shard, sample], 1)[permutation(len(shard), order.seed, epoch, window)]


def global_order(order: Order, epochs: Sequence[int]) -> np.ndarray:
    """[N · epochs, 2] (shard, sample) of whole epochs in training order, padding left out. For
    tests and audits.
    """
    steps = [
        step
        for epoch in epochs
        for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    ]
    positions = [order.positions(step, 0, order.batch) for step in steps]
    return np.concatenate([np.stack([p.shard, p.sample], 1)[p.weight > 0] for p in positions])
