"""What `c2srt teacher` can be told; configs/teacher.yaml explains each key to users."""

from dataclasses import dataclass, field
from typing import Optional

from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.view_config import ViewConfig


@dataclass
class Config:
    """Configuration of the verb `teacher`; configs/teacher.yaml explains every field."""

    clip: ClipConfig = field(default_factory=ClipConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    shards: str = "shards"
    out: str = "teacher"
    splits: list[str] = field(default_factory=lambda: ["train"])
    seed: int = 0
    workers: int = 2
    batch: int = 64
    gpus_per_worker: Optional[float] = None

    def __post_init__(self) -> None:
        if self.workers < 1 or self.batch < 1:
            raise UserError(f"workers={self.workers} and batch={self.batch} must be at least 1")
        if not self.splits:
            raise UserError("splits=[] names nothing to cache: take 'splits=[train]'")
