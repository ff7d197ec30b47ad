"""Disk, network and the jobs around the training: shards, teacher cache, checkpoints, export."""

from c2srt.plan.caching import FromStorage
from c2srt.plan.hardware import CPU, Cluster
from c2srt.plan.loading import bytes_of
from c2srt.plan.outline import Outline
from c2srt.plan.sizes import Sizes
from c2srt.plan.speed import Work, worker_rate
from c2srt.train.config import Config


def disk_of(config: Config, outline: Outline, sizes: Sizes) -> dict[str, float]:
    """Bytes by artefact. A checkpoint holds float32 weights and two moments of what trains; one
    more than is kept lies there while it is written.
    """
    categories = sizes.seen + sizes.unseen
    views = max(config.views.count, 1)
    disk = {"shards": sizes.images * sizes.packed_bytes}
    if config.uses_teacher:
        disk["teacher cache"] = sizes.train * views * 2 * outline.joint
    disk |= {
        "text and graph": categories * (4 * outline.joint + 4 * config.model.neighbours),
        "checkpoints": 12 * outline.trained * (config.checkpoints.keep + 1),
        "export" + (" and best" if config.validation.every else ""): (
            4
            * (outline.clip_parameters + outline.head_parameters)
            * (2 if config.validation.every else 1)
        ),
    }
    return disk


def read_rate(
    config: Config,
    outline: Outline,
    sizes: Sizes,
    images_s: float,
    nodes: int,
    storage: FromStorage,
) -> float:
    """Bytes a second and node."""
    read = images_s * bytes_of(config, sizes, outline.joint, storage) / nodes
    return read + storage.copied * images_s / config.schedule.batch


def shard_seconds(sizes: Sizes, cluster: Cluster, nodes: int) -> float:
    """`c2srt shard` on every core, and not faster than the originals can be read."""
    reading = sizes.images * sizes.raw_bytes / (cluster.disk_gb_s * 1e9 * nodes)
    return max(sizes.images / (cluster.shard_images_s * cluster.cores * nodes), reading)


def teacher_seconds(
    config: Config, outline: Outline, cluster: Cluster, work: Work, sizes: Sizes, nodes: int
) -> float:
    """`c2srt teacher` on all workers, in TF32 on a GPU; every core decodes for some task. 0 without
    a cache.
    """
    if not config.uses_teacher:
        return 0.0
    views = sizes.train * max(config.views.count, 1)
    share = cluster.rate("tf32" if "tf32" in cluster.tflops else "fp32") / cluster.rate(
        config.engine.precision
    )
    rate = worker_rate(config, cluster)[0] * share * cluster.vit_efficiency
    computing = views * work.vit_forward / (rate * config.workers)
    decoding = views / (cluster.decode_images_s * cluster.cores * nodes)
    return computing + decoding if cluster.kind == CPU else max(computing, decoding)
