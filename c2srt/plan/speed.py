"""Seconds of a step, part by part: matrix products at a measured rate, passes over memory at a
measured bandwidth.

A part's products take FLOPs / (rate × efficiency). The head's passes over gathered rows are added
(its kernels run one after the other); the ViT is bound by its products or by its bytes, whichever
takes longer. On a GPU Python and launches hide behind the work, on a CPU they come on top.

Shapes: B images of a micro-batch, S seen categories, D joint width, K neighbours (self-loop
included).
"""

import math
from dataclasses import dataclass, replace

from c2srt.model.config import ModelConfig
from c2srt.model.tiling import Shape, Tiling, flops_per_image
from c2srt.plan.caching import EVERYTHING, FromStorage
from c2srt.plan.hardware import CPU, Cluster, worker_threads
from c2srt.plan.loading import DECODING, Loading, loading_of
from c2srt.plan.memory import Memory, local_workers, workers_per_gpu
from c2srt.plan.outline import Outline
from c2srt.plan.sizes import Sizes
from c2srt.train.config import ONLINE, Config
from c2srt.train.memory import BYTES, SUMS

EDGE_PASSES = 8
"""Passes over a layer's gathered rows [S, K, D], forward and backward (counted in
c2srt/BENCHMARKS.md).
"""
SELECTION_PASSES = 6
"""Passes over the patch scores [S, P]."""
ADAMW_BYTES = 28
"""Reads of weight, gradient and two moments, writes of all but the gradient, 4 bytes each."""


@dataclass(frozen=True)
class Work:
    """FLOPs of one image by part, forward and backward, and bytes that the head's passes move for
    one image.
    """

    vit_forward: float
    vit_backward: float
    isr: float
    ist: float
    once: float
    """FLOPs of IST once a micro-batch: the categories' text rows and the folded map."""
    isr_bytes: float
    ist_bytes: float
    teacher: float

    @property
    def image(self) -> float:
        return self.vit_forward + self.vit_backward + self.isr + self.ist + self.teacher


@dataclass(frozen=True)
class Speed:
    """Seconds of a step by part, for one worker; `loading` is how long each part of the pictures'
    way to it needs for as many images.
    """

    parts: dict[str, float]
    loading: Loading
    cores: float
    """Cores a worker has, on a CPU."""
    threads: int
    loader_workers: int
    images: int
    """Images of a step over all workers."""

    @property
    def computing(self) -> float:
        return sum(self.parts.values())

    @property
    def loader(self) -> float:
        """Seconds that a worker's pictures need."""
        return max(self.loading.values())

    @property
    def binds(self) -> str:
        """The slowest part of their way."""
        return max(self.loading, key=self.loading.__getitem__)

    @property
    def step(self) -> float:
        """Loader processes work beside the training: the slower of the two decides, and on a CPU
        the cores that both share.
        """
        if self.loader_workers == 0:
            return self.computing + self.loader
        busy = self.threads * self.computing + self.loading[DECODING] * self.loader_workers
        shared = busy / self.cores if self.cores else 0
        return max(self.computing, self.loader, shared)

    @property
    def waiting(self) -> float:
        """Seconds of a step that the training waits for data."""
        return self.step - self.computing

    @property
    def images_s(self) -> float:
        return self.images / self.step


def work_of(config: Config, outline: Outline, shape: Shape, tiles: Tiling | None) -> Work:
    """Counts of one image; a loss over verified categories only (`unverified=ignore`) is counted as
    over all of them.
    """
    model, fold = config.model, bool(tiles and tiles.fold)
    head = sum(flops_per_image(shape, model, fold))
    isr = sum(flops_per_image(shape, replace(model, ist=False), False))
    entry = (
        shape.categories
        * (model.neighbours + model.self_loops)
        * shape.width
        * shape.itemsize
        * EDGE_PASSES
        * model.layers
    )
    online = config.loss.distillation > 0 and config.teacher == ONLINE
    return Work(
        outline.forward_flops(),
        outline.backward_flops(),
        isr,
        head - isr,
        once(shape, model, fold) if model.ist else 0,
        SELECTION_PASSES * shape.itemsize * shape.categories * shape.patches * model.isr,
        entry * model.ist,
        outline.forward_flops() * online,
    )


def once(shape: Shape, model: ModelConfig, fold: bool) -> float:
    """Text rows [S, E] and the gradient of their map; with the fold two more products of [D, 2 D +
    1], and their gradients.
    """
    width, columns = shape.width, 3 if fold else 1
    return 4 * shape.categories * width**2 * columns + fold * 12 * width**2 * (2 * width + 1)


def worker_rate(config: Config, cluster: Cluster) -> tuple[float, float, int, float]:
    """Of one worker: matrix products (FLOP/s), memory bandwidth (bytes/s), threads and cores (0 of
    both on a GPU).
    """
    rate, bandwidth = cluster.rate(config.engine.precision), cluster.bandwidth_gb_s * 1e9
    if cluster.kind == CPU:
        local = local_workers(config, cluster)
        threads = worker_threads(cluster.cores, local, config.loader.workers)
        cores = max(cluster.cores / local, 1e-9)
        return rate * min(threads, cores), bandwidth / local, threads, cores
    share = min(1.0, 1 / workers_per_gpu(config))
    return rate * share, bandwidth * share, 0, 0


def compute_seconds(
    config: Config, outline: Outline, cluster: Cluster, work: Work, images: int
) -> dict[str, float]:
    """Of one micro-batch of `images`: {"ViT", "ISR and loss", "IST", "Python and launches", "online
    teacher"}.
    """
    rate, bandwidth, _, _ = worker_rate(config, cluster)
    size = BYTES[config.engine.precision]
    products = images * (work.vit_forward + work.vit_backward) / (rate * cluster.vit_efficiency)
    moved = size * (outline.tower_parameters + 2 * outline.tower_trained) + 3 * outline.saved_bytes(
        images, size
    )
    parts = {
        "ViT": max(products, moved / bandwidth),
        "ISR and loss": images
        * (work.isr / rate + work.isr_bytes / bandwidth)
        / cluster.isr_efficiency,
        "IST": (images * work.ist + work.once) / rate / cluster.ist_efficiency
        + images * work.ist_bytes / bandwidth / cluster.ist_efficiency,
    }
    if work.teacher:
        slower = cluster.rate(config.engine.precision) / cluster.rate("fp32")  # it stays float32
        parts["online teacher"] = images * work.teacher * slower / (rate * cluster.vit_efficiency)
    fixed = (
        cluster.vit_overhead_ms
        + cluster.isr_overhead_ms
        + cluster.ist_overhead_ms * config.model.ist
    ) / 1e3
    working = sum(parts.values())
    return parts | {
        "Python and launches": fixed if cluster.kind == CPU else max(0.0, fixed - working)
    }


def sync_bytes(config: Config, outline: Outline) -> float:
    """Bytes that a worker sends for a step, of gradients in the type of their sums and of weights
    in that of the training: 2 Ψ (N − 1) / N for an all-reduce, half of it for a reduce or a gather.
    ZeRO-1 reduces and gathers (in bf16 DeepSpeed 0.19 all-reduces and gathers); ZeRO-2 reduces
    every micro-batch; ZeRO-3 gathers all weights for each forward and backward besides
    (Rajbhandari et al., ZeRO, sec. 7).
    """
    precision, parts = config.engine.precision, config.partition.accumulation
    weight, gradient = BYTES[precision], SUMS[precision] * outline.trained
    sent = {
        0: 2 * gradient,
        1: gradient * (1 + (precision == "bf16")) + weight * outline.trained,
        2: parts * gradient + weight * outline.trained,
        3: parts * (gradient + 2 * weight * outline.parameters),
    }[config.engine.zero]
    return sent * (config.workers - 1) / config.workers


def sync_seconds(config: Config, outline: Outline, cluster: Cluster) -> float:
    """Rings within the nodes and a tree between them: the slowest link decides; between nodes it is
    the node's network.
    """
    if config.workers == 1:
        return 0.0
    local = local_workers(config, cluster)
    link = (
        cluster.link_gb_s
        if config.workers <= local
        else min(cluster.link_gb_s, cluster.network_gb_s)
    )
    hops = 2 * (local + math.ceil(math.log2(max(1, config.workers / local))))
    return sync_bytes(config, outline) / (link * 1e9) + hops * cluster.latency_us / 1e6


def update_seconds(config: Config, outline: Outline, cluster: Cluster) -> tuple[float, float]:
    """AdamW over the worker's share of the state, and with offload the way of gradients and weights
    to CPU memory and back.
    """
    owned = outline.trained / (config.workers if config.engine.zero >= 1 else 1)
    if not config.engine.offload:
        return ADAMW_BYTES * owned / worker_rate(config, cluster)[1], 0.0
    local = local_workers(config, cluster)
    moved = 2 * BYTES[config.engine.precision] * owned / (cluster.host_link_gb_s * 1e9)
    return ADAMW_BYTES * owned * local / (cluster.host_bandwidth_gb_s * 1e9), moved


def speed_of(
    config: Config,
    outline: Outline,
    cluster: Cluster,
    work: Work,
    memory: Memory,
    sizes: Sizes | None = None,
    storage: FromStorage = EVERYTHING,
) -> Speed:
    """A step of one worker; without `sizes` its pictures lie in memory, encoded."""
    partition = config.partition
    micro = compute_seconds(config, outline, cluster, work, partition.micro_batch)
    parts = {name: partition.accumulation * seconds for name, seconds in micro.items()}
    parts["gradient sync"] = sync_seconds(config, outline, cluster)
    update, moved = update_seconds(config, outline, cluster)
    parts["AdamW"] = update + cluster.step_overhead_ms / 1e3
    if moved:
        parts["offload"] = moved
    _, _, threads, cores = worker_rate(config, cluster)
    local = local_workers(config, cluster)
    loading = loading_of(config, cluster, sizes, outline.joint, local, storage)
    return Speed(parts, loading, cores, threads, config.loader.workers, config.schedule.batch)
