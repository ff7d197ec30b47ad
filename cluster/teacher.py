"""`c2srt teacher`: caches the frozen CLIP's feature of every image and view, a Ray task a shard.

A run killed at any moment is repeated with the same command: finished shards stay. Their features
are specified in c2srt/teacher/cache.py. `teacher.json` comes last.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import ray
import torch

from c2srt.artefact import tidy, writing
from c2srt.backbone.clip import Clip, load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.files import hash_of, write_json
from c2srt.opened import read_json
from c2srt.progress import Progress
from c2srt.shards import Shard, ShardIndex, load_index
from c2srt.teacher.cache import (
    FILE,
    MADE_BY,
    cache_key,
    difference,
    feature_key,
    is_done,
    shard_marker,
    write_shard,
)
from c2srt.teacher.config import Config
from cluster.address import check_address
from cluster.paths import check_lasting
from cluster.session import connect, run_tasks


def run(config: Config) -> None:
    """The whole job. Raises UserError on bad input or a full disk."""
    check_lasting(config.out)
    check_address()
    index, out, clip = (
        load_index(Path(config.shards).absolute()),
        Path(config.out).absolute(),
        load_clip(config.clip),
    )
    key = cache_key(clip, config.views, config.seed, index, config.splits)
    shards = [shard for split in config.splits for shard in index.split(split) if shard.count]
    feature = hash_of(feature_key(clip, config.views, config.seed))
    if is_complete(out, key) and not undone(out, shards, feature):
        tidy(out)
        print(
            f"{out} already holds the teacher's features of all {len(shards):,} shards: nothing"
            " to do"
        )
        return
    with writing(out):
        announce_change(out, key)
        (out / FILE).unlink(missing_ok=True)
        if left := undone(out, shards, feature):
            cache_all(config, index, shards, left, out, feature)
        write_json(out / FILE, key)


def undone(out: Path, shards: list[Shard], feature: str) -> list[Shard]:
    """The shards whose features are not there."""
    return [shard for shard in shards if not is_done(out, shard, shard_marker(feature, shard))]


def is_complete(out: Path, key: dict) -> bool:
    """Whether the cache in `out` was finished, with this key."""
    with suppress(UserError):
        return read_json(out / FILE, MADE_BY) == key
    return False


def announce_change(out: Path, key: dict) -> None:
    """Says why a complete cache is computed again."""
    with suppress(UserError):  # a broken one is not worth a word
        if (out / FILE).exists() and (unlike := difference(read_json(out / FILE, MADE_BY), key)):
            print(f"{out} was made with {unlike}: computing it again")


def cache_all(
    config: Config,
    index: ShardIndex,
    shards: list[Shard],
    left: list[Shard],
    out: Path,
    feature: str,
) -> None:
    """Runs the tasks of the shards in `left`, with a bar over the images of all `shards`."""
    gpus = connect_with_gpus(config)
    progress = Progress("teacher", sum(shard.count for shard in shards))
    progress.skip(progress.total - sum(shard.count for shard in left))
    task = shard_task(config, index, out, feature)
    for shard, _ in run_tasks(
        task, left, config.workers, gpus, name=lambda shard: f"teacher {shard.name}"
    ):
        progress.update(shard.count, shard.name)
    progress.close(f"in {out}")


def connect_with_gpus(config: Config) -> float:
    """Joins Ray; returns each worker's share of a GPU, by default an even share of those that the
    cluster has, at most 1.
    """
    connect(config.workers, gpus_per_worker=config.gpus_per_worker or 0)
    if config.gpus_per_worker is not None:
        return config.gpus_per_worker
    return min(1.0, int(1000 * ray.cluster_resources().get("GPU", 0) / config.workers) / 1000)


def shard_task(
    config: Config, index: ShardIndex, out: Path, feature: str
) -> Callable[[Shard], None]:
    """The function that a Ray worker runs on one shard; it raises UserError if the CLIP is no
    longer that of `feature`.
    """
    clip_config, views, seed, batch = config.clip, config.views, config.seed, config.batch

    def task(shard: Shard) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        clip = frozen(clip_config.name, clip_config.pretrained, device)
        if hash_of(feature_key(clip, views, seed)) != feature:
            raise UserError(
                f"clip.name={clip_config.name} clip.pretrained={clip_config.pretrained} is another"
                " CLIP now than when this command started: run it again"
            )
        write_shard(clip, views, seed, index, shard, out, batch, device)

    return task


@lru_cache(maxsize=1)
def frozen(name: str, pretrained: str, device: str) -> Clip:
    """The CLIP of this worker process, loaded once for all its shards."""
    torch.set_num_threads(1)  # a task has one core
    torch.set_float32_matmul_precision(
        "high"
    )  # TF32 on a GPU: as many mantissa bits as the float16 that is stored
    clip = load_clip(ClipConfig(name, pretrained))
    clip.to(device)
    return clip


if __name__ == "__main__":
    from c2srt.cli import main

    sys.exit(main(["teacher", *sys.argv[1:]]))
