"""The keys of `c2srt study`."""

from dataclasses import dataclass
from pathlib import Path

from c2srt.demo.noise import NOISES
from c2srt.demo.words import PICTURES, SMALLEST, size_problem
from c2srt.errors import UserError
from c2srt.files import hash_of
from c2srt.keys import Mark, Takes, key
from c2srt.shared_keys import shared
from c2srt.study.rows import ROWS, Row
from c2srt.study.tuned import TUNED

COMPARED, ALL = "compared", "all"


@dataclass
class Config:
    """Keys of `c2srt study`."""

    work: str = shared("work")
    out: str = key(
        "",
        "folder written: a JSON file a world, graph and row; study.md, study.json",
        mark=Mark.HARMLESS,
        follows="${work}/study",
    )
    results: str | None = key(
        None, "a results.json: its report alone, of worlds and graphs; nothing is trained"
    )
    worlds: list[int] = key([0, 1, 2], "numbers of the worlds, as of the demo")
    graphs: list[str] = key(
        ["noise-0", "noise-25", "noise-50", "noise-75", "noise-100"],
        "relation graphs of each world, with errors as c2srt/demo/noise.py says",
    )
    rows: str = key(
        COMPARED, "compared: those that a confirmation compares | all: the paper's tables, too"
    )
    tune: list[str] = key(
        [],
        "instead of the rows: tries the settings of these models (all: of every one) in each"
        " world's fold, on the first graph",
    )
    categories: int = key(
        SMALLEST, "of each world, 352 to 2,500: with more come more pictures, as of the demo"
    )
    workers: int = shared("workers")
    part: str | None = key(
        None, "2/5: only the second of five shares of the worlds, for as many machines"
    )
    images: dict[str, int] = key(
        dict(PICTURES), "pictures drawn a split of 352 categories (more for more)"
    )
    commands: dict[str, list[str]] = key(
        {"shard": [], "text": [], "relations": [], "teacher": [], "train": [], "messages": []},
        "further overrides of the verbs, as in commands.train='[\"schedule.steps=50\"]'",
        takes=Takes.COMMANDS,
    )

    def __post_init__(self) -> None:
        if not self.worlds or min(self.worlds) < 0 or len(set(self.worlds)) < len(self.worlds):
            raise UserError(f"worlds={self.worlds} must be different numbers from 0")
        if problem := size_problem(self.categories):
            raise UserError(problem)
        if unknown := set(self.graphs) - set(NOISES) or ({""} if not self.graphs else set()):
            raise UserError(
                f"graphs={self.graphs}: {sorted(unknown)[0]!r} is not one of {', '.join(NOISES)}"
            )
        if self.rows not in (COMPARED, ALL):
            raise UserError(f"rows={self.rows} is neither {COMPARED} nor {ALL}")
        if unknown := set(self.tune) - {*TUNED, ALL}:
            raise UserError(f"tune: {sorted(unknown)[0]!r} is none of {', '.join(TUNED)}, {ALL}")
        _ = self.share

    @property
    def share(self) -> list[int]:
        """The worlds of this part."""
        number, slash, of = (self.part or "1/1").partition("/")
        if not (slash and number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
            raise UserError(f"part={self.part} must be like 2/5: the second of five shares")
        return self.worlds[int(number) - 1 :: int(of)]

    @property
    def chosen(self) -> list[Row]:
        return [row for row in ROWS if row.compared or self.rows == ALL]

    @property
    def tuned(self) -> list[str]:
        """The models whose settings are tried."""
        return list(TUNED) if ALL in self.tune else self.tune

    @property
    def given(self) -> str:
        """What all results of a study share, whatever the world."""
        larger = [self.categories] if self.categories != SMALLEST else []
        return hash_of([self.images, self.commands, *larger])

    def folder(self, world: int, fold: bool) -> Path:
        larger = f"-{self.categories}" if self.categories != SMALLEST else ""
        return Path(self.work) / f"world-{world}{larger}{'-fold' if fold else ''}"
