"""The keys of `c2srt plan`: an experiment, and the cluster that it is planned for."""

from dataclasses import dataclass, replace

from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.keys import key
from c2srt.model.config import check_choice
from c2srt.model.kinds import KINDS
from c2srt.plan.hardware import Cluster
from c2srt.plan.sizes import Sizes
from c2srt.train import config as train


@dataclass
class Config(train.Config):
    """Keys of `c2srt plan`: those of `c2srt train`, and these (configs/plan.yaml)."""

    cluster: Cluster = key(
        Cluster,
        "h200 | h100 | a100 | cpu, and every number of it: cluster.network_gb_s=50 (see"
        " configs/cluster/)",
        composed=False,
    )
    sizes: Sizes = key(
        Sizes,
        "images and categories of a data set that is not there yet (configs/datasets/*.yaml)",
        composed=False,
    )
    data_name: str = key("", "name of the data set that is planned for", follows="${data.name}")
    gpus: list[int] | None = key(
        None,
        (
            "GPUs (on cluster=cpu: workers) to compare; schedule.micro_batch is lowered "
            "where batch / GPUs needs it"
        ),
    )
    images: int | None = key(
        None, "training images of an epoch; null: those of the shards, else sizes.train"
    )
    calibration: str | None = key(
        None,
        (
            "measured rates, which replace those of the cluster: a JSON file, "
            "or a page kept by c2srt check"
        ),
    )
    calibrate: bool = key(
        False, "measure this machine with the configured model, and write `calibration`"
    )
    check: bool = key(
        False,
        "calibrate on some configurations and predict others: the miniature's ViT and ViT-B/16",
    )
    turns: int = key(
        5, "calibrate, check: each piece is timed this many times, in turns; the median counts"
    )
    clock: str = key(
        "wall",
        (
            "calibrate, check: wall | cpu: CPU time by threads, on a machine "
            "that others use at the same time"
        ),
    )
    json: bool = key(False, "print one JSON object instead of tables")

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
            timed = Command("train", values={"model": self.model.kind, "schedule.steps": 20})
            raise UserError(
                f"model={self.model.kind}: only C²SRT's own head is counted; time a few steps of "
                f"`{timed}` instead"
            )
        if self.calibrate and self.calibration is None:
            raise UserError("calibrate=true needs calibration=…, the JSON file to write")

    def training(self, gpus: int | None = None) -> train.Config:
        """The experiment on `gpus` GPUs (CPU: workers), or on as many workers as it says."""
        workers = self.workers if gpus is None else round(gpus / self.resources.share)
        return replace(self, workers=workers, gpus=None, calibrate=False)
