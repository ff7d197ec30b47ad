"""Shards of a few pictures, made in this process."""

from pathlib import Path

import polars as pl

from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.inputs import prepare_inputs
from c2srt.sharding.openimages import OpenImages
from c2srt.sharding.raw_files import find_root
from c2srt.sharding.tasks import choose_source, shard_tasks
from c2srt.shards import Shard
from tests.raw_images import write_csvs


def prepared(tmp_path: Path, images: list[dict], **options):
    """CSVs of split train for `images`, and (config, out) to shard them."""
    root, out = tmp_path / "raw", tmp_path / "out"
    write_csvs(root, {"train": images})
    config = Config(
        data=DataConfig(root=str(root)), out=str(out), splits=["train"], **{"resize": 32} | options
    )
    prepare_inputs(OpenImages(find_root(root), config.data), "train", out)
    return config, out


def tasks_of(config: Config, out: Path, settings: str = "settings"):
    source = choose_source(config, find_root(Path(config.data.root)))
    return shard_tasks(out, "train", settings, source, config)


def sidecar(out: Path, shard: Shard) -> dict[str, dict]:
    return {
        row["id"]: row
        for row in pl.read_parquet(out / f"{shard.name}.parquet", glob=False).iter_rows(named=True)
    }
