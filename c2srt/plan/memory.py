"""Memory of one worker by part, before anything runs.

Shapes: B images of a micro-batch, P patches, S seen categories, D joint width.
"""

from dataclasses import dataclass

import torch

from c2srt.errors import UserError
from c2srt.keys import changed
from c2srt.model.tiling import (
    CPU_DEFAULT_MIB,
    CPU_SHARE,
    GPU_SHARE,
    MIB,
    Shape,
    Tiling,
    choose_tiling,
    chunk_limit,
)
from c2srt.plan.hardware import CPU, Cluster
from c2srt.plan.outline import Outline
from c2srt.train.config import ONLINE, Config
from c2srt.train.memory import BYTES, engine_bytes

GIB = 2**30
BUCKET = 500_000_000
"""Elements of DeepSpeed 0.19's reduce bucket, which ZeRO 1-3 allocate whole (zero/config.py)."""
OFFLOADED = ("master weights", "AdamW's moments")


@dataclass(frozen=True)
class Memory:
    """Bytes by part on a worker's device and in its node's CPU memory (offload), what the worker
    may use, and the head's tiles (None: not even one fits).
    """

    parts: dict[str, float]
    host: dict[str, float]
    limit: float
    host_limit: float
    tiles: Tiling | None
    problem: str = ""

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def left(self) -> float:
        return self.limit - self.total

    @property
    def fits(self) -> bool:
        return (
            self.tiles is not None and self.left >= 0 and sum(self.host.values()) <= self.host_limit
        )


def memory_of(config: Config, outline: Outline, cluster: Cluster, seen: int) -> Memory:
    """What a worker needs; the head's tiles take what `model.tile_mib` or the device's default
    allows of what is left.
    """
    told, images = config.engine, config.partition.micro_batch
    size, sizes = BYTES[told.precision], (outline.parameters, outline.trained)
    engine = engine_bytes(told.precision, told.zero, config.workers, *sizes)
    host = {name: engine.pop(name) for name in OFFLOADED} if told.offload else {}
    state = engine | {"buckets": bucket_bytes(config, outline)}
    if config.loss.distillation > 0 and config.teacher == ONLINE:
        state["online teacher"] = 4 * outline.tower_parameters
    head_size = head_itemsize(told.precision)
    # the rows and their gradients; the head's copy, its sums and what autograd keeps of them
    features = images * outline.tokens * outline.joint * (2 * size + 3 * head_size)
    saved, working = outline.saved_bytes(images, size), outline.working_bytes(images, size)
    tables = seen * (4 * outline.joint + 8 * config.model.neighbours) + images * (
        seen + 3 * outline.image_size**2
    )
    state |= {
        "text, graph, labels": tables,
        "reserved": cluster.reserved_gib * GIB,
        "ViT: saved for backward": saved,
        "features": features,
    }
    limit = memory_limit(config, cluster)
    shape = head_shape(config, outline, cluster, seen)
    budget = tile_budget(config, cluster)
    try:
        tiles, problem = choose_tiling(shape, config.model, images, budget), ""
    except UserError as error:
        tiles, problem = None, str(error)
    # tiles and the ViT's working rows are never alive together
    parts = state | {"head tiles or a block at work": max(working, tiles.bytes if tiles else 0)}
    return Memory(
        parts,
        {name: value * local_workers(config, cluster) for name, value in host.items()},
        limit,
        cluster.host_memory_gib * GIB,
        tiles,
        problem,
    )


def memory_limit(config: Config, cluster: Cluster) -> float:
    """A worker's share of its GPU, or on a CPU of its node."""
    shared = (
        local_workers(config, cluster) if cluster.kind == CPU else max(1, workers_per_gpu(config))
    )
    return cluster.memory_gib * GIB / shared


def workers_per_gpu(config: Config) -> int:
    return max(1, int(1 / config.resources.share + 1e-9))


def local_workers(config: Config, cluster: Cluster) -> int:
    """Workers on a (full) node."""
    return min(
        config.workers, cluster.per_node * (1 if cluster.kind == CPU else workers_per_gpu(config))
    )


def bucket_bytes(config: Config, outline: Outline) -> float:
    """A micro-batch's gradients, and how they are handed on. Stage 0 flattens them before it adds
    them up; stages 1-3 hold a bucket of fixed size, in stage 1 of float32 sums (read in deepspeed
    0.19.8, zero/stage_1_and_2.py and stage3.py).
    """
    if config.engine.zero == 0:
        return 2 * BYTES[config.engine.precision] * outline.trained
    return BUCKET * (4 if config.engine.zero == 1 else BYTES[config.engine.precision])


def head_itemsize(precision: str) -> int:
    """Bytes of a value in the head, which computes float16 in float32."""
    return 2 if precision == "bf16" else 4


def head_shape(config: Config, outline: Outline, cluster: Cluster, seen: int) -> Shape:
    device = torch.device("cpu" if cluster.kind == CPU else "cuda")
    return Shape(
        seen,
        outline.patches,
        outline.joint,
        head_itemsize(config.engine.precision),
        chunk_limit(outline.joint, device),
    )


def tile_budget(config: Config, cluster: Cluster) -> int:
    """As `c2srt.train.tiles.settle_tiles` for a new run."""
    if config.model.tile_mib is not None:
        return config.model.tile_mib * MIB
    if cluster.kind == CPU:
        return min(CPU_DEFAULT_MIB * MIB, int(cluster.memory_gib * GIB * CPU_SHARE))
    return int(memory_limit(config, cluster) * GPU_SHARE)


def helpful(config: Config, outline: Outline, cluster: Cluster, seen: int) -> list[str]:
    """Changes of keys, cheapest first, each of which makes an experiment fit that does not; [] if
    none of them does alone.
    """
    tries: list[dict] = []
    micro = config.partition.micro_batch
    while micro > 1:
        micro //= 2
        tries.append({"schedule.micro_batch": micro})
    if config.engine.precision == "fp32" and cluster.kind != CPU:
        tries.append({"engine.precision": "bf16"})
    tries += [
        {"engine.zero": zero}
        for zero in (1, 2, 3)
        if zero > config.engine.zero and config.workers > 1
    ]
    tries += [
        {"engine.zero": max(1, config.engine.zero), "engine.offload": True},
        {"schedule.micro_batch": 1, "engine.zero": 3, "engine.offload": True},
    ]
    found, kinds = [], set()
    for change in tries:
        kind = tuple(change)
        if kind not in kinds and memory_of(changed(config, change), outline, cluster, seen).fits:
            kinds.add(kind)
            found.append(" ".join(f"{name}={str(value).lower()}" for name, value in change.items()))
    return found
