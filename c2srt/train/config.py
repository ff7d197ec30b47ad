"""Everything `c2srt train` is told, and the quantities that follow from it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Optional

from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.files import hash_of
from c2srt.model.config import LossConfig, ModelConfig, check_choice
from c2srt.order import Deal
from c2srt.tracking.config import TrackingConfig
from c2srt.train.engine_config import EngineConfig, check_combination
from c2srt.view_config import ViewConfig

ONLINE = "online"
STOP_FILE, SUMMARY = "stop", "train.json"
"""In the folder of a run: the wish to stop after the next step, and what came of the run."""
FINISHED, STOPPED = "finished", "stopped"
"""States of a run, in its summary."""

# Changing these does not change what a finished step was, nor which samples the next ones take;
# every other difference to a checkpoint is refused. Folders are compared by the hash of what lies
# in them.
HARMLESS = (
    "epochs",
    "steps",
    "log_every",
    "checkpoint_every",
    "keep_last",
    "validate_every",
    "validation_images",
    "workers",
    "micro_batch",
    "zero",
    "offload",
    "loader_workers",
    "max_failures",
    "max_nonfinite",
    "gpus_per_worker",
    "cpus_per_worker",
    "min_workers",
    "start_timeout",
    "collective_timeout",
    "record_samples",
    "tracking",
    "work",
    "shards",
    "text",
    "relations",
    "teacher",
    "clip",
    "out",
)


@dataclass
class Config:
    """Configuration of the verb `train`; configs/train.yaml explains every field and holds the
    defaults.
    """

    shards: str
    text: str
    relations: str
    teacher: str
    work: str
    out: str
    clip: ClipConfig = field(default_factory=ClipConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    seed: int = 0
    workers: int = 2
    min_workers: Optional[int] = None
    gpus_per_worker: float = 0
    cpus_per_worker: float = 1
    loader_workers: int = 1
    max_failures: int = 3
    start_timeout: float = 300
    collective_timeout: float = 600
    epochs: int = 8
    steps: Optional[int] = None
    batch: int = 64
    micro_batch: int = 8
    lr: float = 1e-3
    head_lr: Optional[float] = None
    weight_decay: float = 5e-3
    layer_decay: float = 0.65
    warmup: float = 0.05
    clip_grad_norm: float = 1.0
    precision: str = "fp32"
    zero: int = 0
    offload: bool = False
    deterministic: bool = False
    max_nonfinite: int = 20
    checkpoint_every: int = 500
    keep_last: int = 2
    validate_every: int = 0
    validation_images: int = 2000
    log_every: int = 20
    record_samples: bool = False
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, ("fp32", "bf16", "fp16"))
        check_combination(self.precision, self.zero, self.offload)
        for name in (
            "workers",
            "epochs",
            "batch",
            "micro_batch",
            "max_nonfinite",
            "checkpoint_every",
            "keep_last",
            "log_every",
            "validation_images",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        for name in (
            "loader_workers",
            "weight_decay",
            "clip_grad_norm",
            "gpus_per_worker",
            "validate_every",
            "lr",
            "max_failures",
            "start_timeout",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must be at least 0")
        for name in ("cpus_per_worker", "collective_timeout"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)} must be above 0")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise UserError(
                f"min_workers={self.min_workers} must be from 1 to workers={self.workers}, or null"
                " for all of them"
            )
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps={self.steps} must be at least 1, or null for whole epochs")
        if not 0 < self.layer_decay <= 1 or not 0 <= self.warmup < 1:
            raise UserError(
                f"layer_decay={self.layer_decay} must be in (0, 1] and warmup={self.warmup} in"
                " [0, 1)"
            )
        _ = self.deal  # refuses more workers than images of a batch at once

    @property
    def deal(self) -> Deal:
        """How the workers share a batch: the micro-batches that each adds up before an update."""
        return Deal(self.batch, self.micro_batch, self.workers)

    @property
    def uses_teacher(self) -> bool:
        """Whether a teacher cache is read."""
        return self.loss.distillation > 0 and self.teacher != ONLINE

    def engine(self) -> EngineConfig:
        return EngineConfig(self.deal, self.precision, self.zero, self.offload, self.clip_grad_norm)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer updates of the whole run: `steps`, or `epochs` times an epoch's."""
        return self.steps if self.steps is not None else self.epochs * steps_per_epoch

    def warmup_steps(self, total: int) -> int:
        return round(self.warmup * total)

    def settings(self) -> dict:
        """Every field as plain values, for the record."""
        return asdict(self)

    def identity(self) -> dict:
        """The settings that decide what a step does: those that a checkpoint must agree with."""
        return {name: value for name, value in self.settings().items() if name not in HARMLESS}

    def hash(self) -> str:
        return hash_of(self.identity())

    @property
    def folder(self) -> Path:
        return Path(self.out).absolute()


def from_settings(settings: dict) -> Config:
    """The Config that `settings()` was taken from. Raises UserError if it is of another version."""
    nested = {
        "clip": ClipConfig,
        "model": ModelConfig,
        "loss": LossConfig,
        "views": ViewConfig,
        "tracking": TrackingConfig,
    }
    try:
        return Config(
            **{
                name: nested[name](**value) if name in nested else value
                for name, value in settings.items()
            }
        )
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"the checkpoint's settings are not those of this version ({error}): train again"
        ) from error
