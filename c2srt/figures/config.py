"""The keys of `c2srt figures`."""

from dataclasses import dataclass, field

from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError

FIGURES = {
    "cam": ("cam",),
    "patches": ("patches",),
    "isr": ("isr-patches", "isr-ap"),
    "relations": ("relations",),
    "predictions": ("predictions",),
    "graph": ("graph",),
    "curves": ("curves-neighbours", "curves-threshold", "curves-distillation"),
}
"""The figures by the name that `figures` takes, and the files that each consists of."""


@dataclass
class Config:
    """Keys of `c2srt figures`, explained in configs/figures.yaml."""

    out: str
    work: str
    figures: list[str] | None = None
    model: str | None = None
    mkt: str | None = "auto"
    with_isr: str | None = None
    without_isr: str = ""
    relations_folder: str = ""
    tables_folder: str = ""
    shards: str = ""
    text: str = ""
    clip: ClipConfig = field(default_factory=ClipConfig)
    split: str = "test"
    images: list[str] | None = None
    categories: list[str] | None = None
    fixed: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64])
    statistics: int | None = None
    batch: int = 32
    loader_workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.figures is not None and not self.figures:
            raise UserError("figures=[] asks for none: leave it out for all that can be drawn")
        if unknown := next((name for name in self.figures or () if name not in FIGURES), None):
            raise UserError(f"figures: {unknown!r} is not one of {', '.join(FIGURES)}")
        if (
            self.images is not None
            and not self.images
            or self.categories is not None
            and not self.categories
        ):
            raise UserError(
                "images=[] and categories=[] name nothing: leave them out for a choice of our own"
            )
        if not self.fixed or min(self.fixed) < 1:
            raise UserError(f"fixed={self.fixed} must be numbers of patches from 1")
        if (
            self.batch < 1
            or self.loader_workers < 0
            or self.statistics is not None
            and self.statistics < 1
        ):
            raise UserError(
                f"batch={self.batch} and statistics={self.statistics} must be at least 1, "
                f"loader_workers={self.loader_workers} at least 0"
            )
