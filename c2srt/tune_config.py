"""What `c2srt tune` is told, apart from tune.py so that it can be checked without torch."""

from dataclasses import MISSING, dataclass

from c2srt.errors import UserError
from c2srt.keys import Mark, key
from c2srt.shared_keys import shared
from c2srt.tracking.config import TrackingConfig
from c2srt.view_config import ViewConfig


@dataclass
class Config:
    """Keys of `c2srt tune`."""

    checkpoint: str = key(
        MISSING,
        "export folder (model.safetensors + config.json) that is tuned",
        mark=Mark.CONTENT,
        follows="${work}/train/model",
    )
    shards: str = shared("shards", needed=True)
    out: str = key(
        MISSING,
        "folder written: model/ (the export), run.json (the MLflow run)",
        mark=Mark.HARMLESS,
        follows="${work}/tuned",
    )
    work: str = shared("work", default=".")
    template: str | None = key(
        None,
        (
            "where learning starts, with {} for the name; null: the "
            "checkpoint's own, if it has just one"
        ),
    )
    epochs: int = key(1, "passes over the training images")
    steps: int | None = key(None, "updates instead of whole epochs")
    batch: int = key(64, "images of one update")
    micro_batch: int = key(16, "images at once: memory", mark=Mark.HARMLESS)
    lr: float = key(
        0.001,
        (
            "AdamW's peak learning rate: the ViT's output side (and the head's, "
            "when head_lr is null)"
        ),
    )
    chunk: int = key(
        256,
        "prompts that pass the text tower at a time: memory (ViT-B/16: at most 6 MiB a prompt)",
        mark=Mark.HARMLESS,
    )
    seed: int = shared("seed")
    views: ViewConfig = shared("views")
    loader_workers: int = key(1, "decoding processes (0: none, decode here)", mark=Mark.HARMLESS)
    log_every: int = key(20, "updates between two entries of the loss", mark=Mark.HARMLESS)
    tracking: TrackingConfig = key(
        TrackingConfig, "where MLflow records the run", mark=Mark.HARMLESS
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "micro_batch", "chunk", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps={self.steps} must be at least 1, or null for whole epochs")
        if self.lr <= 0:
            raise UserError(f"lr={self.lr} must be above 0")
