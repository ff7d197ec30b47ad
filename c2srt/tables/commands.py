"""What the rows need, as commands that a person could type: features and graphs once a CLIP, then a
training and an evaluation a trial.

Folders, below the work folder (a further CLIP n has one of its own, <work>/clip-<n>):
    text, text-simple, relations/<graph>, teacher    what `c2srt text`, `relations` and `teacher`
                                                     write; relations/<graph>-<K> keeps more
                                                     neighbours than the data set's
    text-smoothed-<graph>                            text features averaged with neighbours'
    evaluation-<untrained>                           results of CLIP and of the class prior
    <run>/seed-<n>                                   a training; its evaluation/ and row.json, which
                                                     says what it was made with
    evaluation…-<graph>-<K>                          results where unseen categories have K
                                                     neighbours' scores (of SPARC: prompts)
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from c2srt import hints
from c2srt.artefact import is_marked
from c2srt.files import hash_of
from c2srt.hints import override
from c2srt.old_names import old
from c2srt.opened import read_json
from c2srt.shards import load_index
from c2srt.tables.rows import (
    CLIP_SOFTMAX,
    ENSEMBLE,
    PRIOR,
    SIMPLE,
    SMOOTHED,
    SMOOTHED_BY,
    Row,
    Trial,
)
from c2srt.tracking.sqlite import address_of
from c2srt.train.config import SUMMARY

EVALUATION, MARK = "evaluation", "row.json"


@dataclass(frozen=True)
class Command:
    """`c2srt <verb> <overrides>`."""

    verb: str
    overrides: list[str]


@dataclass(frozen=True)
class Workspace:
    """Where everything lies, and what every command of these experiments is given.

    `given` are overrides for every verb (data=…, workers=…), `commands` further ones by verb,
    `clips` further ones by CLIP; `root` is the raw input's folder, if it is known, and `packed`
    that of the shards, if it is not the usual one.
    """

    work: Path
    given: list[str]
    commands: dict[str, list[str]] = field(default_factory=dict)
    clips: list[list[str]] = field(default_factory=lambda: [[]])
    seed: int = 0
    root: str | None = None
    packed: str | None = None

    def of_clip(self, clip: int) -> Path:
        """The folder of everything that depends on a CLIP."""
        return self.work if clip == 0 else self.work / f"clip-{clip}"

    def text(self, clip: int, row: Row) -> Path:
        """The folder of a row's text features; the ensemble's is the one that every verb takes by
        default.
        """
        name = f"{SMOOTHED}-{row.graph}" if row.text == SMOOTHED else row.text
        return self.of_clip(clip) / ("text" if row.text == ENSEMBLE else f"text-{name}")

    def wide(self, clip: int, row: Row) -> Path:
        """The folder of a graph that keeps more neighbours."""
        return self.of_clip(clip) / f"relations/{row.graph}-{row.keeps}"

    def trial(self, run: str, trial: Trial) -> Path:
        clip, seed = trial
        return self.of_clip(clip) / run / f"seed-{seed}"

    def evaluation(self, row: Row, trial: Trial) -> Path:
        """The folder of a row's results.json."""
        if row.untrained:
            folder = self.of_clip(clip_of(row, trial))
            return folder / f"{EVALUATION}-{row.untrained}{row.heard}"
        return self.trial(row.run, trial) / f"{EVALUATION}{row.heard}"

    def shards(self) -> Path:
        return Path(self.packed) if self.packed else self.work / "shards"

    def command(self, verb: str, clip: int, *overrides: str) -> Command:
        shared = [*self.given, override("work", self.of_clip(clip)), *self.clips[clip]]
        of_first = (
            {"shards": self.shards(), "data.root": self.root} if clip else {}
        )  # they don't depend on the CLIP
        shared += [
            override(key, value)
            for key, value in of_first.items()
            if value and key not in map(hints.key_of, shared)
        ]
        return Command(verb, [*shared, *self.commands.get(verb, []), *overrides])


def clip_of(row: Row, trial: Trial) -> int:
    """The CLIP of a row without training; the class prior is the same for every CLIP, but not its
    neighbours in a graph that is made with one.
    """
    return 0 if row.untrained == PRIOR and not row.heard else trial[0]


def prepare(
    workspace: Workspace, clip: int, rows: list[Row], controls: Sequence[Row] = ()
) -> list[Command]:
    """Text features, graphs and teacher cache of a CLIP, as far as the trained rows need them, and
    the graphs of the controls.
    """
    commands = [workspace.command("text", clip)]
    folders = {workspace.text(clip, row): row for row in rows if row.text != ENSEMBLE}
    simple, smoothed = (
        [(out, row) for out, row in folders.items() if row.text == text]
        for text in (SIMPLE, SMOOTHED)
    )
    commands += [
        workspace.command("text", clip, f"templates={SIMPLE}", override("out", out))
        for out, _ in simple
    ]
    commands += graphs_of(workspace, clip, rows, controls)
    commands += [
        workspace.command(
            "text", clip, f"smooth={SMOOTHED_BY}", f"graph={row.graph}", override("out", out)
        )
        for out, row in smoothed
    ]
    return [*commands, workspace.command("teacher", clip)] if rows else commands


def graphs_of(
    workspace: Workspace, clip: int, rows: list[Row], controls: Sequence[Row]
) -> list[Command]:
    """The graphs that rows are trained with, that their text features are smoothed by, and that
    controls hear.
    """
    heard = {row.graph for row in controls if row.heard}
    heard |= {
        row.graph for row in rows if not row.tuned and (not row.keeps or row.text == SMOOTHED)
    }
    wide = {workspace.wide(clip, row): row for row in rows if row.keeps}
    return [
        *(workspace.command("relations", clip, f"graph={graph}") for graph in sorted(heard)),
        *(
            workspace.command(
                "relations",
                clip,
                f"graph={row.graph}",
                f"neighbours={row.keeps}",
                override("out", out),
            )
            for out, row in sorted(wide.items())
        ),
    ]


def hears(row: Row) -> list[str]:
    """What `c2srt evaluate` is told of the neighbours whose scores unseen categories get."""
    return [f"neighbours={row.neighbours}", f"graph={row.graph}"] if row.heard else []


def evaluate_control(workspace: Workspace, row: Row, trial: Trial) -> Command:
    """The evaluation of a row of `controls_of`."""
    evaluation = evaluate_untrained if row.untrained else evaluate_trained
    return evaluation(workspace, row, trial)


def evaluate_untrained(workspace: Workspace, row: Row, trial: Trial) -> Command:
    """The results of CLIP, SPARC or the class prior."""
    form = (
        ["checkpoint=clip", "clip_scores=softmax"]
        if row.untrained == CLIP_SOFTMAX
        else [f"checkpoint={row.untrained}"]
    )
    out = override("out", workspace.evaluation(row, trial))
    return workspace.command("evaluate", clip_of(row, trial), *form, *hears(row), out)


def train_and_evaluate(workspace: Workspace, row: Row, trial: Trial) -> list[Command]:
    """A row's training (or tuning) and its evaluation. Reads how long the runs took that it depends
    on.
    """
    clip, seed = trial
    folder = workspace.trial(row.run, trial)
    common = [
        override("out", folder),
        f"seed={workspace.seed + seed}",
        f"tracking.name={row.run}-clip-{clip}-seed-{seed}",
        f"tracking.parent={row.run}",
    ]
    if clip and "MLFLOW_TRACKING_URI" not in os.environ:  # one store for all CLIPs
        common.append(override("tracking.uri", address_of(workspace.work / "mlflow.db")))
    if row.tuned:
        first = workspace.command(
            "tune",
            clip,
            override("checkpoint", workspace.trial(row.tuned, trial) / "model"),
            *common,
        )
    else:
        text = [] if row.text == ENSEMBLE else [override("text", workspace.text(clip, row))]
        steps = [f"schedule.steps={steps_for(workspace, row, trial)}"] if row.steps_of else []
        wide = [override("relations", workspace.wide(clip, row))] if row.keeps else []
        first = workspace.command(
            "train", clip, *text, f"graph={row.graph}", *wide, *row.train, *steps, *common
        )
    return [first, evaluate_trained(workspace, row, trial)]


def evaluate_trained(workspace: Workspace, row: Row, trial: Trial) -> Command:
    """The evaluation of a trained row."""
    folder = workspace.trial(row.run, trial)
    return workspace.command(
        "evaluate",
        trial[0],
        override("checkpoint", folder / "model"),
        *hears(row),
        override("out", workspace.evaluation(row, trial)),
    )


def steps_for(workspace: Workspace, row: Row, trial: Trial) -> int:
    """How many steps of the run `steps_of` take as long as the whole run `seconds_of`. Raises
    UserError if one is missing.
    """
    own, other = (
        read_json(workspace.trial(run, trial) / SUMMARY, hints.Command("train"))
        for run in (row.steps_of, row.seconds_of)
    )
    return max(1, round(other["steps"] * other["seconds_per_step"] / own["seconds_per_step"]))


def key_of(workspace: Workspace, row: Row, trial: Trial) -> str:
    """Changes when the row would come out otherwise, as far as the row, the commands and the shards
    decide it.
    """
    own = workspace.commands | {"train": list(map(old, workspace.commands.get("train", [])))}
    commands = [own.get(verb, []) for verb in ("text", "relations", "train", "tune", "evaluate")]
    typed = sorted(
        override for override in workspace.given if override.startswith(("clip.", "views."))
    )
    return hash_of(
        [
            row.recipe,
            trial,
            workspace.seed,
            commands,
            typed,
            workspace.clips[trial[0]],
            load_index(workspace.shards()).source,
        ]
    )


def is_finished(workspace: Workspace, row: Row, trial: Trial) -> bool:
    mark = workspace.trial(row.run, trial) / MARK
    return mark.is_file() and is_marked(
        mark, key_of(workspace, row, trial), hints.Command("tables")
    )
