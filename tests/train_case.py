"""A tiny whole training: shards, text, graph, CLIP on disk, and the config of `c2srt train` for
them.
"""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import TypeVar

import torch

from c2srt import text
from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.keys import changed
from c2srt.model.config import ModelConfig
from c2srt.old_names import TODAY
from c2srt.relations import build
from c2srt.train.config import ONLINE, Config
from c2srt.train.key_groups import CheckpointConfig, LoaderKeys, RecordConfig
from c2srt.train.schedule import ScheduleConfig
from c2srt.view_config import ViewConfig
from tests.shard_folder import make_shards, make_vocabulary
from tests.tiny import tiny_clip_config

TEMPLATE = "a photo of a {}."
Made = TypeVar("Made")


def make_case(work: Path, clip: ClipConfig | None = None, **changes: object) -> Config:
    """Writes the artefacts below `work` with the real verbs, and returns a config of 8 steps (2
    epochs, the last batch short) that logs no model. `clip`: the tiny one if none is given.
    """
    clip = clip or tiny_clip_config(work)
    vocabulary = make_vocabulary(10, 3)
    make_shards(work / "shards", {"train": 30, "validation": 12}, 10, vocabulary)
    text.run(
        text.Config(
            clip=clip, templates=[TEMPLATE], shards=str(work / "shards"), out=str(work / "text")
        )
    )
    build.run(
        build.Config(
            graph="random",
            neighbours=4,
            shards=str(work / "shards"),
            text=str(work / "text"),
            out=str(work / "relations"),
        )
    )
    config = Config(
        shards=str(work / "shards"),
        text=str(work / "text"),
        relations=str(work / "relations"),
        teacher=ONLINE,
        work=str(work),
        out=str(work / "train"),
        clip=clip,
        model=ModelConfig(layers=1, heads=2),
        views=ViewConfig(count=2),
        schedule=ScheduleConfig(epochs=2, batch=8, micro_batch=2),
        loader=LoaderKeys(0),
        checkpoints=CheckpointConfig(3, seconds=0),
        tracking=RecordConfig(experiment="test", every=2, seconds=0, model=False),
    )
    return told(config, **changes)


def told(config: Made, **changes: object) -> Made:
    """The config with other values, those in groups by their old, short names."""
    return changed(config, {TODAY.get(name, name): value for name, value in changes.items()})


def train_rank(rank: int, config: Config) -> str:
    """One rank's training, without Ray."""
    from c2srt.train.loop import train
    from c2srt.train.world import World

    return train(config, World(rank, config.workers, config.workers, torch.device("cpu")))


def said_while_training(rank: int, config: Config) -> str:
    """What a rank prints, and the error that it ends with."""
    with redirect_stdout(io.StringIO()) as said:
        try:
            train_rank(rank, config)
        except UserError as error:
            print(error)
    return said.getvalue()
