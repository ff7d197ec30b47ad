"""What `c2srt calibrate` is told; nothing heavy is imported, so that it can be checked at once."""

from dataclasses import MISSING, dataclass

from c2srt.errors import UserError
from c2srt.keys import Mark, key, refuse_below
from c2srt.model.config import check_choice
from c2srt.shared_keys import shared

ABSENT, IGNORED = UNVERIFIED = ("absent", "ignored")


@dataclass
class Config:
    """Keys of `c2srt calibrate`."""

    checkpoint: str = key(
        MISSING,
        "export folder (model.safetensors + config.json) whose scores become probabilities",
        mark=Mark.CONTENT,
        follows="${work}/train/model",
    )
    shards: str = shared("shards", needed=True)
    out: str = key(
        MISSING,
        "folder written: model/ (the export with its calibration), calibration.json,"
        " per_category.csv, confusions.csv",
        mark=Mark.HARMLESS,
        follows="${work}/calibrated",
    )
    split: str = key("validation", "split whose labels of seen categories it is fitted on …")
    measured: str | None = key(
        "test",
        "… and the one on which its error is measured, that of unseen ones apart; null: none",
    )
    unverified: str = key(
        ABSENT,
        "categories that nobody verified in an image are: absent, as F1@K counts them | ignored:"
        " only what was verified counts, which says more of a category than an album would",
    )
    images: int = key(100_000, "images of each split that are scored, spread over it")
    seed: int = shared("seed")
    batch: int = key(64, "images scored at a time", mark=Mark.HARMLESS)
    loader_workers: int = key(1, "decoding processes (0: none, decode here)", mark=Mark.HARMLESS)

    def __post_init__(self) -> None:
        check_choice("unverified", self.unverified, UNVERIFIED)
        refuse_below(self, 1, "", "images", "batch")
        refuse_below(self, 0, "", "loader_workers", "seed")
        if self.split == self.measured:
            raise UserError(
                f"split={self.split} is what it is fitted on, so its error would look smaller than"
                " it is there: give another split as measured=…, or measured=null"
            )
