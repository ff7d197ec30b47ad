"""The keys of `c2srt demo`."""

from dataclasses import dataclass, field
from pathlib import Path

from c2srt.errors import UserError
from c2srt.tables.commands import Place
from c2srt.tables.rows import Table


@dataclass
class Config:
    """Keys of `c2srt demo`, explained in configs/demo.yaml."""

    work: str = ""
    out: str = ""
    seed: int = 0
    workers: int = 2
    tables: dict[str, Table] = field(default_factory=dict)
    seeds: int = 1
    topk: list[int] = field(default_factory=lambda: [3, 10])
    images: dict[str, int] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.workers < 1:
            raise UserError(f"seeds={self.seeds} and workers={self.workers} must be at least 1")
        if not self.tables:
            raise UserError("tables=[] leaves nothing to show: name some of configs/tables")
        if set(self.images) != {"train", "validation", "test"} or min(self.images.values()) < 1:
            raise UserError(
                f"images={self.images} must give at least one image to each of train, validation"
                " and test"
            )

    @property
    def place(self) -> Place:
        return Place(
            Path(self.work),
            ["data=miniature", f"workers={self.workers}"],
            self.commands,
            [[]] * self.seeds,
            self.seed,
            f"{self.work}/raw",
        )
