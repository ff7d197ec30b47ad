"""Measured rates of this machine for the configured model, as a small JSON file that later plans
read.

    {"kind": "cpu", "machine": "…", "date": "…", "torch": "…", "threads": 2,
     "values": {…fields of Cluster…}, "seconds": {piece: median seconds of a call},
     "clip": "ViT-B-16", "precision": "fp32", "images": 2}

Timed in turns: a matrix product of the ViT's own shape, a copy, decoding, the ViT, ISR and the
whole head alone for few images, and whole steps. An efficiency is what a piece reaches of the
product rate; what it takes for no image is its overhead. Where shards are, reads of them, too
(c2srt/plan/storage_rates.py).
"""

import logging
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch

from c2srt.errors import UserError
from c2srt.files import write_json
from c2srt.keys import changed
from c2srt.plan.hardware import CPU, GPU, MEASURED, Cluster, worker_threads
from c2srt.plan.harness import COPY_BYTES, DECODED, Harness, gemm_flops
from c2srt.plan.memory import head_shape, memory_of
from c2srt.plan.outline import Outline, outline
from c2srt.plan.sizes import Sizes
from c2srt.plan.speed import compute_seconds, speed_of, work_of
from c2srt.plan.storage_rates import storage_rates
from c2srt.shards import FILE as INDEX
from c2srt.train.config import Config as Training

log = logging.getLogger(__name__)

STEP, MOST = "step", 16
"""Images at once of the larger one of the two timings of each part; lowered until it takes about a
second.
"""


@dataclass(frozen=True)
class Measured:
    """Median seconds by piece of the harness made for `config` (one worker)."""

    config: Training
    outline: Outline
    images: list[int]
    seconds: dict[str, float]


def check_machine(cluster: Cluster) -> None:
    """Refuses to measure a GPU where there is none. Raises UserError."""
    if cluster.kind == GPU and not torch.cuda.is_available():
        raise UserError(
            f"cluster={cluster.name} is of GPUs and torch finds none here: measure there, or take"
            " cluster=cpu"
        )


def experiment(config: Training, images: int, cluster: Cluster) -> Training:
    """The configured model on one worker with one micro-batch of `images` a step; batches are
    decoded by the worker itself.
    """
    gpus = float(cluster.kind == GPU)
    return changed(
        config,
        {
            "workers": 1,
            "loader.workers": 0,
            "resources.gpus_per_worker": gpus,
            **at_once(images),
        },
    )


def at_once(images: int) -> dict[str, int]:
    """The keys of a batch of one micro-batch."""
    return {"schedule.batch": images, "schedule.micro_batch": images}


def amounts(config: Training, shape: Outline, cluster: Cluster, seen: int) -> list[int]:
    """Images at once to time: as many as one micro-batch has and the machine does in a second or
    so, and a quarter of them.
    """
    rate = cluster.rate(config.engine.precision) * (cluster.cores if cluster.kind == CPU else 1)
    image = work_of(config, shape, head_shape(config, shape, cluster, seen), None).image
    many = max(2, min(MOST, config.partition.micro_batch, int(rate / image)))
    return [max(1, many // 4), many]


def values_of(measured: Measured, cluster: Cluster, sizes: Sizes) -> dict:
    """The fields of `Cluster` that follow from the timings."""
    config, shape, seconds = measured.config, measured.outline, measured.seconds
    few, many = measured.images
    threads = worker_threads(cluster.cores, 1, config.loader.workers) if cluster.kind == CPU else 1
    rate = gemm_flops(shape, many) / seconds["gemm"]
    rates = replace(
        cluster,
        tflops=cluster.tflops | {config.engine.precision: rate / threads / 1e12},
        bandwidth_gb_s=2 * COPY_BYTES / seconds["copy"] / 1e9,
        vit_efficiency=1,
        isr_efficiency=1,
        ist_efficiency=1,
        step_overhead_ms=0,
        decode_images_s=DECODED / seconds["decode"],
    )
    found = with_efficiencies(measured, rates, sizes)
    predicted = step_seconds(changed(config, at_once(many)), shape, found, sizes)
    found = replace(found, step_overhead_ms=1e3 * max(0.0, seconds[STEP] - predicted))
    return {name: getattr(found, name) for name in MEASURED} | {
        "tflops": {config.engine.precision: found.rate(config.engine.precision) / 1e12}
    }


def with_efficiencies(measured: Measured, rates: Cluster, sizes: Sizes) -> Cluster:
    """`rates`, whose efficiencies are 1, with those of ViT, ISR and IST and their fixed times."""
    config, shape, seconds = measured.config, measured.outline, measured.seconds
    few, many = measured.images
    both = replace(config, model=replace(config.model, isr=True, ist=True))
    ideal = {
        count: ideal_seconds(changed(both, at_once(count)), shape, rates, sizes)
        for count in (few, many)
    }
    vit, vit_fixed = slope(
        seconds, "tower", few, many, {count: ideal[count]["ViT"] for count in ideal}
    )
    isr, isr_fixed = slope(
        seconds, "isr", few, many, {count: ideal[count]["ISR and loss"] for count in ideal}
    )
    rest = {
        f"ist-{count}": max(1e-6, seconds[f"head-{count}"] - seconds[f"isr-{count}"])
        for count in (few, many)
    }
    ist, ist_fixed = slope(rest, "ist", few, many, {count: ideal[count]["IST"] for count in ideal})
    return replace(
        rates,
        vit_efficiency=1 / vit,
        isr_efficiency=1 / isr,
        ist_efficiency=1 / ist,
        vit_overhead_ms=1e3 * vit_fixed,
        isr_overhead_ms=1e3 * isr_fixed,
        ist_overhead_ms=1e3 * ist_fixed,
    )


def ideal_seconds(
    config: Training, shape: Outline, cluster: Cluster, sizes: Sizes
) -> dict[str, float]:
    """Of one micro-batch."""
    memory = memory_of(config, shape, cluster, sizes.seen)
    work = work_of(config, shape, head_shape(config, shape, cluster, sizes.seen), memory.tiles)
    return compute_seconds(config, shape, cluster, work, config.partition.micro_batch)


def step_seconds(config: Training, shape: Outline, cluster: Cluster, sizes: Sizes) -> float:
    memory = memory_of(config, shape, cluster, sizes.seen)
    work = work_of(config, shape, head_shape(config, shape, cluster, sizes.seen), memory.tiles)
    return speed_of(config, shape, cluster, work, memory).step


def slope(
    seconds: dict[str, float], piece: str, few: int, many: int, ideal: dict[int, float]
) -> tuple[float, float]:
    """How many times the ideal a piece takes, and its seconds for no work; without a sensible line,
    all is work.
    """
    first, second = seconds[f"{piece}-{few}"], seconds[f"{piece}-{many}"]
    factor = (second - first) / (ideal[many] - ideal[few])
    fixed = second - factor * ideal[many]
    if factor <= 0 or fixed < 0:
        return second / ideal[many], 0.0
    return factor, fixed


def measure(
    harnesses: list[Harness], turns: int, note: Callable[[str], None] = log.info
) -> dict[str, float]:
    """Median seconds of each piece of every harness; every turn calls each of them once, after one
    call that does not count.
    """
    found: dict[str, list[float]] = {piece: [] for harness in harnesses for piece in harness.pieces}
    for turn in range(turns + 1):
        note(f"  turn {turn} of {turns}" if turn else "  warm-up")
        for harness in harnesses:
            for piece in harness.pieces:
                taken = harness.seconds(piece)
                if turn:
                    found[piece].append(taken)
    return {piece: statistics.median(values) for piece, values in found.items()}


def calibrate(config, sizes: Sizes) -> None:
    """Measures and writes `config.calibration`."""
    check_machine(config.cluster)
    shape, cluster = outline(config.clip, config.model), config.cluster
    images = amounts(config, shape, cluster, sizes.seen)
    training = experiment(config.training(), images[1], cluster)
    with Harness({STEP: training}, sizes, images, config.clock) as harness:
        note = quiet if config.json else log.info
        seconds = measure([harness], config.turns, note)
    values = values_of(Measured(training, shape, images, seconds), cluster, sizes)
    if (Path(config.shards) / INDEX).is_file():
        values |= storage_rates(Path(config.shards))
    else:
        note(f"  {config.shards} holds no shards: the storage keeps its assumed rates")
    write_json(Path(config.calibration), record(training, cluster, seconds, values))
    note(f"written to {config.calibration}\n")


def quiet(line: str) -> None:
    """For a caller whose output is one JSON object."""


def record(config: Training, cluster: Cluster, seconds: dict[str, float], values: dict) -> dict:
    """The content of a calibration file."""
    from c2srt.profiling import machine

    cuda = torch.cuda.is_available() and cluster.kind != CPU
    threads = worker_threads(cluster.cores, 1, 0) if cluster.kind == CPU else 0
    return {
        "kind": cluster.kind,
        "machine": machine(torch.device("cuda" if cuda else "cpu"), threads),
        "host": platform.node(),
        "date": datetime.now().isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "threads": threads,
        "values": values,
        "seconds": seconds,
        "clip": config.clip.name,
        "precision": config.engine.precision,
        "images": config.schedule.batch,
    }
