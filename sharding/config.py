"""What `c2srt shard` can be told."""

from dataclasses import dataclass
from typing import Any

from c2srt.download_config import DownloadConfig
from c2srt.errors import UserError
from c2srt.keys import Mark, deciding, key
from c2srt.pictures import Limits
from c2srt.shared_keys import shared
from sharding.layouts import MODULES

SOURCES = ("auto", "folders", "packs", "urls")


@dataclass
class DataConfig:
    """The raw data set below `root`. What follows `splits` is for Open Images V4 only; other verbs
    read `neighbours` and `groups`, and the defaults of the verb follow `resize` and
    `images_per_shard`.
    """

    name: str = key("miniature", "of the data set", composed=False)
    root: str = key(
        "",
        (
            "folder with 2018_04/ (the CSVs) and the images; NUS-WIDE: with "
            "ImageList/, Groundtruth/, Flickr/ …"
        ),
        composed=False,
    )
    layout: str = key(
        "openimages", "which files lie below root: one of sharding/layouts.py", composed=False
    )
    neighbours: int | None = key(
        None,
        "related seen categories of each: kept by `c2srt relations`, heard in training; null:"
        " the verbs' own",
        composed=False,
    )
    groups: str | None = key(
        None, "CSV of groups of unseen categories (`c2srt tables`)", composed=False
    )
    resize: Any = key(None, "short side of packed images; null: the verb's own", composed=False)
    images_per_shard: int | None = key(None, "null: the verb's own", composed=False)
    splits: list[str] = key(
        ["train", "validation", "test"],
        "those that it has; what follows is for Open Images V4's layout only",
        composed=False,
    )
    images: str = key(
        "auto",
        (
            "folders: images/<split>/<id>.jpg | packs: CVDF's train_0.tar.gz … "
            "| urls: OriginalURL of the CSVs | auto: the first of these three "
            "that is there"
        ),
        composed=False,
    )
    vocabulary: str = key(
        "auto",
        (
            "auto: the lists of LESA that ship with the project | derive: seen and unseen "
            "categories by the paper's rule, from the CSVs | files: your own lists, "
            "classes-seen.txt and classes-unseen.txt beside the CSVs, a MID a line"
        ),
        composed=False,
    )
    seen_min_images: int = key(
        100, "derive: a seen category has more training images than this", composed=False
    )
    unseen_count: int = key(
        400,
        "derive: number of most frequent test categories absent from training",
        composed=False,
    )
    machine_threshold: float | None = key(
        None,
        (
            "also take machine labels of at least this confidence as positive; "
            "empty: verified by people only"
        ),
        composed=False,
    )

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
    download: DownloadConfig = key(DownloadConfig, "data.images=urls", mark=Mark.HARMLESS)
    out: str = key(
        "",
        (
            "folder written; run the same command again after an interruption, "
            "it does what is missing"
        ),
        mark=Mark.HARMLESS,
        follows="${shards}",
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
        follows="${oc.select:data.images_per_shard,<default>}",
    )
    resize: Any = key(
        256,
        (
            "short side in pixels, never enlarged; none: the original bytes of "
            "upright sRGB JPEGs pass through"
        ),
        unit="pixels",
        follows="${oc.select:data.resize,<default>}",
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
        return deciding(self)


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
    out: str = key(
        "",
        "where audit.jsonl goes: one disagreement a line, empty if there is none",
        mark=Mark.HARMLESS,
        follows="${shards}",
    )
    workers: int = shared("workers")

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"workers={self.workers} must be at least 1")
