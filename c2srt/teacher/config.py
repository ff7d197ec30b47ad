"""What `c2srt teacher` can be told."""

from dataclasses import dataclass

from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.keys import Mark, Takes, key
from c2srt.shared_keys import shared
from c2srt.view_config import ViewConfig

FILE = "teacher.json"
"""Says what a cache was made from."""


@dataclass
class Config:
    """Keys of `c2srt teacher`."""

    clip: ClipConfig = shared("clip")
    views: ViewConfig = shared("views")
    shards: str = shared("shards", default="shards")
    out: str = key(
        "teacher",
        "folder written: <shard>.npy, <shard>.json, and teacher.json when complete",
        mark=Mark.HARMLESS,
        follows="${teacher}",
        takes=Takes.PLACE,
    )
    splits: list[str] = key(["train"], "splits to cache", mark=Mark.HARMLESS)
    seed: int = shared("seed")
    workers: int = shared("workers")
    batch: int = key(64, "views at once in a worker: memory", mark=Mark.HARMLESS)
    gpus_per_worker: float | None = key(
        None,
        (
            "share of a GPU for each worker; null: an even share of what the "
            "cluster has (0 without GPUs). busier"
        ),
        mark=Mark.HARMLESS,
    )

    def __post_init__(self) -> None:
        if self.workers < 1 or self.batch < 1:
            raise UserError(f"workers={self.workers} and batch={self.batch} must be at least 1")
        if not self.splits:
            raise UserError("splits=[] names nothing to cache: take 'splits=[train]'")
