"""Where a training's batches come from: the loader, with the settings of the run."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from c2srt.loader import (
    Batch,
    LoaderConfig,
    evaluation_batches,
    train_batches,
    training_order,
)
from c2srt.shard_cache import cache_at
from c2srt.teacher.cache import TeacherCache
from c2srt.train.config import Config
from c2srt.train.data import TRAIN, VALIDATION
from c2srt.train.inputs import Inputs
from c2srt.train.sample_log import SAMPLES, recorded
from c2srt.train.world import World


def loader_config(config: Config, inputs: Inputs) -> LoaderConfig:
    """The loader gives up before the ranks that wait for this one: the failure should name the
    cause.
    """
    return LoaderConfig(
        size=inputs.image_size,
        batch=config.schedule.batch,
        micro_batch=config.schedule.micro_batch,
        seed=config.seed,
        split=TRAIN,
        streams=config.schedule.streams,
        views=config.views,
        workers=config.loader.workers,
        patience=0.75 * config.faults.collective_timeout,
        cache=config.loader.cache or "",
        cache_gb=config.loader.cache_gb,
    )


def steps_per_epoch(config: Config, inputs: Inputs) -> int:
    """Updates of one epoch: ceil(images / batch), known from the index."""
    return training_order(loader_config(config, inputs), inputs.index).steps_per_epoch


def teacher_cache(config: Config, inputs: Inputs) -> TeacherCache | None:
    """The teacher's features, checked against CLIP, views, seed and shards; None when no cache is
    used. Raises UserError.
    """
    return (
        TeacherCache.open(Path(config.teacher), inputs.teacher_key) if config.uses_teacher else None
    )


def check_sources(config: Config, inputs: Inputs) -> None:
    """Refuses a teacher cache or validation split that does not fit, before any worker starts.
    Raises UserError.
    """
    teacher_cache(config, inputs)
    shards, loader = inputs.index.split(TRAIN), config.loader
    cache_at(loader.cache or "", loader.cache_gb, inputs.index.folder, shards)
    if config.validation.every:
        inputs.index.split(VALIDATION)


def training_batches(
    config: Config, inputs: Inputs, world: World, start: int, steps: int, device: torch.device
) -> Iterator[tuple]:
    """The model's arguments for every micro-batch of this rank, from update `start` to the last."""
    batches: Iterator[Batch] = train_batches(
        loader_config(config, inputs),
        inputs.index,
        inputs.vocabulary,
        world.rank,
        world.size,
        start,
        steps,
        teacher_cache(config, inputs),
    )
    if config.tracking.samples:
        batches = recorded(
            batches, config.folder / SAMPLES, world.rank, config.partition.accumulation
        )
    for batch in batches:
        batch = batch.to(device)
        yield batch.images, batch.labels, batch.teacher, batch.weights


def validation_batches(
    config: Config, inputs: Inputs, world: World
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels [b, C]) of this rank's share of the validation split, at most
    `validation_images` over all ranks.
    """
    most = -(-config.validation.images // (world.size * config.schedule.micro_batch))
    batches = evaluation_batches(
        loader_config(config, inputs),
        inputs.index,
        inputs.vocabulary,
        VALIDATION,
        world.rank,
        world.size,
        config.schedule.micro_batch,
    )
    for batch in islice(batches, most):
        yield batch.images, batch.labels
