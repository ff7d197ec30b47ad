"""The end of the demo: every row's figures, the tables (terminal, Markdown, JSON) and the picture
of predictions.
"""

import logging
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor

from c2srt.artefact import is_marked
from c2srt.demo import measure, table
from c2srt.demo.controls import clip_zero_shot, figures_of_controls, results_of
from c2srt.demo.picture import SHOWN, draw_predictions
from c2srt.files import write_json, write_text
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.relations.table import load_relations
from c2srt.tables.collect import Trials
from c2srt.tables.commands import Workspace
from c2srt.tables.rows import CLIP, PRIOR, Table, trained_rows, trials
from c2srt.tracking import how_to_open
from c2srt.tracking.sqlite import address_of
from c2srt.vocabulary import load_vocabulary

log = logging.getLogger(__name__)

FIGURES, FULL = "figures.json", "full"
NEIGHBOURS, GRAPHS = "CLIP, events by their four neighbours (oracle graph)", "graphs"
"""A row without training of its own, in the table of graphs: how much the oracle graph knows that
the names do not say.
"""


def report(config, runner, tables: dict[str, Table]) -> str:
    """Writes <out>/table.md, table.json, predictions.png and prints the tables; config and runner
    are c2srt.demo.run's.

    Returns the last lines of the demo: what to type next.
    """
    workspace, out, topk, every = (
        config.workspace,
        Path(config.out),
        tuple(config.topk),
        trials(config.seeds, config.seeds),
    )
    test = measure.load_split(config.drawn, workspace.shards(), Path(workspace.root), "test")
    values = untrained(config, test, GRAPHS in tables)
    for row in trained_rows(tables):
        values[row.run] = {
            trial: trained(workspace.trial(row.run, trial), test, topk) for trial in every
        }
    values |= figures_of_controls(config, tables, test, every)
    texts, captions, record = tabulated(config, tables, values)
    text = "\n\n".join([*texts, table.notes(len(every))])
    write_text(out / "table.md", text + "\n")
    write_json(
        out / "table.json",
        {"tables": captions, "rows": record, "config": asdict(config), "seconds": runner.seconds},
    )
    shown = next((row for row in trained_rows(tables) if row.run == FULL), trained_rows(tables)[-1])
    draw_predictions(
        out / "predictions.png",
        test,
        clip_zero_shot(config, 0, test.images[:SHOWN]),
        measure.model_scores(workspace.trial(shown.run, (0, 0)) / "model", test.images[:SHOWN]),
    )
    print(
        f"\n{text}\n\nTables: {out / 'table.md'}, {out / 'table.json'} · predictions on test"
        f" images: {out / 'predictions.png'}"
    )
    uri = os.environ.get("MLFLOW_TRACKING_URI") or address_of(workspace.work / "mlflow.db")
    log.info(f"Every run, with its curves and settings, is in MLflow:\n  {how_to_open(uri)}")
    return what_next(workspace, workspace.trial(shown.run, (0, 0)), test)


def tabulated(
    config, tables: dict[str, Table], values: dict[str, Trials]
) -> tuple[list[str], dict[str, dict], dict[str, list[dict[str, float]]]]:
    """Of every table its text, its caption with the names of its rows, and each row's figures."""
    texts: list[str] = []
    captions: dict[str, dict] = {}
    record: dict[str, list[dict[str, float]]] = {}
    for name, chosen in tables.items():
        rows = {
            row.name: values[results_of(row)] for row in chosen.rows if results_of(row) in values
        }
        if name == GRAPHS:
            rows[NEIGHBOURS] = values[NEIGHBOURS]
        texts.append(table.markdown(chosen.caption, rows, config.topk))
        captions[name] = {"caption": chosen.caption, "rows": list(rows)}
        record |= {
            row: [
                {"clip": clip, "seed": seed, **figures} for (clip, seed), figures in of_row.items()
            ]
            for row, of_row in rows.items()
        }
    return texts, captions, record


def what_next(workspace: Workspace, run: Path, test) -> str:
    """The last lines: a drawn picture tagged by the model, two of its true labels among the words,
    and the figures.
    """
    assert workspace.root is not None, "the demo draws its own raw input"
    there = np.flatnonzero(test.truth[0])[:2].tolist()
    absent = np.flatnonzero(~test.truth[0])[[0, -1]].tolist()
    image, words = (
        Path(workspace.root) / "images/test" / f"{test.ids[0]}.jpg",
        [test.world.categories[column].name for column in there + absent],
    )
    own = {"checkpoint": run / "model", "images": [image], "labels": words}
    return (
        "\nTag a picture with words of your choice (this model knows drawn shapes only, no"
        f" photographs):\n  {Command('predict', values=own)}\nDraw the paper's figures:\n "
        f" {Command('figures', work=workspace.work)}"
    )


def untrained(config, test, with_neighbours: bool) -> dict[str, Trials]:
    """The rows without training: the class prior once, CLIP for every CLIP seed."""
    workspace, topk = config.workspace, tuple(config.topk)
    training = measure.load_labels(workspace.shards(), "train")
    prior = measure.prior_scores(training, len(test.ids))
    values: dict[str, Trials] = {PRIOR: {(0, 0): measure.figures(prior, test, topk)}, CLIP: {}}
    if with_neighbours:
        values[NEIGHBOURS] = {}
    for clip in range(config.seeds):
        scores = clip_zero_shot(config, clip, test.images)
        values[CLIP][clip, 0] = measure.figures(scores, test, topk)
        if with_neighbours:
            values[NEIGHBOURS][clip, 0] = measure.figures(
                measure.neighbour_scores(test.world, scores, oracle_neighbours(config, clip)),
                test,
                topk,
            )
    return values


def oracle_neighbours(config, clip: int) -> Tensor:
    """The oracle graph's neighbour table [C, 4]."""
    folder = config.workspace.of_clip(clip) / "relations/llm"
    return load_relations(folder, load_vocabulary(config.workspace.shards()), 4)


def trained(folder: Path, test, topk: tuple[int, ...]) -> dict[str, float]:
    """A trained row's figures, kept beside its model so that they are computed once."""
    key, kept = f"{measure.identity(folder / 'model')} {topk} {len(test.ids)}", folder / FIGURES
    if is_marked(kept, key, Command("demo")):
        return read_json(kept, Command("demo"))["figures"]
    figures = measure.figures(measure.model_scores(folder / "model", test.images), test, topk)
    write_json(kept, {"key": key, "figures": figures})
    return figures
