"""What `c2srt tune` is told, apart from tune.py so that it can be checked without torch."""

from dataclasses import dataclass, field
from typing import Optional

from c2srt.errors import UserError
from c2srt.tracking.config import TrackingConfig
from c2srt.view_config import ViewConfig

HARMLESS = (
    "checkpoint",
    "shards",
    "out",
    "work",
    "micro_batch",
    "chunk",
    "loader_workers",
    "log_every",
    "tracking",
    "epochs",
    "steps",
)
"""What the key of a tuning takes by content, or what changes no step."""


@dataclass
class Config:
    """Keys of `c2srt tune`, explained in configs/tune.yaml."""

    checkpoint: str
    shards: str
    out: str
    work: str = "."
    template: Optional[str] = None
    epochs: int = 1
    steps: Optional[int] = None
    batch: int = 64
    micro_batch: int = 16
    lr: float = 1e-3
    chunk: int = 256
    seed: int = 0
    views: ViewConfig = field(default_factory=ViewConfig)
    loader_workers: int = 1
    log_every: int = 20
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "micro_batch", "chunk", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps={self.steps} must be at least 1, or null for whole epochs")
        if self.lr <= 0:
            raise UserError(f"lr={self.lr} must be above 0")
