"""Everything `c2srt train` is told, and the quantities that follow from it."""

from dataclasses import MISSING, asdict, dataclass
from pathlib import Path

from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.files import hash_of
from c2srt.keys import Mark, deciding, from_plain, key
from c2srt.model.config import LossConfig, ModelConfig, check_choice
from c2srt.order import BatchPartition
from c2srt.shared_keys import shared
from c2srt.tracking.config import TrackingConfig
from c2srt.train.engine_config import EngineConfig, check_combination
from c2srt.view_config import ViewConfig

ONLINE = "online"
STOP_FILE, SUMMARY = "stop", "train.json"
"""In the folder of a run: the wish to stop after the next step, and what came of the run."""
FINISHED, STOPPED = "finished", "stopped"
"""States of a run, in its summary."""


@dataclass
class Config:
    """Keys of `c2srt train`.

    Changing a harmless one (c2srt/keys.py) does not change what a finished step was, nor which
    samples the next ones take; every other difference to a checkpoint is refused. Folders are
    compared by the hash of what lies in them.
    """

    shards: str = shared("shards", needed=True)
    text: str = shared("text", needed=True)
    relations: str = shared("relations", needed=True)
    teacher: str = shared("teacher", needed=True)
    work: str = shared("work", needed=True)
    out: str = key(MISSING, "folder written", mark=Mark.HARMLESS, follows="${work}/train")
    seed: int = shared("seed")
    workers: int = shared("workers")
    clip: ClipConfig = shared("clip")
    views: ViewConfig = shared("views")
    epochs: int = key(8, "passes over the training images", mark=Mark.HARMLESS, group="schedule")
    steps: int | None = key(
        None, "optimizer updates instead of whole epochs", mark=Mark.HARMLESS, group="schedule"
    )
    batch: int = key(
        64,
        (
            "images of one update over all workers; accumulation = batch / "
            "(micro_batch × workers), rounded up"
        ),
        group="schedule",
    )
    micro_batch: int = key(
        8, "images at once on one worker, at most: memory", mark=Mark.HARMLESS, group="schedule"
    )
    lr: float = key(
        0.001,
        (
            "AdamW's peak learning rate: the ViT's output side (and the head's, "
            "when head_lr is null)"
        ),
        group="optimizer",
    )
    head_lr: float | None = key(
        None, "AdamW's peak learning rate of the head; null: lr", group="optimizer"
    )
    weight_decay: float = key(0.005, "not on vectors and biases", group="optimizer")
    layer_decay: float = key(
        0.65, "learning rate × this for each block further from the output", group="optimizer"
    )
    warmup: float = key(
        0.05,
        "share of the steps with a rising learning rate; then half a cosine down",
        group="optimizer",
    )
    clip_grad_norm: float = key(1.0, "0: no clipping", group="optimizer")
    precision: str = key(
        "fp32", "fp32 | bf16 | fp16 (master weights are fp32 in any case)", group="engine"
    )
    zero: int = key(
        0,
        (
            "DeepSpeed's ZeRO stage 0-3: what is sharded over workers (1 "
            "optimizer, 2 + gradients, 3 + weights)"
        ),
        mark=Mark.HARMLESS,
        group="engine",
    )
    offload: bool = key(
        False,
        "optimizer state and update in CPU memory (zero 1-3)",
        mark=Mark.HARMLESS,
        group="engine",
    )
    deterministic: bool = key(
        False, "only deterministic GPU kernels (a CPU run is deterministic anyway)", group="engine"
    )
    model: ModelConfig = key(
        ModelConfig,
        "C²SRT's network; every ablation of the paper is a value here (c2srt/model/config.py)",
        group="model and loss",
    )
    loss: LossConfig = key(
        LossConfig, "the ranking loss and distillation (eq. 11, 2 and 12)", group="model and loss"
    )
    checkpoint_every: int = key(
        500,
        "updates between checkpoints (the last update always saves one)",
        mark=Mark.HARMLESS,
        group="checkpoints",
    )
    keep_last: int = key(2, "checkpoints kept", mark=Mark.HARMLESS, group="checkpoints")
    validate_every: int = key(
        0,
        (
            "updates between validations (0: none); the best by mAP over seen "
            "categories goes to <out>/best"
        ),
        mark=Mark.HARMLESS,
        group="validation",
    )
    validation_images: int = key(
        2000,
        "at most this many images of the validation split",
        mark=Mark.HARMLESS,
        group="validation",
    )
    loader_workers: int = key(
        1,
        "decoding processes of each worker; 0: in the worker itself",
        mark=Mark.HARMLESS,
        group="loader",
    )
    gpus_per_worker: float = key(0, "1 on a GPU cluster", mark=Mark.HARMLESS, group="workers")
    cpus_per_worker: float = key(
        1,
        "what Ray reserves for each; 1 + loader_workers where other jobs share the cluster",
        mark=Mark.HARMLESS,
        group="workers",
    )
    min_workers: int | None = key(
        None,
        (
            "go on with as few as these after start_timeout, when nodes are "
            "gone; null: all workers are needed"
        ),
        mark=Mark.HARMLESS,
        group="fault tolerance",
    )
    start_timeout: float = key(
        300,
        "how long to wait for the cluster to have room for the workers",
        unit="s",
        mark=Mark.HARMLESS,
        group="fault tolerance",
    )
    collective_timeout: float = key(
        600,
        "silence of a worker (stopped, hung, cut off) after which all are started again",
        unit="s",
        mark=Mark.HARMLESS,
        group="fault tolerance",
    )
    max_failures: int = key(
        3,
        "failures in a row without a newer checkpoint before giving up",
        mark=Mark.HARMLESS,
        group="fault tolerance",
    )
    max_nonfinite: int = key(
        20,
        "updates left out in a row, for a non-finite loss or gradient, before the run stops",
        mark=Mark.HARMLESS,
        group="fault tolerance",
    )
    log_every: int = key(
        20,
        "updates between entries in metrics.jsonl and MLflow",
        mark=Mark.HARMLESS,
        group="tracking",
    )
    record_samples: bool = key(
        False,
        "the image ids of every update in <out>/samples, for audits",
        mark=Mark.HARMLESS,
        group="tracking",
    )
    tracking: TrackingConfig = key(
        TrackingConfig, "where MLflow records the run", mark=Mark.HARMLESS, group="tracking"
    )

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, ("fp32", "bf16", "fp16"))
        check_combination(self.precision, self.zero, self.offload)
        self.check_bounds()
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
        _ = self.partition  # refuses more workers than images of a batch at once

    def check_bounds(self) -> None:
        """Raises UserError if a number is below the least that it can be."""
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

    @property
    def partition(self) -> BatchPartition:
        """How the workers share a batch: the micro-batches that each adds up before an update."""
        return BatchPartition(self.batch, self.micro_batch, self.workers)

    @property
    def uses_teacher(self) -> bool:
        """Whether a teacher cache is read."""
        return self.loss.distillation > 0 and self.teacher != ONLINE

    def engine(self) -> EngineConfig:
        return EngineConfig(
            self.partition, self.precision, self.zero, self.offload, self.clip_grad_norm
        )

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
        return deciding(self)

    def hash(self) -> str:
        return hash_of(self.identity())

    @property
    def folder(self) -> Path:
        return Path(self.out).absolute()


def from_settings(settings: dict) -> Config:
    """The Config that `settings()` was taken from. Raises UserError if it is of another version."""
    try:
        return from_plain(Config, settings)
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"the checkpoint's settings are not those of this version ({error}): train again"
        ) from error
