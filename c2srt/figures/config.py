"""The keys of `c2srt figures`."""

from dataclasses import MISSING, dataclass

from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.figures.registry import FIGURES
from c2srt.keys import Mark, key
from c2srt.shared_keys import shared


@dataclass
class Config:
    """Keys of `c2srt figures`."""

    out: str = key(
        MISSING,
        "folder written: <figure>.png, .pdf, .json",
        mark=Mark.HARMLESS,
        follows="${work}/figures",
    )
    work: str = shared("work", needed=True)
    figures: list[str] | None = key(
        None, "which of them, as in [cam,isr]; null: all that can be drawn"
    )
    model: str | None = key(
        None,
        (
            "our model's export; null: ${work}/full/seed-0/model if it is "
            "there, else ${work}/train/model"
        ),
    )
    mkt: str | None = key(
        "auto", "MKT's; auto: ${work}/mkt/seed-0/model if it is there; null: without MKT"
    )
    with_isr: str | None = key(
        None,
        (
            "isr: folder of an evaluation with ISR; null: the one beside our "
            "model, else ${work}/evaluation …"
        ),
    )
    without_isr: str = key(
        "",
        "… and of one without (model.isr=false); where it lacks, a line says how",
        follows="${work}/ist/seed-0/evaluation",
    )
    relations_folder: str = key(
        "", "graph: where the relation graphs lie, a folder each", follows="${work}/relations"
    )
    tables_folder: str = key(
        "", "curves: neighbours.json, threshold.json, distillation.json", follows="${work}/tables"
    )
    shards: str = shared("shards")
    text: str = shared("text")
    clip: ClipConfig = shared("clip")
    split: str = key("test", "split of the shards whose images are shown")
    images: list[str] | None = key(
        None,
        "ids of the photos; null: of 2,000 drawn by the seed, those with most verified labels",
    )
    categories: list[str] | None = key(
        None,
        (
            "names or MIDs (cam, patches, relations: those; graph: the first); "
            "null: a choice of our own"
        ),
    )
    words: list[str] | None = key(
        None,
        "novel: categories that the data set does not have, ranked among its unseen ones; null: no"
        " such figure",
    )
    topk: list[int] = key([10, 20], "(from data) the first is isr's K of F1@K", composed=False)
    fixed: list[int] = key(
        [1, 2, 4, 8, 16, 32, 64], "isr: numbers of patches that all categories take in turn"
    )
    statistics: int | None = key(
        None,
        (
            "isr: images looked at, drawn by the seed; null: all (a pass of the "
            "ViT, one of the head a number)"
        ),
    )
    batch: int = key(32, "isr: images scored at a time", mark=Mark.HARMLESS)
    loader_workers: int = key(1, "isr: decoding processes (0: none)", mark=Mark.HARMLESS)
    seed: int = shared("seed")

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
        if self.words is not None and not all(word.strip() for word in self.words or [""]):
            raise UserError("'words=[…]' needs at least one word, and none that is empty")
        if not self.topk or min(self.topk) < 1:
            raise UserError(f"topk={self.topk} must be numbers from 1, such as 'topk=[10,20]'")
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
