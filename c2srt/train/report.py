"""What rank 0 says and records at the start of a run."""

import os

import torch

from c2srt.files import read_json, write_json
from c2srt.model.network import C2SRT
from c2srt.tracking import Tracker, how_to_open, job_tags
from c2srt.train.checkpoints import Record, flat
from c2srt.train.config import Config
from c2srt.train.world import World

RESOLVED, RUN = "config.json", "run.json"
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def announce(config: Config, world: World, model: C2SRT, steps: int, start: int, tracker: Tracker | None) -> None:
    """Prints sizes, accumulation, the head's tiles and a memory estimate, before the first step; the tracker gets the tiles."""
    if not world.first:
        return
    total = sum(count_of(p) for p in model.parameters())
    trainable = sum(count_of(p) for p in model.parameters() if p.requires_grad)
    print(f"model: {total / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M of them trained; {model.seen_count:,} seen categories")
    print(f"batch: {config.batch} = {config.micro_batch} images × {world.size} workers × {config.accumulation} accumulated")
    print(f"steps: {steps:,}" + (f", of which {start:,} are done" if start else ""))
    line, numbers = model.training_plan(config.micro_batch, world.device, DTYPES[config.precision])
    print(line)
    if tracker:
        tracker.metrics(numbers, start)
    offloaded = ", optimizer offloaded" if config.offload else ""
    print(f"engine: ZeRO {config.zero}{offloaded}, {config.precision}, on {world.device.type}; weights, gradients and optimizer take "
          f"about {engine_mib(config, world.size, total, trainable):,.0f} MiB a worker", flush=True)


def count_of(parameter: torch.nn.Parameter) -> int:
    """Elements of a parameter, whole even where ZeRO-3 keeps a shard."""
    return getattr(parameter, "ds_numel", parameter.numel())


def engine_mib(config: Config, workers: int, total: int, trainable: int) -> float:
    """MiB that the engine holds on one worker between steps, activations and buckets left out.

    Weights in the training type (sharded by ZeRO-3), gradients (by 2), float32 master weights when they are not the
    weights themselves, and AdamW's two moments (by 1). Source: Rajbhandari et al., ZeRO (2020), sec. 3.
    """
    size = BYTES[config.precision]
    masters = 4 if config.precision != "fp32" or config.zero > 0 else 0
    weights = size * total / (workers if config.zero == 3 else 1)
    gradients = size * trainable / (workers if config.zero >= 2 else 1)
    optimizer = (8 + masters) * trainable / (workers if config.zero >= 1 else 1)
    return (weights + gradients + optimizer) / 2**20


def open_tracker(config: Config, world: World, record: Record) -> Tracker | None:
    """Rank 0's tracker: the run of the checkpoint, else the one that a start killed before its first checkpoint left."""
    if not world.first:
        return None
    uri = config.tracking.store(config.work, os.environ)
    path = config.folder / RUN
    left = read_json(path, "c2srt train") if path.exists() else {}
    run_id = left.get("run_id") if left.get("config_hash") == config.hash() else None
    tags = job_tags() | world.tags | {"config_hash": config.hash(), "world_size": world.size}
    tracker = Tracker(uri, config.tracking.experiment, config.tracking.name, flat(config.settings()), tags,
                      record.run_id or run_id)
    write_json(path, {"run_id": tracker.run_id, "uri": uri, "config_hash": config.hash()})
    write_json(config.folder / RESOLVED, config.settings())
    write_json(config.folder / "inputs.json", record.inputs)
    for name in (RESOLVED, "inputs.json"):
        tracker.artifact(config.folder / name)
    if tracker.run_id:
        print(f"tracking: {how_to_open(uri).splitlines()[0]}")
    return tracker
