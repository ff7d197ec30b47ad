"""Figures 4, 5 and 9: mAP and F1@K over K, α and λ, from the sweeps that `c2srt tables` writes.

<tables_folder>/<name>.json   {"table", "caption", "axis", "rows": [{"name", "x",
                              "trials": [{"clip", "seed", "values": {"zsl/mAP/per_class": fraction,
                              "gzsl/F1@10/F1": …}}]}]}
"""

import re
from dataclasses import dataclass
from pathlib import Path

from c2srt.artefact import hash_of_record
from c2srt.evaluation.metric_state import LABEL_SETS
from c2srt.figures.inputs import Inputs, Missing, need
from c2srt.hints import Command
from c2srt.opened import read_json, wrong
from c2srt.shown import shown

AXES = {
    "neighbours": "K, related seen categories",
    "threshold": "α, threshold of the ISR",
    "distillation": "λ, weight of distillation",
}
MAP = "mAP/per_class"


@dataclass(frozen=True)
class Curves:
    """`values[label set][metric][i]` are the trials' fractions at x[i], in ascending order of x;
    metrics: mAP, F1@K …
    """

    name: str
    axis: str
    x: list[float]
    values: dict[str, dict[str, list[list[float]]]]

    def record(self) -> dict:
        return {"axis": self.axis, "x": self.x, "values": self.values}


def path_of(inputs: Inputs, name: str) -> Path:
    return Path(inputs.config.tables_folder) / f"{name}.json"


def made_from(inputs: Inputs, name: str) -> dict:
    """Raises Missing without the table, or while it holds too few values of x, as `tables
    train=false` leaves it.
    """
    table = hash_of_record(need(path_of(inputs, name), made_by(inputs, name)))
    numbers(inputs, name)
    return {"table": table}


def made_by(inputs: Inputs, name: str) -> Command:
    """The command that makes the table."""
    folder = Path(inputs.config.tables_folder)
    return Command(
        "tables", tables=[name], values={} if folder == inputs.work / "tables" else {"out": folder}
    )


def numbers(inputs: Inputs, name: str) -> Curves:
    """Raises UserError if the file is no such table, Missing if it has fewer than two values of
    x.
    """
    path = path_of(inputs, name)
    content = read_json(path, made_by(inputs, name))
    try:
        rows = sorted(
            (row for row in content["rows"] if row.get("x") is not None and row["trials"]),
            key=lambda row: row["x"],
        )
        trials = [[trial["values"] for trial in row["trials"]] for row in rows]
        x = [float(row["x"]) for row in rows]
        if len(x) < 2:
            raise Missing(
                f"{path} holds {len(x)} values of x: a curve needs two, run"
                f" `{made_by(inputs, name)}` again"
            )
        values = {
            label_set: {
                metric.split("/")[0]: [
                    [each[f"{label_set}/{metric}"] for each in some] for some in trials
                ]
                for metric in metrics_of(trials[0][0], label_set)
            }
            for label_set in LABEL_SETS
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise wrong(
            path, f"is not a table ({type(error).__name__}: {shown(error)})", made_by(inputs, name)
        ) from error
    return Curves(name, AXES[name], x, values)


def metrics_of(values: dict[str, float], label_set: str) -> list[str]:
    """mAP/per_class, then F1@K/F1 with ascending K, as far as they are there."""
    found = [match for key in values if (match := re.fullmatch(rf"{label_set}/(F1@(\d+)/F1)", key))]
    f1 = [match[1] for match in sorted(found, key=lambda match: int(match[2]))]
    return [MAP] * (f"{label_set}/{MAP}" in values) + f1
