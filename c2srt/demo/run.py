"""`c2srt demo`: draws the miniature Open Images, pre-trains its CLIP, then walks the whole road with the ordinary commands.

Every step is printed as the command that does the same; nothing here is done that a person could not type. Run again it
goes on where it stopped: each command knows what it has finished.
"""

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path

from c2srt.cli import run_verb
from c2srt.demo.raw import MARK, raw_key, write_raw
from c2srt.demo.rows import CHOICES, ENSEMBLE, SIMPLE, SIMPLE_PROMPT, TUNED, Row, chosen_tables, rows_of, trials
from c2srt.errors import UserError
from c2srt.files import read_json
from c2srt.progress import clock


@dataclass
class Config:
    """Keys of `c2srt demo`, explained in configs/demo.yaml."""

    work: str = ""
    out: str = ""
    seed: int = 0
    workers: int = 2
    rows: str = "main"
    seeds: int = 1
    topk: list[int] = field(default_factory=lambda: [3, 10])
    images: dict[str, int] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows not in CHOICES:
            raise UserError(f"rows={self.rows} is none of {', '.join(CHOICES)}")
        if self.seeds < 1 or self.workers < 1:
            raise UserError(f"seeds={self.seeds} and workers={self.workers} must be at least 1")
        if set(self.images) != {"train", "validation", "test"} or min(self.images.values()) < 1:
            raise UserError(f"images={self.images} must give at least one image to each of train, validation and test")


@dataclass
class Road:
    """Walks the commands for one configuration; `seconds` keeps what each took."""

    config: Config
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return Path(self.config.work)

    def clip_work(self, clip: int) -> Path:
        """The folder of everything that depends on a CLIP: the work folder itself for the first, one below it for others."""
        return self.work if clip == 0 else self.work / f"clip-{clip}"

    def trial_folder(self, row: Row, clip: int, seed: int) -> Path:
        return self.clip_work(clip) / row.folder / f"seed-{seed}"

    def text(self, clip: int, prompt: str) -> Path:
        """The folder of a prompt's text features; the ensemble's is the one that every verb takes by default."""
        return self.clip_work(clip) / ("text" if prompt == ENSEMBLE else f"text-{prompt}")

    def shared(self, clip: int) -> list[str]:
        """Overrides that put every command on this miniature and this CLIP."""
        overrides = ["data=miniature", f"work={self.clip_work(clip)}", f"workers={self.config.workers}"]
        return overrides if clip == 0 else [*overrides, f"shards={self.work}/shards", f"data.root={self.work}/raw"]

    def run(self, verb: str, clip: int, extra: list[str]) -> None:
        """One command: announced, run in this process, timed. Raises UserError if it fails."""
        arguments = [*self.shared(clip), *self.config.commands.get(verb, []), *extra]
        with self.step(verb, f"c2srt {verb} {shlex.join(arguments)}"):
            if status := run_verb(verb, arguments):
                raise UserError(f"`c2srt {verb}` ended with status {status}: see its message above, then run `c2srt demo` again")

    def step(self, name: str, what: str) -> "Step":
        return Step(self.seconds, name, what)


@dataclass
class Step:
    """Prints what is about to be done, and adds its seconds to `seconds[name]`."""

    seconds: dict[str, float]
    name: str
    what: str

    def __enter__(self) -> None:
        print(f"\n── {self.name}\n   $ {self.what}", flush=True)
        self.started = time.monotonic()

    def __exit__(self, *_) -> None:
        took = time.monotonic() - self.started
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + took
        print(f"   {self.name} took {clock(took)}", flush=True)


def run(config: Config) -> None:
    """Walks the road and writes <out>/table.md, table.json (all tables of the run) and predictions.png."""
    from c2srt.demo.report import report  # torch and matplotlib: not needed to print --help

    started, road = time.monotonic(), Road(config)
    draw(road)
    prepare_clip(road, 0)
    road.run("shard", 0, [])
    tables = chosen_tables(config.rows)
    rows = rows_of(tables)
    for clip in sorted({clip for clip, _ in trials(config.seeds)}):
        prepare(road, clip, rows)
    for clip, seed in trials(config.seeds):
        for row in rows:
            train(road, row, clip, seed)
    report(road, tables)
    print(f"\nThe whole demo took {clock(time.monotonic() - started)}.")


def draw(road: Road) -> None:
    """The raw miniature, unless it is there."""
    config, root = road.config, road.work / "raw"
    with road.step("draw", f"# a miniature Open Images in {root}"):
        if (root / MARK).is_file() and read_json(root / MARK, "c2srt demo").get("key") == raw_key(config.seed, config.images):
            print(f"   {root} is up to date")
            return
        write_raw(root, config.seed, config.images, config.workers)


def prepare_clip(road: Road, clip: int) -> None:
    """The pre-trained CLIP, unless it is there."""
    from c2srt.demo.pretrain import clip_key, pretrain

    folder, seed = road.clip_work(clip) / "clip", road.config.seed + clip
    with road.step("pre-train", f"# a tiny CLIP on captioned pictures, in {folder}"):
        mark = folder / "clip.json"
        if mark.is_file() and read_json(mark, "c2srt demo").get("key") == clip_key(seed):
            print(f"   {folder} is up to date")
            return
        pretrain(folder, seed, road.config.workers)


def prepare(road: Road, clip: int, rows: tuple[Row, ...]) -> None:
    """Text features, graphs and teacher cache for one CLIP: what the rows need."""
    if clip:
        prepare_clip(road, clip)
    road.run("text", clip, [])
    if any(row.prompt == SIMPLE for row in rows):
        road.run("text", clip, [f"templates={SIMPLE}", f"out={road.text(clip, SIMPLE)}"])
    for graph in sorted({row.graph for row in rows}):
        road.run("relations", clip, [f"graph={graph}"])
    road.run("teacher", clip, [])
    for untrained in ("prior", "clip") if clip == 0 else ("clip",):
        road.run("evaluate", clip, [f"checkpoint={untrained}", f"out={road.clip_work(clip)}/evaluation-{untrained}"])


def train(road: Road, row: Row, clip: int, seed: int) -> None:
    """One trained or tuned row, then its evaluation on the test split."""
    folder = road.trial_folder(row, clip, seed)
    print(f"\n══ {row.name}, CLIP {clip}, seed {seed}")
    store = f"sqlite:///{(road.work / 'mlflow.db').absolute()}"
    common = [f"out={folder}", f"seed={road.config.seed + seed}", f"tracking.name={row.folder}-clip-{clip}-seed-{seed}",
              f"tracking.parent={row.folder}", f"tracking.uri={store}"]
    if row.prompt == TUNED:
        road.run("tune", clip, [f"checkpoint={road.trial_folder(SIMPLE_PROMPT, clip, seed)}/model", *common])
    else:
        road.run("train", clip, [f"text={road.text(clip, row.prompt)}", f"graph={row.graph}", *row.overrides, *common])
    road.run("evaluate", clip, [f"checkpoint={folder}/model", f"out={folder}/evaluation"])
