"""Everything `c2srt train` is told, and the quantities that follow from it."""

from dataclasses import MISSING, asdict, dataclass
from pathlib import Path

from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.files import hash_of
from c2srt.keys import Mark, Takes, from_plain, key, mark_of, refuse_below
from c2srt.locations import as_read, as_written
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.old_names import completed, grouped, today, written
from c2srt.order import BatchPartition
from c2srt.shared_keys import shared
from c2srt.train.engine_config import EngineConfig
from c2srt.train.key_groups import (
    CheckpointConfig,
    FaultConfig,
    LoaderKeys,
    OptimizerConfig,
    RecordConfig,
    ResourceConfig,
    ValidationConfig,
)
from c2srt.train.schedule import ScheduleConfig
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
    compared by the hash of what lies in them. In groups each key has its own mark.
    """

    shards: str = shared("shards", needed=True)
    text: str = shared("text", needed=True)
    relations: str = shared("relations", needed=True)
    teacher: str = shared("teacher", needed=True)
    work: str = shared("work", needed=True)
    out: str = key(
        MISSING,
        "folder written",
        mark=Mark.HARMLESS,
        follows="${work}/train",
        takes=Takes.PLACE,
    )
    warm_start: str | None = key(
        None,
        "export folder whose tower and head the training begins with, of any vocabulary; the"
        " optimizer begins anew",
        mark=Mark.CONTENT,
        takes=Takes.PLACE,
    )
    seed: int = shared("seed")
    workers: int = shared("workers")
    clip: ClipConfig = shared("clip")
    views: ViewConfig = shared("views")
    schedule: ScheduleConfig = key(ScheduleConfig, "epochs, batches and warm-up")
    optimizer: OptimizerConfig = key(OptimizerConfig, "AdamW")
    engine: EngineConfig = key(EngineConfig, "DeepSpeed")
    model: ModelConfig = key(
        ModelConfig,
        "C²SRT's network; every ablation of the paper is a value here (c2srt/model/config.py)",
    )
    loss: LossConfig = key(LossConfig, "the ranking loss and distillation (eq. 11, 2 and 12)")
    checkpoints: CheckpointConfig = key(
        CheckpointConfig, "what a killed run goes on from", mark=Mark.HARMLESS
    )
    validation: ValidationConfig = key(
        ValidationConfig, "looking at the validation split meanwhile", mark=Mark.HARMLESS
    )
    loader: LoaderKeys = key(LoaderKeys, "how images reach a worker", mark=Mark.HARMLESS)
    resources: ResourceConfig = key(
        ResourceConfig, "what a worker holds of a cluster", mark=Mark.HARMLESS
    )
    faults: FaultConfig = key(FaultConfig, "fault tolerance", mark=Mark.HARMLESS)
    tracking: RecordConfig = key(
        RecordConfig, "what is written down, and where MLflow records it", mark=Mark.HARMLESS
    )

    def __post_init__(self) -> None:
        refuse_below(self, 1, "", "workers")
        least = self.faults.min_workers
        if least is not None and not 1 <= least <= self.workers:
            raise UserError(
                f"faults.min_workers={least} must be from 1 to workers={self.workers}, or null for"
                " all of them"
            )
        _ = self.partition  # refuses more workers than images of a batch at once

    @property
    def partition(self) -> BatchPartition:
        """How the workers share a batch: the micro-batches that each adds up before an update."""
        return BatchPartition(self.schedule.batch, self.schedule.micro_batch, self.workers)

    @property
    def uses_teacher(self) -> bool:
        """Whether a teacher cache is read."""
        return self.loss.distillation > 0 and self.teacher != ONLINE

    @property
    def folders_read(self) -> list[str]:
        """The keys of folders that are read."""
        return [
            *("shards", "text", "relations"),
            *(["teacher"] if self.uses_teacher else []),
            *(["warm_start"] if self.warm_start else []),
        ]

    def settings(self) -> dict:
        """Every field as plain values, for the record: by the names that older runs have, too."""
        return as_written(written(asdict(self)))

    def identity(self) -> dict:
        """The settings that decide what a step does: those that a checkpoint must agree with."""
        return {
            name: value
            for name, value in self.settings().items()
            if mark_of(type(self), today(name)) is Mark.DECIDES
        }

    def hash(self) -> str:
        return hash_of(self.identity())

    @property
    def folder(self) -> Path:
        return Path(self.out).absolute()


def from_settings(settings: dict) -> Config:
    """The Config that `settings()` was taken from. Raises UserError if it is of another version."""
    try:
        return from_plain(Config, as_read(Config, completed(grouped(settings))))
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"the checkpoint's settings are not those of this version ({error}): train again"
        ) from error
