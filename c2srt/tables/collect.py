"""Results on disk → figures of every row and trial, all under one protocol and vocabulary."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.evaluation.results import PER_CATEGORY, RESULTS, flat, read_results
from c2srt.hints import Command
from c2srt.opened import without
from c2srt.opened_tables import csv_header, read_csv
from c2srt.shown import shown
from c2srt.tables.commands import Workspace
from c2srt.tables.rows import Table, Trial

Values = dict[str, float]
"""Figures by name ("zsl/mAP/per_class"), as fractions."""
Trials = dict[Trial, Values]
SAME = ("vocabulary", "shards", "split", "topk", "protocols", "versions")
"""What all results of one table must have in common; `versions` are those of mended protocols."""
GROUP = "group"


@dataclass
class Collected:
    """`rows`: table → row → trial → figures; `missing`: the results that are not there;
    `made_from`: what all have in common.
    """

    rows: dict[str, dict[str, Trials]]
    missing: list[Path] = field(default_factory=list)
    made_from: dict = field(default_factory=dict)
    twins: dict = field(default_factory=dict)
    """Of the results whose unseen categories hear most seen ones of their own name, what
    `describe.twins` says it of.
    """


def collect(
    workspace: Workspace, tables: dict[str, Table], every: list[Trial], groups: Path | None
) -> Collected:
    """Reads every row's results. Raises UserError if two of them were not made the same way."""
    collected, members = Collected({}), read_groups(groups) if groups else {}
    first: Path | None = None
    for name, table in tables.items():
        rows = collected.rows[name] = {}
        for row in table.rows:
            found: dict[Path, tuple[Trial, Values]] = {}
            for trial in every:
                folder = workspace.evaluation(row, trial)
                if not (folder / RESULTS).is_file():
                    collected.missing.append(folder)
                elif folder not in found:
                    results = read_results(folder)
                    first = first or folder
                    check_same(collected, results, folder, first)
                    if not collected.twins or heard(results) > heard(collected.twins):
                        collected.twins = results
                    found[folder] = (
                        trial if row.run else (trial[0], 0),
                        flat(results) | of_groups(folder, members),
                    )
            rows[row.name] = dict(found.values())
    collected.missing = sorted(set(collected.missing))
    return collected


def heard(results: dict) -> int:
    return results.get("twins_heard") or 0


def check_same(collected: Collected, results: dict, folder: Path, first: Path) -> None:
    """Raises UserError if results differ in what a comparison needs to be the same."""
    made_from = {name: results.get("made_from", {}).get(name) for name in SAME}
    if not collected.made_from:
        collected.made_from = made_from | {"data": results.get("data")}
    for name in SAME:
        if made_from[name] != collected.made_from[name]:
            what = f"{name} of protocols" if name == "versions" else name
            again = (
                f"`{Command('tables', train=None)}` evaluates the older ones again"
                if name in ("versions", "protocols")
                else "evaluate one of them again"
            )
            raise UserError(
                f"{folder / RESULTS} has another {what} ({shown(made_from[name])}) than"
                f" {first / RESULTS} ({shown(collected.made_from[name])}): results are compared"
                f" under one only; {again}"
            )


def read_groups(path: Path) -> dict[str, list[str]]:
    """Group → MIDs, from a CSV with the columns mid and group. Raises UserError if it has no such
    columns.
    """
    if not path.exists():
        raise UserError(f"groups={path} does not exist")
    try:
        table = read_csv(path, "write both into each line", {"mid": pl.String, GROUP: pl.String})
    except UserError as error:
        raise UserError(
            f"groups={path} is not a CSV with the columns mid and group ({without(path, error)})"
        ) from error
    groups: dict[str, list[str]] = {}
    for mid, group in table.select("mid", GROUP).iter_rows():
        groups.setdefault(str(group), []).append(mid)
    return groups


def of_groups(folder: Path, groups: dict[str, list[str]]) -> Values:
    """ZSL mAP over the unseen categories of each group, under each protocol that the evaluation
    measured.
    """
    if not groups:
        return {}
    path, again = folder / PER_CATEGORY, Command("evaluate")
    measured = [column for column in csv_header(path, again) if column.startswith("zsl_")]
    table = read_csv(
        path, again, {"mid": pl.String, "seen": pl.Boolean, **dict.fromkeys(measured, pl.Float64)}
    )
    values = {}
    for column in measured:
        ap = dict(table.filter(~pl.col("seen")).select("mid", column).drop_nulls().iter_rows())
        for group, mids in groups.items():
            if inside := [ap[mid] for mid in mids if mid in ap]:
                values[f"{GROUP}/{group}/{column.removeprefix('zsl_')}"] = float(np.mean(inside))
    return values
