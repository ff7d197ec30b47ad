"""What `c2srt shard` can be told."""

from dataclasses import dataclass
from typing import Any

from c2srt.audit.config import PARTS, QUICK, Look
from c2srt.backbone.config import ClipConfig
from c2srt.data_keys import EveryKey
from c2srt.download_config import PassesConfig
from c2srt.errors import UserError
from c2srt.keys import Mark, Takes, deciding, key
from c2srt.pictures import Limits
from c2srt.sharding.layouts import MODULES
from c2srt.shared_keys import shared

RETRIED = (
    *("unreachable", "refused", "missing", "placeholder", "size_mismatch", "md5_mismatch"),
    *("empty", "corrupt", "not_image", "unsupported", "too_large", "crashed"),
)
"""Statuses of images whose URL may give another file one day."""
CONVERSION = 2
"""How pictures are reduced (sharding/decode.py). 1, which folders of earlier versions do not name:
Lanczos from 1.5 times the size or more.
"""
SOURCES = ("auto", "folders", "packs", "urls")


@dataclass
class DataConfig(EveryKey):
    """The raw data set below `root`, which the reader of its layout is found by."""

    def __post_init__(self) -> None:
        if self.layout not in MODULES:
            raise UserError(f"data.layout={self.layout} is none of {', '.join(MODULES)}")
        if self.images not in SOURCES:
            raise UserError(f"data.images={self.images} is none of {', '.join(SOURCES)}")


@dataclass
class Config:
    """The verb. `resize` is pixels of the short side, or None ("none") to keep the original
    bytes.
    """

    data: DataConfig = key(
        DataConfig, "the raw data set (configs/datasets/*.yaml)", mark=Mark.CONTENT, composed=False
    )
    download: PassesConfig = key(PassesConfig, "data.images=urls", mark=Mark.HARMLESS)
    retry: list[str] = key(
        [],
        (
            "data.images=urls: statuses of images that are asked for again in finished shards, "
            "such as [unreachable]; shards and index are made anew with what came. What is "
            "unreachable in an unfinished one is always asked for again"
        ),
        mark=Mark.HARMLESS,
    )
    out: str = key(
        "",
        (
            "folder written; run the same command again after an interruption, "
            "it does what is missing"
        ),
        mark=Mark.HARMLESS,
        follows="${shards}",
        takes=Takes.PLACE,
    )
    workers: int = shared("workers")
    splits: list[str] = key(
        ["train", "validation", "test"],
        "those that the data set has, or some of them",
        mark=Mark.HARMLESS,
        follows="${data.splits}",
    )
    images_per_shard: int = key(
        10000,
        "shard k holds inputs [k·N, (k+1)·N) of the split's sorted ids, minus failures",
        follows="${given:${data.images_per_shard},<default>}",
    )
    resize: Any = key(
        256,
        (
            "short side in pixels, never enlarged; none: the original bytes of "
            "upright sRGB JPEGs pass through"
        ),
        unit="pixels",
        follows="${given:${data.resize},<default>}",
    )
    quality: int = key(90, "JPEG quality of what is encoded (4:2:0)")
    unlabelled: str = key(
        "skip", "images on which no person verified anything: skip (recorded as no_labels) | pack"
    )
    max_pixels: int = key(
        100000000,
        "larger images are recorded as too_large, from their header, before anything is decoded",
        unit="pixels",
    )
    max_bytes: int = key(64 << 20, "larger files are recorded as too_large", unit="bytes")

    def __post_init__(self) -> None:
        if self.resize in ("none", "None", "null", 0):
            self.resize = None
        if self.resize is not None and (
            isinstance(self.resize, bool) or not isinstance(self.resize, int) or self.resize < 1
        ):
            raise UserError(f"resize={self.resize} is neither a number of pixels nor none")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality={self.quality} is outside 1…100")
        if self.unlabelled not in ("skip", "pack"):
            raise UserError(f"unlabelled={self.unlabelled} is neither skip nor pack")
        if not self.splits or len(set(self.splits)) != len(self.splits):
            raise UserError(f"splits={self.splits} must name each split once, and at least one")
        if odd := [status for status in self.retry if status not in RETRIED]:
            raise UserError(f"retry: {odd[0]} is none of {', '.join(RETRIED)}")
        for name in ("workers", "images_per_shard", "max_pixels", "max_bytes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def limits(self) -> Limits:
        return Limits(self.max_bytes, self.max_pixels)

    def settings(self) -> dict:
        """Everything of the configuration that changes the shards' bytes (with the inputs and the
        image source).
        """
        reduction = {} if self.resize is None else {"conversion": CONVERSION}
        return deciding(self) | reduction


@dataclass
class AuditConfig:
    """What `c2srt audit` can be told."""

    data: DataConfig = key(
        DataConfig,
        "what `c2srt shard` was given (configs/datasets/*.yaml): root (the CSVs), vocabulary,"
        " machine_threshold",
        mark=Mark.CONTENT,
        composed=False,
    )
    shards: str = shared("shards")
    parts: list[str] = key(
        list(QUICK),
        "shards: every byte against index, sidecars and CSVs | labels: names of categories that"
        " differ by capitals, white space or a plural alone, categories without positives |"
        " duplicates: images that two splits share, or nearly, and where their labels contradict"
        " each other",
        mark=Mark.HARMLESS,
    )
    clip: ClipConfig = shared("clip")
    cosine: float = key(
        0.85,
        "duplicates: of the CLIP's features, from which two pictures are looked at; the ten nearest"
        " of each image are",
        mark=Mark.HARMLESS,
    )
    most: int = key(
        200_000,
        "duplicates: more images are refused: each goes through the CLIP, and the pairs of two"
        " splits are all compared",
        mark=Mark.HARMLESS,
    )
    out: str = key(
        "",
        "where audit.jsonl goes, one disagreement a line, empty if there is none; and audit/, what"
        " the other parts find",
        mark=Mark.HARMLESS,
        follows="${shards}",
        takes=Takes.PLACE,
    )
    workers: int = shared("workers")

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"workers={self.workers} must be at least 1")
        if not self.parts or set(self.parts) - set(PARTS):
            raise UserError(f"parts={self.parts} must name some of {', '.join(PARTS)}")
        if not 0 < self.cosine < 1:
            raise UserError(f"cosine={self.cosine} must be above 0 and below 1")

    @property
    def look(self) -> Look:
        """What is looked for beyond the bytes."""
        return Look(tuple(self.parts), self.clip, self.cosine, self.most, self.workers)
