"""`c2srt demo`: draws the miniature, pre-trains its CLIP, walks the road with ordinary commands.

Every step is printed as the command that does the same; nothing here is done that a person could
not type. Run again it goes on where it stopped: each command knows what it has finished.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from c2srt.demo.raw import MARK, raw_key, write_raw
from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.progress import clock
from c2srt.tables.commands import Place, evaluate_untrained
from c2srt.tables.rows import CLIP, PRIOR, Row, Table, for_data, trained_rows, trials
from c2srt.tables.walk import Walk, prepare_clips, train_missing

UNTRAINED = (Row(PRIOR, untrained=PRIOR), Row(CLIP, untrained=CLIP))


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


def run(config: Config) -> None:
    """Walks the road and writes <out>/table.md, table.json (all tables of the run) and
    predictions.png.
    """
    from c2srt.demo.report import report  # torch and matplotlib: not needed to print --help

    started, place, walk = time.monotonic(), config.place, Walk(Command("demo"))
    tables = for_data(config.tables, "miniature")
    rows, every = trained_rows(tables), trials(config.seeds, config.seeds)
    draw(walk, config)
    for clip in range(config.seeds):
        prepare_clip(walk, config, clip)
    walk.run(place.command("shard", 0))
    prepare_clips(walk, place, list(range(config.seeds)), rows)
    for row, clip in (
        (row, clip)
        for clip in range(config.seeds)
        for row in UNTRAINED
        if row.untrained != PRIOR or clip == 0
    ):
        walk.run(evaluate_untrained(place, row, (clip, 0)))
    train_missing(walk, place, [(row, trial) for trial in every for row in rows])
    following = report(config, walk, tables)
    print(f"\nThe whole demo took {clock(time.monotonic() - started)}.\n{following}")


def draw(walk: Walk, config: Config) -> None:
    """The raw miniature, unless it is there."""
    root = Path(config.work) / "raw"
    with walk.step("draw", f"# a miniature Open Images in {root}"):
        if (root / MARK).is_file() and read_json(root / MARK, Command("demo")).get(
            "key"
        ) == raw_key(config.seed, config.images):
            print(f"   {root} is up to date")
            return
        write_raw(root, config.seed, config.images, config.workers)


def prepare_clip(walk: Walk, config: Config, clip: int) -> None:
    """The pre-trained CLIP, unless it is there."""
    from c2srt.demo.pretrain import clip_key, pretrain

    folder, seed = config.place.of_clip(clip) / "clip", config.seed + clip
    with walk.step("pre-train", f"# a tiny CLIP on captioned pictures, in {folder}"):
        mark = folder / "clip.json"
        if mark.is_file() and read_json(mark, Command("demo")).get("key") == clip_key(seed):
            print(f"   {folder} is up to date")
            return
        pretrain(folder, seed, config.workers)
