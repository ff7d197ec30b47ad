"""Batches from the shards, decoded and augmented by worker processes off the training thread.

A batch is a pure function of its position, so workers need no state and no shuffle buffer:
c2srt/prefetch.py gives positions to processes and returns the batches in order. Which sample stands
at which position is in c2srt/order.py.

Shapes: b images of a micro-batch, S pixels a side, C categories (the seen ones in training), D
joint width.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from c2srt.errors import UserError
from c2srt.order import BatchPartition, Order
from c2srt.prefetch import prefetched
from c2srt.samples import Sample, Samples
from c2srt.shards import ShardIndex
from c2srt.teacher.cache import TeacherCache
from c2srt.view_config import ViewConfig
from c2srt.views import centre_pixels, view_pixels
from c2srt.vocabulary import Vocabulary


@dataclass
class LoaderConfig:
    """What decides the batches: split, seed, image side `size` S in pixels, views, global batch
    `batch` and at most `micro_batch` images at once, shuffle `window` in shards, `streams` of the
    order; and how they are made: `workers` processes a rank (0: in the caller's process), each at
    most `prefetch` batches ahead; a loader that gives nothing for `patience` seconds has failed.
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
    partition = BatchPartition(config.batch, config.micro_batch, world)
    order, shards = training_order(config, index), index.split(config.split)
    samples = Samples(
        index.folder, shards, vocabulary, vocabulary.seen_count, order.open_shards(1 / world)
    )

    def batch_at(position: int) -> Batch:
        step, number = divmod(position, partition.accumulation)
        taken, epoch = (
            order.micro_batch(step, partition, rank * partition.accumulation + number),
            order.epoch_of(step),
        )
        view = epoch % max(config.views.count, 1)
        found = [
            samples.read(shard, sample)
            for shard, sample in zip(taken.shard, taken.sample, strict=True)
        ]
        images = [
            view_pixels(sample.image, config.views, config.seed, sample.id, view, config.size)
            for sample in found
        ]
        names = [shards[shard].name for shard in taken.shard]
        features = None if teacher is None else teacher.features(names, taken.sample, view)
        return collate(found, images, features, taken.weight, step, epoch, number)

    stop = partition.accumulation * stop_step if stop_step is not None else 2**62
    return iterate(batch_at, range(partition.accumulation * start_step, stop), config)


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
    shards = index.split(split)
    starts = np.cumsum([0] + [shard.count for shard in shards])
    first, last = (starts[-1] * part // world for part in (rank, rank + 1))
    samples = Samples(index.folder, shards, vocabulary, len(vocabulary), 2)

    def batch_at(position: int) -> Batch:
        places = np.arange(first + position * batch, min(first + (position + 1) * batch, last))
        shard = np.searchsorted(starts, places, side="right") - 1
        found = [samples.read(*place) for place in zip(shard, places - starts[shard], strict=True)]
        images = [centre_pixels(sample.image, config.size) for sample in found]
        return collate(found, images, None, np.ones(len(found), np.float32), position, 0, 0)

    return iterate(batch_at, range(-(-int(last - first) // batch)), config)


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
    """The batches at `positions`, in order, from `config.workers` forked processes.

    Raises LoaderFailed when one dies or sends nothing for `config.patience` seconds; UserError as
    `batch_at` does.
    """
    pinned = pinning()
    if config.workers:
        batches = prefetched(
            lambda position: batch_at(position).map(Tensor.numpy),
            positions,
            config.workers,
            config.prefetch,
            config.patience,
            lambda batch: pinned(batch.map(torch.from_numpy)),
        )
    else:
        batches = (pinned(batch_at(position)) for position in positions)
    yield from batches


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
