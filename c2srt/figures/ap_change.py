"""Figure 6(b): what the ISR changes in each category's AP, from two evaluations of `c2srt
evaluate`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from c2srt.artefact import hash_of_record
from c2srt.errors import UserError
from c2srt.evaluation.results import PER_CATEGORY, RESULTS, read_results
from c2srt.figures.inputs import Inputs, need
from c2srt.files import sha256_of_file
from c2srt.hints import Command
from c2srt.opened_tables import read_csv

COLUMN = "gzsl_per_class"


@dataclass(frozen=True)
class ApChange:
    """n categories with an AP in both evaluations: names, seen bool [n], AP without and with ISR
    [n], fractions.
    """

    names: list[str]
    mids: list[str]
    seen: np.ndarray
    without: np.ndarray
    with_isr: np.ndarray

    @property
    def change(self) -> np.ndarray:
        return self.with_isr - self.without

    def record(self) -> dict:
        return {
            "column": COLUMN,
            "categories": [
                {
                    "mid": mid,
                    "name": name,
                    "seen": seen,
                    "without": without,
                    "with": with_isr,
                    "change": with_isr - without,
                }
                for mid, name, seen, without, with_isr in zip(
                    self.mids,
                    self.names,
                    self.seen.tolist(),
                    self.without.tolist(),
                    self.with_isr.tolist(),
                    strict=True,
                )
            ],
        }


def folders(inputs: Inputs) -> dict[bool, Path]:
    """The evaluation without (False) and with ISR: `with_isr`, else the one beside our model, else
    the last one.
    """
    config = inputs.config
    beside = inputs.model_folder.parent / "evaluation"
    last = beside if beside.exists() else inputs.work / "evaluation"
    return {
        False: Path(config.without_isr),
        True: Path(config.with_isr) if config.with_isr else last,
    }


def evaluation(folder: Path, model: Path | None = None) -> Command:
    """The command that makes an evaluation, of the model beside it unless another is given."""
    return Command("evaluate", checkpoint=model or folder.parent / "model", out=folder)


def made_from(inputs: Inputs) -> dict:
    """Raises Missing if an evaluation is not there."""
    found = {}
    for isr, folder in folders(inputs).items():
        make: Command | str = evaluation(
            folder, inputs.model_folder if isr else folder.parent / "model"
        )
        if not isr and not (folder.parent / "model").exists():
            make = f"{Command('train', 'model.isr=false', out=folder.parent)} && {make}"
        need(folder / RESULTS, make)
        need(folder / PER_CATEGORY, make)
        found["with_isr" if isr else "without_isr"] = [
            hash_of_record(folder / RESULTS),
            sha256_of_file(folder / PER_CATEGORY),
        ]
    return found


def numbers(inputs: Inputs) -> ApChange:
    """Raises UserError if the two differ in more than the ISR, or one of them is not what its key
    says.
    """
    where = folders(inputs)
    results = {isr: read_results(folder, evaluation(folder)) for isr, folder in where.items()}
    for isr, key in ((True, "with_isr"), (False, "without_isr")):
        if (results[isr].get("isr") is not None) != isr:
            raise UserError(
                f"{key}={where[isr]} is an evaluation with{'out' if isr else ''} ISR: name"
                " another one"
            )
    for what in ("vocabulary", "images"):
        one, other = (results[isr].get(what) for isr in (True, False))
        if one != other:
            raise UserError(
                f"{where[True]} and {where[False]} differ in {what} ({one}, {other}): evaluate both"
                f" on the same split, the second with `{evaluation(where[False])}`"
            )
    return joined(*(read_table(where[isr] / PER_CATEGORY) for isr in (False, True)))


def read_table(path: Path) -> pl.DataFrame:
    """per_category.csv. Raises UserError if it has not the columns."""
    return read_csv(
        path,
        evaluation(path.parent),
        {"mid": pl.String, "name": pl.String, "seen": pl.Boolean, COLUMN: pl.Float64},
    )


def joined(without: pl.DataFrame, with_isr: pl.DataFrame) -> ApChange:
    """Category by category, by MID. Raises UserError if no category has an AP in both."""
    both = without.join(with_isr, on="mid", suffix="_isr", maintain_order="left").drop_nulls(
        [COLUMN, f"{COLUMN}_isr"]
    )
    if not len(both):
        raise UserError("no category has an AP in both evaluations: nothing can be compared")
    return ApChange(
        both["name"].to_list(),
        both["mid"].to_list(),
        both["seen"].to_numpy().astype(bool),
        both[COLUMN].to_numpy(),
        both[f"{COLUMN}_isr"].to_numpy(),
    )
