"""The keys of `c2srt demo`."""

from dataclasses import dataclass
from pathlib import Path

from c2srt.demo.words import PICTURES, SMALLEST, World, pictures, size_problem
from c2srt.errors import UserError
from c2srt.keys import Mark, Takes, key
from c2srt.shared_keys import shared
from c2srt.tables.commands import Workspace
from c2srt.tables.rows import Table


@dataclass
class Config:
    """Keys of `c2srt demo`."""

    work: str = shared("work")
    out: str = key(
        "", "table.md, table.json, predictions.png", mark=Mark.HARMLESS, follows="${work}/report"
    )
    seed: int = shared("seed")
    world: int = key(
        0,
        "number of the world that is drawn: which names are unseen, what comes with an event, what"
        " else tends to come together",
    )
    categories: int = key(
        SMALLEST,
        "of the world, 352 to 2,500: with more come more pictures, and relations with the degrees"
        " of those mined for Open Images",
    )
    workers: int = shared("workers")
    tables: dict[str, Table] = key(
        {},
        "main: the full model beside CLIP zero-shot and the class prior; others:"
        " configs/tables/*.yaml",
        composed=False,
    )
    seeds: int = key(
        1,
        (
            "fine-tuning seeds on the first CLIP, and as many CLIPs (the "
            "further ones with one fine-tuning seed)"
        ),
    )
    topk: list[int] = key([3, 10], "(from data) K of F1@K", composed=False)
    pretrain: bool = key(
        False,
        "make the first CLIP here, by the recipe, instead of taking the package's (further ones"
        " always are)",
    )
    images: dict[str, int] = key(
        dict(PICTURES),
        "pictures drawn a split of 352 categories (more for more), besides the 30,000 captioned"
        " ones of the CLIP",
    )
    commands: dict[str, list[str]] = key(
        {"shard": [], "text": [], "train": [], "tune": [], "evaluate": []},
        "further overrides of the verbs, as in commands.train='[\"schedule.steps=50\"]'",
        takes=Takes.COMMANDS,
    )

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.workers < 1:
            raise UserError(f"seeds={self.seeds} and workers={self.workers} must be at least 1")
        if self.world < 0:
            raise UserError(f"world={self.world} must be at least 0")
        if problem := size_problem(self.categories):
            raise UserError(problem)
        if not self.tables:
            raise UserError("tables=[] leaves nothing to show: name some of configs/tables")
        if set(self.images) != {"train", "validation", "test"} or min(self.images.values()) < 1:
            raise UserError(
                f"images={self.images} must give at least one image to each of train, validation"
                " and test"
            )

    @property
    def drawn(self) -> World:
        return World(self.world, size=self.categories)

    @property
    def pictures(self) -> dict[str, int]:
        """Drawn of each split."""
        return pictures(self.categories, self.images)

    @property
    def workspace(self) -> Workspace:
        return Workspace(
            Path(self.work),
            ["data=miniature", f"workers={self.workers}"],
            self.commands,
            [[]] * self.seeds,
            self.seed,
            f"{self.work}/raw",
        )
