"""`c2srt plan`: what an experiment will cost on a cluster, before anyone pays. Needs no data, no
weights and no GPU.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Optional

from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.model.config import check_choice
from c2srt.model.kinds import KINDS
from c2srt.plan.hardware import CPU, Cluster, calibrated
from c2srt.plan.memory import Memory, head_shape, helpful, memory_of
from c2srt.plan.outline import Outline, outline
from c2srt.plan.speed import Speed, Work, speed_of, sync_bytes, work_of
from c2srt.plan.storage import Sizes, disk_of, find_sizes, read_rate, shard_seconds, teacher_seconds
from c2srt.train import config as train

DOES_NOT_FIT = 1


@dataclass
class Config(train.Config):
    """Keys of `c2srt plan`: those of `c2srt train`, and these (configs/plan.yaml)."""

    cluster: Cluster = field(default_factory=Cluster)
    sizes: Sizes = field(default_factory=Sizes)
    data_name: str = ""
    gpus: Optional[list[int]] = None
    images: Optional[int] = None
    calibration: Optional[str] = None
    calibrate: bool = False
    check: bool = False
    turns: int = 5
    clock: str = "wall"
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus is not None and (not self.gpus or min(self.gpus) < 1):
            raise UserError(
                f"gpus={self.gpus} must be a list of numbers of at least 1, as in 'gpus=[1,8,64]'"
            )
        if self.images is not None and self.images < 1 or self.turns < 1:
            raise UserError(f"images={self.images} and turns={self.turns} must be at least 1")
        check_choice("clock", self.clock, ("wall", "cpu"))
        if not KINDS[self.model.kind].planned:
            raise UserError(
                f"model={self.model.kind}: only C²SRT's own head is counted; time a few steps of "
                f"`{Command('train', model=self.model.kind, steps=20)}` instead"
            )
        if self.calibrate and self.calibration is None:
            raise UserError("calibrate=true needs calibration=…, the JSON file to write")

    def training(self, gpus: int | None = None) -> train.Config:
        """The experiment on `gpus` GPUs (CPU: workers), or on as many workers as it says."""
        workers = (
            self.workers
            if gpus is None
            else round(gpus / (self.gpus_per_worker if 0 < self.gpus_per_worker < 1 else 1))
        )
        return replace(self, workers=workers, gpus=None, calibrate=False)


@dataclass(frozen=True)
class Estimate:
    """Everything about one experiment on one number of workers."""

    config: train.Config
    cluster: Cluster
    sizes: Sizes
    outline: Outline
    work: Work
    memory: Memory
    speed: Speed
    help: list[str]

    @property
    def devices(self) -> int:
        """GPUs; on a CPU workers."""
        share = self.config.gpus_per_worker if 0 < self.config.gpus_per_worker < 1 else 1
        return (
            self.config.workers
            if self.cluster.kind == CPU
            else max(1, round(self.config.workers * share))
        )

    @property
    def nodes(self) -> int:
        return self.cluster.nodes(self.devices)

    @property
    def steps(self) -> int:
        return self.config.total_steps(-(-self.sizes.train // self.config.batch))

    @property
    def seconds(self) -> float:
        return self.steps * self.speed.step

    @property
    def loader_cores(self) -> float:
        """Cores of a worker's loader that would just feed it."""
        return (
            self.config.batch
            / self.config.workers
            / self.speed.computing
            / self.cluster.decode_images_s
        )

    @property
    def cores_asked(self) -> int:
        """Cores of a node that the workers and their loaders keep busy."""
        local = -(-self.config.workers // self.nodes)
        return local * (1 + self.config.loader_workers)

    @property
    def disk(self) -> dict[str, float]:
        return disk_of(self.config, self.outline, self.sizes)

    @property
    def read(self) -> float:
        """Bytes a second that each node reads while training."""
        return read_rate(self.config, self.outline, self.sizes, self.speed.images_s, self.nodes)

    @property
    def sync(self) -> float:
        return sync_bytes(self.config, self.outline)

    @property
    def shard_seconds(self) -> float:
        return shard_seconds(self.sizes, self.cluster, self.nodes)

    @property
    def teacher_seconds(self) -> float:
        return teacher_seconds(
            self.config, self.outline, self.cluster, self.work, self.sizes, self.nodes
        )

    def numbers(self) -> dict:
        """The estimate as plain values: bytes, seconds, FLOPs."""
        return {
            "gpus": self.devices,
            "nodes": self.nodes,
            "workers": self.config.workers,
            "batch": self.config.batch,
            "micro_batch": self.config.deal.micro_batch,
            "accumulation": self.config.deal.accumulation,
            "steps": self.steps,
            "fits": self.memory.fits,
            "help": self.help,
            "memory_bytes": self.memory.parts,
            "host_bytes": self.memory.host,
            "memory_limit_bytes": self.memory.limit,
            "parameters": self.outline.parameters,
            "trained_parameters": self.outline.trained,
            "flops_per_image": vars(self.work),
            "step_seconds": self.speed.step,
            "step_parts_seconds": self.speed.parts,
            "loader_seconds": self.speed.loader,
            "images_per_s": self.speed.images_s,
            "hours": self.seconds / 3600,
            "gpu_hours": self.devices * self.seconds / 3600,
            "loader_cores_per_worker": self.loader_cores,
            "disk_bytes": self.disk,
            "read_bytes_per_s_per_node": self.read,
            "sync_bytes_per_step": self.sync,
            "shard_hours": self.shard_seconds / 3600,
            "teacher_hours": self.teacher_seconds / 3600,
        }


def estimate(
    config: train.Config, cluster: Cluster, sizes: Sizes, shape: Outline | None = None
) -> Estimate:
    """Counts one experiment. Raises UserError on a model that does not exist, or a cluster without
    a rate for its precision.
    """
    shape = shape or outline(config.clip, config.model)
    memory = memory_of(config, shape, cluster, sizes.seen)
    work = work_of(config, shape, head_shape(config, shape, cluster, sizes.seen), memory.tiles)
    speed = speed_of(config, shape, cluster, work, memory)
    advice = [] if memory.fits else helpful(config, shape, cluster, sizes.seen)
    return Estimate(config, cluster, sizes, shape, work, memory, speed, advice)


def run(config: Config) -> int:
    """Prints the plan; returns 1 where the experiment does not fit. Raises UserError on bad
    input.
    """
    if config.check:
        from c2srt.plan.check import check

        return check(config)
    sizes, source = find_sizes(config.sizes, Path(config.shards), config.images)
    if config.calibrate:
        from c2srt.plan.calibrate import calibrate

        calibrate(config, sizes)
    cluster = calibrated(config.cluster, config.calibration)
    shape = outline(config.clip, config.model)
    found = [
        estimate(config.training(count), cluster, sizes, shape) for count in config.gpus or [None]
    ]
    if config.json:
        plans = [one.numbers() for one in found]
        print(
            json.dumps(
                {
                    "cluster": vars(cluster),
                    "sizes": vars(sizes),
                    "sizes_from": source,
                    "calibration": config.calibration,
                    "plans": plans,
                },
                indent=1,
            )
        )
    else:
        from c2srt.plan.tables import comparison, screen

        print(
            "\n".join(
                (comparison if config.gpus else screen)(
                    found if config.gpus else found[0], config, source
                )
            )
        )
    return 0 if all(one.memory.fits for one in found) else DOES_NOT_FIT
