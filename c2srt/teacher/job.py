"""The job of `c2srt teacher`: caches the frozen CLIP's global feature of every image and view, one
task a shard.

A run killed at any moment is repeated with the same command: finished shards stay. Their features
are specified in c2srt/teacher/cache.py. `teacher.json` comes last.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch

from c2srt.artefact import tidy, writing
from c2srt.backbone.clip import Clip, load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.executor import Opens
from c2srt.files import hash_of, write_json
from c2srt.opened import read_json
from c2srt.progress import Progress
from c2srt.shards import Shard, ShardIndex, load_index
from c2srt.storage import mirror
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

log = logging.getLogger(__name__)


def cache_features(config: Config, opens: Opens) -> None:
    """The whole job. Raises UserError on bad input or a full disk."""
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
        log.info(
            f"{out} already holds the teacher's features of all {len(shards):,} shards: nothing"
            " to do"
        )
        return
    with writing(out):
        announce_change(out, key)
        mirror.remove(out / FILE)
        if left := undone(out, shards, feature):
            try:
                cache_all(Work(away(config), index, out, feature), shards, left, opens)
            finally:
                frozen.cache_clear()  # where the tasks ran in this process
        write_json(out / FILE, key)


def away(config: Config) -> Config:
    """For processes that run in another folder."""
    return replace(config, clip=config.clip.absolute())


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
            log.info(f"{out} was made with {unlike}: computing it again")


@dataclass(frozen=True)
class Work:
    """What all tasks of a cache share. `feature` is the hash of `feature_key`."""

    config: Config
    index: ShardIndex
    out: Path
    feature: str


def cache_all(work: Work, shards: list[Shard], left: list[Shard], opens: Opens) -> None:
    """Runs the tasks of the shards in `left`, with a bar over the images of all `shards`."""
    config, images = work.config, sum(shard.count for shard in left)
    with opens(config.workers, len(left), images, config.gpus_per_worker) as executor:
        progress = Progress("teacher", sum(shard.count for shard in shards))
        progress.skip(progress.total - images)
        for shard, _ in executor.map(
            partial(cache_shard, work), left, lambda shard: f"teacher {shard.name}", on_gpu=True
        ):
            progress.update(shard.count, shard.name)
        progress.close(f"in {work.out}")


def cache_shard(work: Work, shard: Shard) -> None:
    """One task; raises UserError if the CLIP is no longer that of `work.feature`."""
    config, device = work.config, "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)  # a task has one core
    torch.set_float32_matmul_precision(
        "high"
    )  # TF32 on a GPU: as many mantissa bits as the float16 that is stored
    clip = frozen(config.clip.name, config.clip.pretrained, device, work.feature)
    if hash_of(feature_key(clip, config.views, config.seed)) != work.feature:
        raise UserError(
            f"clip.name={config.clip.name} clip.pretrained={config.clip.pretrained} is another"
            " CLIP now than when this command started: run it again"
        )
    write_shard(clip, config.views, config.seed, work.index, shard, work.out, config.batch, device)


@lru_cache(maxsize=1)
def frozen(name: str, pretrained: str, device: str, feature: str) -> Clip:
    """The CLIP of this process, loaded once for all shards of a `feature`."""
    clip = load_clip(ClipConfig(name, pretrained))
    clip.to(device)
    return clip
