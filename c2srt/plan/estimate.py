"""One experiment on one cluster, counted: memory, time, disk and network."""

from dataclasses import dataclass

from c2srt.plan.caching import EVERYTHING, Caching, FromStorage, caching_of
from c2srt.plan.hardware import CPU, Cluster
from c2srt.plan.lasting import Lasting, lasting_of
from c2srt.plan.loading import DECODING, LATENCY, reads_of
from c2srt.plan.memory import Memory, head_shape, helpful, memory_of
from c2srt.plan.outline import Outline, outline
from c2srt.plan.sizes import Sizes
from c2srt.plan.speed import Speed, Work, speed_of, sync_bytes, work_of
from c2srt.plan.storage import disk_of, read_rate, shard_seconds, teacher_seconds
from c2srt.train.config import Config


@dataclass(frozen=True)
class Estimate:
    """Everything about one experiment on one number of workers."""

    config: Config
    cluster: Cluster
    sizes: Sizes
    outline: Outline
    work: Work
    memory: Memory
    speed: Speed
    first: Speed
    """In the epoch that fills the cache; as the others where there is none."""
    help: list[str]
    caching: Caching | None

    @property
    def devices(self) -> int:
        return devices_of(self.config, self.cluster)

    @property
    def unit(self) -> str:
        """What the devices are called, one of them."""
        return "worker" if self.cluster.kind == CPU else "GPU"

    @property
    def nodes(self) -> int:
        return self.cluster.nodes(self.devices)

    @property
    def steps(self) -> int:
        return self.config.schedule.total_steps(self.epoch)

    @property
    def epoch(self) -> int:
        """Steps of one."""
        return -(-self.sizes.train // self.config.schedule.batch)

    @property
    def seconds(self) -> float:
        first = min(self.steps, self.epoch)
        return first * self.first.step + (self.steps - first) * self.speed.step

    @property
    def lasting(self) -> Lasting:
        """The run with its start, records, checkpoints and failures."""
        step = self.speed.step
        return lasting_of(self.config, self.outline, self.cluster, self.devices, step, self.seconds)

    @property
    def loader_cores(self) -> float:
        """Cores of a worker's loader that would just feed it."""
        return (
            self.config.schedule.batch
            / self.config.workers
            / self.speed.computing
            / self.cluster.decode_images_s
        )

    @property
    def processes_needed(self) -> float:
        """Loader processes of a worker that would just feed it, as far as they can."""
        speed = self.speed
        slowest = max(speed.loading[name] for name in (DECODING, LATENCY))
        return slowest * max(1, speed.loader_workers) / speed.computing

    @property
    def cores_asked(self) -> int:
        """Cores of a node that the workers and their loaders keep busy."""
        local = -(-self.config.workers // self.nodes)
        return local * (1 + self.config.loader.workers)

    @property
    def disk(self) -> dict[str, float]:
        return disk_of(self.config, self.outline, self.sizes)

    @property
    def read(self) -> float:
        """Bytes a second that each node reads while training, when its cache is filled."""
        rate = self.speed.images_s
        return read_rate(self.config, self.outline, self.sizes, rate, self.nodes, self.storage)

    @property
    def reads(self) -> float:
        """Reads a second of each node: a picture's, and its cached feature's."""
        return self.speed.images_s * reads_of(self.config, self.storage) / self.nodes

    @property
    def storage(self) -> FromStorage:
        return self.caching.later if self.caching else EVERYTHING

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
            "batch": self.config.schedule.batch,
            "micro_batch": self.config.partition.micro_batch,
            "accumulation": self.config.partition.accumulation,
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
            "loading_seconds": self.speed.loading,
            "images_per_s": self.speed.images_s,
            "computing_hours": self.seconds / 3600,
            "hours": self.lasting.total / 3600,
            "gpu_hours": self.devices * self.lasting.total / 3600,
            "lasting": vars(self.lasting),
            "loader_cores_per_worker": self.loader_cores,
            "disk_bytes": self.disk,
            "read_bytes_per_s_per_node": self.read,
            "cache": self.caching and self.cache_numbers(self.caching),
            "sync_bytes_per_step": self.sync,
            "shard_hours": self.shard_seconds / 3600,
            "teacher_hours": self.teacher_seconds / 3600,
        }

    def cache_numbers(self, caching: Caching) -> dict:
        """Bytes of a node; the share of them that each later epoch copies, or reads."""
        return {
            "needed_bytes": caching.needed,
            "held_bytes": min(caching.held, caching.needed),
            "copied_again": caching.again,
            "read_by_picture": caching.read,
            "first_epoch_step_seconds": self.first.step,
        }


def devices_of(config: Config, cluster: Cluster) -> int:
    """GPUs; on a CPU workers."""
    if cluster.kind == CPU:
        return config.workers
    return max(1, round(config.workers * config.resources.share))


def estimate(
    config: Config, cluster: Cluster, sizes: Sizes, shape: Outline | None = None
) -> Estimate:
    """Counts one experiment. Raises UserError on a model that does not exist, or a cluster without
    a rate for its precision.
    """
    shape = shape or outline(config.clip, config.model)
    memory = memory_of(config, shape, cluster, sizes.seen)
    work = work_of(config, shape, head_shape(config, shape, cluster, sizes.seen), memory.tiles)
    caching = caching_of(config, sizes, cluster.nodes(devices_of(config, cluster)))
    first, later = (caching.first, caching.later) if caching else (EVERYTHING, EVERYTHING)
    filling, speed = (
        speed_of(config, shape, cluster, work, memory, sizes, each) for each in (first, later)
    )
    advice = [] if memory.fits else helpful(config, shape, cluster, sizes.seen)
    return Estimate(config, cluster, sizes, shape, work, memory, speed, filling, advice, caching)
