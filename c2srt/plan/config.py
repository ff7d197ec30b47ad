"""The keys of `c2srt plan`: an experiment, and the cluster that it is planned for."""

from dataclasses import dataclass, field, replace

from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.model.config import check_choice
from c2srt.model.kinds import KINDS
from c2srt.plan.hardware import Cluster
from c2srt.plan.sizes import Sizes
from c2srt.train import config as train


@dataclass
class Config(train.Config):
    """Keys of `c2srt plan`: those of `c2srt train`, and these (configs/plan.yaml)."""

    cluster: Cluster = field(default_factory=Cluster)
    sizes: Sizes = field(default_factory=Sizes)
    data_name: str = ""
    gpus: list[int] | None = None
    images: int | None = None
    calibration: str | None = None
    calibrate: bool = False
    check: bool = False
    turns: int = 5
    clock: str = "wall"
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus is not None and (not self.gpus or min(self.gpus) < 1):
            raise UserError(
                f"gpus={self.gpus} must be a list of numbers of at least 1, as in 'gpus=[1,8,64]'"
            )
        if self.images is not None and self.images < 1 or self.turns < 1:
            raise UserError(f"images={self.images} and turns={self.turns} must be at least 1")
        check_choice("clock", self.clock, ("wall", "cpu"))
        if not KINDS[self.model.kind].planned:
            raise UserError(
                f"model={self.model.kind}: only C²SRT's own head is counted; time a few steps of "
                f"`{Command('train', model=self.model.kind, steps=20)}` instead"
            )
        if self.calibrate and self.calibration is None:
            raise UserError("calibrate=true needs calibration=…, the JSON file to write")

    def training(self, gpus: int | None = None) -> train.Config:
        """The experiment on `gpus` GPUs (CPU: workers), or on as many workers as it says."""
        workers = (
            self.workers
            if gpus is None
            else round(gpus / (self.gpus_per_worker if 0 < self.gpus_per_worker < 1 else 1))
        )
        return replace(self, workers=workers, gpus=None, calibrate=False)
