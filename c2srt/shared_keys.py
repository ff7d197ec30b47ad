"""The keys that mean the same in every verb. Folders follow from `work`, so that a chain of verbs
needs no paths.
"""

from dataclasses import dataclass, fields
from typing import Any

from c2srt.backbone.config import ClipConfig
from c2srt.data_keys import DataKeys, EveryKey
from c2srt.keys import Mark, Takes, key, same_as
from c2srt.view_config import ViewConfig


@dataclass
class SharedKeys:
    """Composed for every verb; a verb's own dataclass takes those that it uses (`shared`)."""

    seed: int = key(0, "all randomness is a pure function of it")
    workers: int = key(
        2, "parallel workers: processes, Ray tasks on a cluster, ranks in train", mark=Mark.HARMLESS
    )
    work: str = key(
        "",
        "everything of one data set lies below",
        follows="runs/${data.name}",
        mark=Mark.HARMLESS,
        takes=Takes.ABOVE,
    )
    shards: str = key(
        "",
        "written by `c2srt shard`",
        follows="${work}/shards",
        mark=Mark.CONTENT,
        takes=Takes.PLACE,
    )
    text: str = key(
        "",
        "written by `c2srt text`",
        follows="${work}/text",
        mark=Mark.CONTENT,
        takes=Takes.PLACE,
    )
    relations: str = key(
        "",
        "written by `c2srt relations`",
        follows="${work}/relations/${graph}",
        mark=Mark.CONTENT,
        takes=Takes.PLACE,
    )
    graph: str = key(
        "llm",
        "relation graph: llm | mined | similarity | cooccurrence | random | none",
    )
    teacher: str = key(
        "",
        "written by `c2srt teacher`",
        follows="${work}/teacher",
        mark=Mark.CONTENT,
        takes=Takes.PLACE,
    )
    views: ViewConfig = key(
        ViewConfig,
        "random resized crops; one object, so that teacher and student see the same pixels",
    )
    clip: ClipConfig = key(ClipConfig, "the CLIP that everything starts from", mark=Mark.CONTENT)
    data: EveryKey = key(
        DataKeys,
        "the data set (data=…: one of configs/datasets), and what its layout has",
        mark=Mark.CONTENT,
    )


NAMES = tuple(each.name for each in fields(SharedKeys))


def shared(name: str, default: Any = None, needed: bool = False) -> Any:
    """The shared key as a field of a verb's dataclass. What code that makes one leaves out: the
    same default, another one, or nothing (`needed`).
    """
    return same_as(SharedKeys, name, default, needed)
