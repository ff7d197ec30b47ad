"""What `c2srt evaluate` can be told; configs/evaluate.yaml explains each key to users."""

from dataclasses import dataclass, field
from typing import Optional

from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.model.config import check_choice

PROTOCOLS = ("per_class", "lesa", "biam_legacy", "dense")
"""Of average precision; protocols.py says what each is."""
COSINE, SOFTMAX = "cosine", "softmax"
"""Forms of the untrained CLIP's score."""
LEAST_DRAWS = 40
"""Of a bootstrap: below, no draw lies beyond the 2.5th percentile."""


@dataclass
class Config:
    """Keys of `c2srt evaluate`, explained in configs/evaluate.yaml."""

    out: str
    shards: str = ""
    text: str = ""
    checkpoint: str = ""
    split: str = "test"
    scores: Optional[str] = None
    labels: Optional[str] = None
    seen: Optional[str] = None
    topk: list[int] = field(default_factory=lambda: [10, 20])
    protocols: list[str] = field(default_factory=lambda: list(PROTOCOLS))
    bootstrap: int = 200
    seed: int = 0
    clip_scores: str = COSINE
    clip: ClipConfig = field(default_factory=ClipConfig)
    workers: int = 2
    batch: int = 32
    loader_workers: int = 1

    def __post_init__(self) -> None:
        check_choice("clip_scores", self.clip_scores, (COSINE, SOFTMAX))
        if unknown := set(self.protocols) - set(PROTOCOLS):
            raise UserError(f"protocol {sorted(unknown)[0]!r} is not one of {', '.join(PROTOCOLS)}")
        if not self.topk or len(set(self.topk)) != len(self.topk) or min(self.topk) < 1:
            raise UserError(
                f"topk={self.topk} must be different numbers from 1, such as 'topk=[10,20]'"
            )
        if min(self.workers, self.batch) < 1 or self.loader_workers < 0:
            raise UserError(
                f"workers={self.workers} and batch={self.batch} must be at least 1, "
                f"loader_workers={self.loader_workers} at least 0"
            )
        if self.seed < 0 or self.bootstrap < 0 or 0 < self.bootstrap < LEAST_DRAWS:
            raise UserError(
                f"bootstrap={self.bootstrap} must be 0 (no intervals) or at least {LEAST_DRAWS}"
                f" draws, and seed={self.seed} at least 0"
            )
        given = [name for name in ("scores", "labels", "seen") if getattr(self, name) is not None]
        if given and len(given) < 3:
            raise UserError(
                f"{given[0]}=… is given, so scores, labels and seen are needed, all three"
            )
