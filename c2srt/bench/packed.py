"""The sides of `c2srt bench packing` that are ours, as c2srt/bench/metered.py calls them."""

import multiprocessing
from pathlib import Path

from c2srt.executor import open_local
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.decode import convert
from c2srt.sharding.job import make_shards


def convert_alone(folder: str, processes: int) -> None:
    """The least that packing does: each file is read and converted, and nothing becomes of it."""
    paths = sorted(Path(folder).iterdir())
    fork = multiprocessing.get_context("fork")
    parts = [paths[first::processes] for first in range(processes)]
    running = [fork.Process(target=convert_some, args=(part,)) for part in parts]
    for each in running:
        each.start()
    for each in running:
        each.join()


def convert_some(paths: list[Path]) -> None:
    for path in paths:
        convert(path.read_bytes())


def shard(root: str, images: str, out: str, per_shard: int, processes: int) -> None:
    """`c2srt shard`, from its keys to its index."""
    data = DataConfig(root=root, vocabulary="files", images=images)
    make_shards(
        Config(data, out=out, splits=["train"], images_per_shard=per_shard, workers=processes),
        open_local,
    )
