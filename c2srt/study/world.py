"""One world: drawn, packed and trained on as far as its rows need, with ordinary commands.

<work>/world-<n>-fold/              the same of its fold for choosing settings, whose CLIP is a link
<work>/world-<n>/                   as `c2srt demo world=<n> seed=<n>` leaves it: raw, clip,
                                    shards, text, teacher
    graphs/<graph>.jsonl            relations with errors
    relations/<graph>               the graphs of these
    text-smoothed/<graph>
    <training>/<graph or none>      trainings
    messages/<row>/<graph or none>  second stages
"""

from dataclasses import dataclass, replace
from pathlib import Path

from c2srt.demo.config import Config as DemoConfig
from c2srt.demo.noise import write_noisy
from c2srt.demo.run import draw, prepare_clip
from c2srt.demo.words import World
from c2srt.hints import override
from c2srt.study.config import Config
from c2srt.study.rows import NO_GRAPH, Row, Training
from c2srt.tables.commands import Workspace
from c2srt.tables.rows import Row as TableRow, Table
from c2srt.tables.runner import Runner


@dataclass
class Place:
    """A world of the study, or its fold, and where it lies."""

    number: int
    config: Config
    runner: Runner
    fold: bool = False

    @property
    def world(self) -> World:
        return World(self.number, self.fold, self.config.categories)

    @property
    def folder(self) -> Path:
        return self.config.folder(self.number, self.fold)

    @property
    def demo(self) -> DemoConfig:
        """The demo whose world this is."""
        table = Table("", [TableRow("full", run="full")])
        return DemoConfig(
            str(self.folder),
            seed=self.number,
            world=self.number,
            categories=self.config.categories,
            workers=self.config.workers,
            tables={"main": table},
            images=self.config.images,
            commands=self.config.commands,
        )

    @property
    def workspace(self) -> Workspace:
        return self.demo.workspace

    def run(self, verb: str, *overrides: str) -> None:
        self.runner.run(self.workspace.command(verb, 0, *overrides))

    def relations(self, graph: str) -> Path:
        return self.folder / "relations" / graph


def prepare(place: Place) -> None:
    """Everything that no graph changes, and the graphs."""
    draw(place.runner, place.demo, place.world)
    if place.fold:
        whole = replace(place, fold=False)
        prepare_clip(place.runner, whole.demo, 0)
        link(place.folder / "clip", whole.folder / "clip")
    else:
        prepare_clip(place.runner, place.demo, 0)
    place.run("shard")
    place.run("text")
    place.run("teacher")
    place.run("relations", "graph=none")
    graphs = place.folder / "graphs"
    write_noisy(graphs, place.world, place.config.graphs)
    for graph in place.config.graphs:
        file, out = graphs / f"{graph}.jsonl", place.relations(graph)
        place.run(
            "relations", "graph=mined", override("relations_file", file), override("out", out)
        )


def link(path: Path, target: Path) -> None:
    if not path.is_symlink():
        path.symlink_to(target.resolve())


def train(place: Place, name: str, training: Training, graph: str) -> Path:
    """A training of the study with a graph, or NO_GRAPH; returns its folder."""
    out = place.folder / name / graph
    heard = graph if training.hears else NO_GRAPH
    overrides = [*training.overrides, override("relations", place.relations(heard))]
    if training.smoothed:
        text = place.folder / "text-smoothed" / graph
        known = override("relations", place.relations(graph))
        place.run("text", f"smooth={training.smoothed}", known, override("out", text))
        overrides.append(override("text", text))
    place.run(
        "train",
        *overrides,
        f"seed={place.number}",
        f"tracking.name=world-{place.number}-{name}-{graph}",
        override("out", out),
    )
    return out


def relate(place: Place, row: Row, graph: str, checkpoint: Path) -> Path:
    """The second stage of a row; returns its export."""
    out = place.folder / "messages" / slug(row.name) / graph
    told = [] if row.hears else ["neighbours=0", "unseen_neighbours=0"]
    place.run(
        "messages",
        *row.overrides,
        *told,
        override("checkpoint", checkpoint),
        override("relations", place.relations(graph)),
        override("out", out),
    )
    return out / "model"


def slug(name: str) -> str:
    """A row's name as that of a file."""
    return "-".join("".join(sign if sign.isalnum() else " " for sign in name).lower().split())
