"""What rank 0 says and records at the start of a run."""

import logging
import os
from pathlib import Path

import torch

from c2srt.files import write_json
from c2srt.model.network import Network
from c2srt.shards import ShardIndex
from c2srt.tracking import (
    DESCRIPTION,
    DataSet,
    Run,
    Tracker,
    how_to_open,
    job_tags,
    redacted,
)
from c2srt.train.checkpoints import Record, flat
from c2srt.train.config import Config
from c2srt.train.data import TRAIN
from c2srt.train.memory import engine_bytes
from c2srt.train.world import World

log = logging.getLogger(__name__)

RESOLVED, INPUTS = "config.json", "inputs.json"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def announce(
    config: Config, world: World, model: Network, steps: int, start: int, tracker: Tracker | None
) -> None:
    """Says sizes, accumulation, the head's tiles and a memory estimate, before the first step;
    the tracker gets the tiles, which do not change, as parameters.
    """
    if not world.first:
        return
    total = sum(count_of(p) for p in model.parameters())
    trainable = sum(count_of(p) for p in model.parameters() if p.requires_grad)
    log.info(
        f"model: {total / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M of them trained;"
        f" {model.seen_count:,} seen categories"
    )
    partition = config.partition
    padding = (
        f", {partition.padded - partition.batch} of them padding"
        if partition.padded > partition.batch
        else ""
    )
    log.info(
        f"batch: {partition.padded} = {partition.micro_batch} images × {world.size} workers ×"
        f" {partition.accumulation} accumulated{padding}"
    )
    log.info(f"steps: {steps:,}" + (f", of which {start:,} are done" if start else ""))
    line, numbers = model.training_summary(
        config.schedule.micro_batch, world.device, DTYPES[config.engine.precision]
    )
    log.info(line)
    if tracker:
        tracker.params(numbers)
    offloaded = ", optimizer offloaded" if config.engine.offload else ""
    log.info(
        f"engine: ZeRO {config.engine.zero}{offloaded}, {config.engine.precision}, on"
        f" {world.device.type}; weights, gradients and optimizer take about"
        f" {engine_mib(config, world.size, total, trainable):,.0f} MiB a worker"
    )


def count_of(parameter: torch.nn.Parameter) -> int:
    """Elements of a parameter, whole even where ZeRO-3 keeps a shard."""
    return getattr(parameter, "ds_numel", parameter.numel())


def engine_mib(config: Config, workers: int, total: int, trainable: int) -> float:
    """MiB that the engine holds on one worker between steps, activations and buckets left out."""
    return (
        sum(
            engine_bytes(
                config.engine.precision, config.engine.zero, workers, total, trainable
            ).values()
        )
        / 2**20
    )


def open_tracker(config: Config, world: World, record: Record, index: ShardIndex) -> Tracker | None:
    """Rank 0's tracker: the run of this folder goes on, or of the checkpoint; else a new one is
    opened.
    """
    if not world.first:
        return None
    uri, settings = config.tracking.store(config.work, os.environ), redacted(config.settings())
    tags = (
        job_tags()
        | world.tags
        | {
            "config_hash": config.hash(),
            "world_size": str(world.size),
            DESCRIPTION: note(config),
        }
    )
    tracking = config.tracking
    run = Run(
        tracking.experiment,
        tracking.named(config.folder, Path(config.work)),
        flat(settings) | {f"inputs.{name}": value for name, value in record.inputs.items()},
        tags,
        config.hash(),
        tracking.parent,
        data_set(config, index),
    )
    tracker = Tracker(config.folder, uri, run, record.run_id)
    write_json(config.folder / RESOLVED, settings)
    write_json(config.folder / INPUTS, record.inputs)
    for name in (RESOLVED, INPUTS):
        tracker.artifact(config.folder / name)
    log.info(f"tracking: {how_to_open(uri)}")
    return tracker


def data_set(config: Config, index: ShardIndex) -> DataSet:
    images = sum(shard.count for shard in index.split(TRAIN))
    return DataSet(config.tracking.experiment, index.version, config.shards, images)


def note(config: Config) -> str:
    """The run's description."""
    return (
        f"Training into `{config.folder}`: {config.schedule.epochs} epochs of batch"
        f" {config.schedule.batch}, {config.engine.precision}, ZeRO {config.engine.zero}. Run the"
        " same command again to go on; an evaluation adds its results here."
    )


def close_tracker(config: Config, tracker: Tracker, step: int, finished: bool) -> None:
    """The run's end; a finished training's model is tracked unless tracking.model=false."""
    if finished and config.tracking.model:
        tracker.model(config.folder / "model", step, config.tracking.register)
    tracker.close("FINISHED" if finished else "KILLED")
