"""What `c2srt shard` can be told; configs/shard.yaml explains each key to users."""

from dataclasses import dataclass, field
from typing import Any

from c2srt.errors import UserError
from c2srt.pictures import Limits
from sharding.layouts import MODULES

SOURCES = ("auto", "folders", "packs", "urls")


@dataclass
class DataConfig:
    """The raw data set below `root`. What follows `splits` is for Open Images V4 only; other verbs
    read `neighbours` and `groups`, and the defaults of the verb follow `resize` and
    `images_per_shard`.
    """

    name: str = "miniature"
    root: str = ""
    layout: str = "openimages"  # one of sharding/layouts.py
    neighbours: int | None = None
    groups: str | None = None
    resize: Any = None
    images_per_shard: int | None = None
    splits: list[str] = field(default_factory=lambda: ["train", "validation", "test"])
    images: str = "auto"  # auto | folders | packs | urls
    vocabulary: str = "auto"  # auto | derive
    seen_min_images: int = 100  # derive: a seen category has more training images than this
    unseen_count: int = 400  # derive: the most frequent test categories absent from training
    machine_threshold: float | None = None  # None: human-verified labels only

    def __post_init__(self) -> None:
        if self.layout not in MODULES:
            raise UserError(f"data.layout={self.layout} is none of {', '.join(MODULES)}")
        if self.images not in SOURCES:
            raise UserError(f"data.images={self.images} is none of {', '.join(SOURCES)}")


@dataclass
class DownloadConfig:
    """How `data.images=urls` asks for images; times in seconds."""

    concurrency: int = 16  # requests at a time, in each worker
    timeout: float = 30.0  # for connecting, and between two pieces of an answer
    # for a whole exchange, redirects included: a dripping server holds no connection for ever
    total_timeout: float = 300.0
    attempts: int = 5  # tries of one image before it is given up
    backoff: float = 1.0  # wait before the second try; doubles with each, with jitter
    backoff_max: float = 60.0  # longest wait, also for a server's Retry-After
    # also go to loopback, link-local and private addresses, where names and redirects lead
    private_hosts: bool = False

    def __post_init__(self) -> None:
        for name in ("concurrency", "timeout", "total_timeout", "attempts"):
            if getattr(self, name) <= 0:
                raise UserError(f"download.{name}={getattr(self, name)} must be above 0")


@dataclass
class Config:
    """The verb. `resize` is pixels of the short side, or None ("none") to keep the original
    bytes.
    """

    data: DataConfig = field(default_factory=DataConfig)
    download: DownloadConfig = field(default_factory=DownloadConfig)
    out: str = ""
    workers: int = 2
    splits: list[str] = field(default_factory=lambda: ["train", "validation", "test"])
    images_per_shard: int = 10_000
    resize: Any = 256
    quality: int = 90
    unlabelled: str = "skip"  # skip | pack
    max_pixels: int = 100_000_000
    max_bytes: int = 64 << 20

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
        names = ("images_per_shard", "resize", "quality", "unlabelled", "max_pixels", "max_bytes")
        return {name: getattr(self, name) for name in names}


@dataclass
class AuditConfig:
    """What `c2srt audit` can be told; configs/audit.yaml explains each key."""

    data: DataConfig = field(default_factory=DataConfig)
    shards: str = ""
    out: str = ""
    workers: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"workers={self.workers} must be at least 1")
