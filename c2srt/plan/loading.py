"""How fast pictures reach a worker: what each part of the way alone would take for a step, the
slowest of which binds.

A picture is one read of its shard (its image and its labels lie side by side) and, with a teacher
cache, one of that. A loader process has IN_FLIGHT reads under way (c2srt/storage/ranges.py), so a
read's latency costs it a share of that; bytes and requests are a node's, which its workers share.
"""

from c2srt.plan.caching import FromStorage
from c2srt.plan.hardware import Cluster
from c2srt.plan.sizes import Sizes
from c2srt.storage.ranges import IN_FLIGHT
from c2srt.train.config import Config

DECODING, LATENCY, BANDWIDTH, REQUESTS = (
    "decoding",
    "the latency of the storage",
    "the bandwidth of the storage",
    "the requests a second of the storage",
)
Loading = dict[str, float]
"""Seconds that each of them needs for a worker's pictures of a step."""


def loading_of(
    config: Config,
    cluster: Cluster,
    sizes: Sizes | None,
    joint: int,
    local: int,
    storage: FromStorage,
) -> Loading:
    """`local` workers share a node; `joint` is the width D of a cached feature, 2 bytes a number.
    Without `sizes`, pictures are in memory.
    """
    partition = config.partition
    images = partition.accumulation * partition.micro_batch
    processes = max(1, config.loader.workers)
    found = {DECODING: images / (cluster.decode_images_s * processes)}
    if sizes is None:
        return found
    reads, size = (
        images * reads_of(config, storage),
        images * bytes_of(config, sizes, joint, storage),
    )
    return found | {
        LATENCY: reads * cluster.read_latency_ms / 1e3 / (IN_FLIGHT * processes),
        BANDWIDTH: (local * size + storage.copied) / (cluster.disk_gb_s * 1e9),
        REQUESTS: local * reads / cluster.reads_s,
    }


def reads_of(config: Config, storage: FromStorage) -> float:
    """Reads for a picture."""
    return storage.pictures + config.uses_teacher


def bytes_of(config: Config, sizes: Sizes, joint: int, storage: FromStorage) -> float:
    """Bytes that they bring."""
    return storage.pictures * sizes.packed_bytes + 2 * joint * config.uses_teacher


def cure(name: str, workers: int) -> str:
    """What would help where a part of the way binds; `workers`: loader processes that would feed a
    worker.
    """
    if name in (DECODING, LATENCY):
        return f"loader.workers={workers} would feed a worker"
    return "more nodes, or a faster storage, would feed it"
