"""Batches from the shards, decoded and augmented by worker processes off the training thread.

A batch is a pure function of its position, so workers need no state and no shuffle buffer:
c2srt/prefetch.py gives positions to processes and returns the batches in order. Which sample stands
at which position is in c2srt/order.py. A process reads ahead of what it decodes, so that it waits
for no disk (c2srt/ahead.py).

Shapes: b images of a micro-batch, S pixels a side, C categories (the seen ones in training), D
joint width.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from c2srt.ahead import in_stages
from c2srt.errors import UserError
from c2srt.order import BatchPartition, Order
from c2srt.prefetch import prefetched
from c2srt.samples import Fetching, Sample, Samples
from c2srt.shard_cache import cache_at
from c2srt.shards import ShardIndex
from c2srt.storage.ranges import open_ranges
from c2srt.teacher.cache import FeatureReads, TeacherCache
from c2srt.view_config import ViewConfig
from c2srt.views import centre_pixels, view_pixels
from c2srt.vocabulary import Vocabulary

STARTED, PLANNED = 96, 64
"""Images whose bytes are read ahead, three times what IN_FLIGHT reads can hold, and further ones
whose shards are opened.
"""
AHEAD = 2
"""Times as many shards stay open as are read at a time: with many ranks a process has few images of
each, and reads ahead over several windows.
"""


@dataclass
class LoaderConfig:
    """What decides the batches: split, seed, image side `size` S in pixels, views, global batch
    `batch` and at most `micro_batch` images at once, shuffle `window` in shards, `streams` of the
    order; and how they are made: `workers` processes a rank (0: in the caller's process), each at
    most `prefetch` batches ahead; a loader that gives nothing for `patience` seconds has failed;
    shards are copied to the folder `cache`, where that is given, as many as `cache_gb` hold.
    """

    size: int
    batch: int = 64
    micro_batch: int = 16
    seed: int = 0
    split: str = "train"
    views: ViewConfig = field(default_factory=ViewConfig)
    window: int = 16
    streams: int = 0
    workers: int = 1
    prefetch: int = 2
    patience: float = 600
    cache: str = ""
    cache_gb: float = 0

    def __post_init__(self) -> None:
        for name in ("size", "batch", "micro_batch", "window", "prefetch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if self.workers < 0:
            raise UserError(f"the number of loader workers, {self.workers}, must be at least 0")


@dataclass
class Batch:
    """One micro-batch: images uint8 [b, 3, S, S]; labels int8 [b, C] in −1/0/1; teacher float16 [b,
    D] or None; weights float32 [b], 0 for padding, with mean 1 over a global batch; ids [b].

    `step` is the global step, counted from 0 over all epochs, `accumulation` the micro-batch within
    the step.
    """

    images: Tensor
    labels: Tensor
    teacher: Tensor | None
    weights: Tensor
    ids: list[str]
    step: int = 0
    epoch: int = 0
    accumulation: int = 0

    def map(self, change: Callable[[Any], Any]) -> "Batch":
        """The same batch with `change` applied to every tensor."""
        return replace(
            self,
            images=change(self.images),
            labels=change(self.labels),
            weights=change(self.weights),
            teacher=None if self.teacher is None else change(self.teacher),
        )

    def to(self, device: torch.device | str) -> "Batch":
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


def training_order(config: LoaderConfig, index: ShardIndex) -> Order:
    """The sample order of a training; its `steps_per_epoch` and `samples` are known from the index
    alone.

    Raises UserError if the split has no image.
    """
    return Order(
        tuple(shard.count for shard in index.split(config.split)),
        config.batch,
        config.window,
        config.seed,
        config.streams,
    )


def train_batches(
    config: LoaderConfig,
    index: ShardIndex,
    vocabulary: Vocabulary,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    stop_step: int | None = None,
    teacher: TeacherCache | None = None,
) -> Generator[Batch, None, None]:
    """The micro-batches of rank `rank` of `world`, for global steps `start_step` … `stop_step` − 1
    (None: for ever).

    Every step yields `partition.accumulation` of them (c2srt/order.py). In epoch e the images are
    view e mod V. Labels are those of the vocabulary's seen categories. Raises UserError at the call
    if there are more ranks than images in a global batch, and while iterating if a shard is
    damaged. Any number of shards will do: ranks share them, none waits for one of its own.
    """
    made = TrainingBatches(config, index, vocabulary, rank, world, teacher)
    accumulation = made.partition.accumulation
    stop = accumulation * stop_step if stop_step is not None else 2**62
    return stream(made.batches, range(accumulation * start_step, stop), config)


def evaluation_batches(
    config: LoaderConfig,
    index: ShardIndex,
    vocabulary: Vocabulary,
    split: str,
    rank: int = 0,
    world: int = 1,
    batch: int = 64,
) -> Iterator[Batch]:
    """Every sample of `split` exactly once over all ranks, in index order, dealt in contiguous runs
    without padding.

    The images are the centre view; labels cover all C categories; `config` gives size, workers and
    prefetch. A rank gets nothing when there are fewer images than ranks. Raises UserError if the
    split has no image or a shard is damaged.
    """
    made = EvaluationBatches(config, index, vocabulary, split, rank, world, batch)
    return stream(made.batches, range(made.count), config)


@dataclass
class Planned:
    """A batch to be made: the shards and samples within them [b] of its images, …"""

    shard: np.ndarray
    sample: np.ndarray
    weight: np.ndarray
    step: int
    epoch: int = 0
    number: int = 0
    view: int = 0


@dataclass
class Fetched:
    """… and what is being read for it."""

    planned: Planned
    samples: Fetching
    features: FeatureReads | None = None

    @property
    def size(self) -> int:
        return self.samples.size


class TrainingBatches:
    """What `train_batches` makes, by position: its number among all micro-batches of the rank."""

    def __init__(
        self,
        config: LoaderConfig,
        index: ShardIndex,
        vocabulary: Vocabulary,
        rank: int,
        world: int,
        teacher: TeacherCache | None,
    ) -> None:
        self.partition = BatchPartition(config.batch, config.micro_batch, world)
        self.order, self.shards = training_order(config, index), index.split(config.split)
        self.config, self.rank, self.teacher = config, rank, teacher
        self.share, self.step = (rank / world, (rank + 1) / world), 0
        self.cache = cache_at(config.cache, config.cache_gb, index.folder, self.shards)
        open_shards = AHEAD * self.order.open_shards(1 / world)
        categories, opens = vocabulary.seen_count, self.cache.opens if self.cache else open_ranges
        self.samples = Samples(
            index.folder, self.shards, vocabulary, categories, open_shards, opens
        )

    def batches(self, positions: range) -> Iterator[Batch]:
        """Those at `positions`, in order. Meanwhile the cache is filled, where there is one."""
        ended = threading.Event()
        if self.cache:
            self.step = positions.start // self.partition.accumulation
            arguments = self.coming, ended
            threading.Thread(target=self.cache.fill, args=arguments, daemon=True).start()
        try:
            yield from in_stages(
                positions, self.plan, self.start, self.finish, *stages(self.partition.micro_batch)
            )
        finally:
            ended.set()

    def coming(self) -> Iterator[int]:
        """The shards that this rank needs from now on."""
        return self.order.coming(self.step, *self.share)

    def plan(self, position: int) -> Planned:
        step, number = divmod(position, self.partition.accumulation)
        self.step = step
        at, epoch = (self.rank * self.partition.accumulation + number, self.order.epoch_of(step))
        taken = self.order.micro_batch(step, self.partition, at)
        view = epoch % max(self.config.views.count, 1)
        self.samples.open(taken.shard.tolist())
        if self.teacher:
            self.teacher.open_shards(self.names(taken.shard))
        return Planned(taken.shard, taken.sample, taken.weight, step, epoch, number, view)

    def start(self, planned: Planned) -> Fetched:
        samples = self.samples.start(pairs(planned))
        if self.teacher is None:
            return Fetched(planned, samples)
        names = self.names(planned.shard)
        return Fetched(planned, samples, self.teacher.start(names, planned.sample, planned.view))

    def names(self, shards: np.ndarray) -> list[str]:
        return [self.shards[shard].name for shard in shards]

    def finish(self, fetched: Fetched) -> Batch:
        config, view = self.config, fetched.planned.view
        found = fetched.samples.wait()
        images = [
            view_pixels(sample.image, config.views, config.seed, sample.id, view, config.size)
            for sample in found
        ]
        features = None if fetched.features is None else fetched.features.wait()
        return collate_planned(found, images, features, fetched.planned)


class EvaluationBatches:
    """What `evaluation_batches` gives a rank: `count` batches."""

    def __init__(
        self,
        config: LoaderConfig,
        index: ShardIndex,
        vocabulary: Vocabulary,
        split: str,
        rank: int,
        world: int,
        batch: int,
    ) -> None:
        shards = index.split(split)
        self.starts = np.cumsum([0] + [shard.count for shard in shards])
        self.first, self.last = (int(self.starts[-1]) * part // world for part in (rank, rank + 1))
        self.batch, self.size = batch, config.size
        self.samples = Samples(index.folder, shards, vocabulary, len(vocabulary), 2 * AHEAD)

    @property
    def count(self) -> int:
        return -(-(self.last - self.first) // self.batch)

    def batches(self, positions: range) -> Iterator[Batch]:
        """Those at `positions`, in order."""
        return in_stages(positions, self.plan, self.start, self.finish, *stages(self.batch))

    def plan(self, position: int) -> Planned:
        first = self.first + position * self.batch
        places = np.arange(first, min(first + self.batch, self.last))
        shard = np.searchsorted(self.starts, places, side="right") - 1
        self.samples.open(shard.tolist())
        weight = np.ones(len(places), np.float32)
        return Planned(shard, places - self.starts[shard], weight, position)

    def start(self, planned: Planned) -> Fetched:
        return Fetched(planned, self.samples.start(pairs(planned)))

    def finish(self, fetched: Fetched) -> Batch:
        found = fetched.samples.wait()
        images = [centre_pixels(sample.image, self.size) for sample in found]
        return collate_planned(found, images, None, fetched.planned)


def stages(images: int) -> tuple[int, int]:
    """Batches of `images` images that are planned, and that are being read, while one is made."""
    return -(-PLANNED // images), -(-STARTED // images)


def pairs(planned: Planned) -> list[tuple[int, int]]:
    return list(zip(planned.shard.tolist(), planned.sample.tolist(), strict=True))


def collate_planned(
    found: list[Sample], images: list[Tensor], features: np.ndarray | None, planned: Planned
) -> Batch:
    """As `collate`, at the place that was planned."""
    place = planned.step, planned.epoch, planned.number
    return collate(found, images, features, planned.weight, *place)


def collate(
    found: list[Sample],
    images: list[Tensor],
    features: np.ndarray | None,
    weights: np.ndarray,
    step: int,
    epoch: int,
    accumulation: int,
) -> Batch:
    """Stacks samples into a batch."""
    teacher = None if features is None else torch.from_numpy(features)
    labels = torch.from_numpy(np.stack([sample.labels for sample in found]))
    ids = [sample.id for sample in found]
    return Batch(
        torch.stack(images),
        labels,
        teacher,
        torch.from_numpy(weights),
        ids,
        step,
        epoch,
        accumulation,
    )


def iterate(
    batch_at: Callable[[int], Batch], positions: range, config: LoaderConfig
) -> Generator[Batch, None, None]:
    """As `stream`, each batch by itself."""
    return stream(partial(map, batch_at), positions, config)


def stream(
    batches: Callable[[range], Iterator[Batch]], positions: range, config: LoaderConfig
) -> Generator[Batch, None, None]:
    """The batches at `positions`, in order, from `config.workers` forked processes.

    Raises LoaderFailed when one dies or sends nothing for `config.patience` seconds; UserError as
    `batches` does.
    """
    pinned = pinning()
    if config.workers:
        found = prefetched(
            lambda positions: (batch.map(Tensor.numpy) for batch in batches(positions)),
            positions,
            config.workers,
            config.prefetch,
            config.patience,
            lambda batch: pinned(batch.map(torch.from_numpy)),
        )
    else:
        found = map(pinned, batches(positions))
    yield from found


def pinning() -> Callable[[Batch], Batch]:
    """Puts a batch, in any thread, into memory from which this process's GPU copies while it
    computes; without one leaves it.
    """
    if not torch.cuda.is_available():
        return lambda batch: batch
    device = torch.cuda.current_device()

    def pin(batch: Batch) -> Batch:
        torch.cuda.set_device(device)
        return batch.map(Tensor.pin_memory)

    return pin
