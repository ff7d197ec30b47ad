"""results.json, the per-category table and what is printed: from a `MetricState` of all test
images.

results.json (fractions 0–1; null where nothing can be measured):

    {"checkpoint": str | null, "vocabulary": hash | null, "images": N,
     "zsl": {"mAP": {"per_class", "lesa", "biam_legacy", "qks", "dense"},
                                                             those protocols of protocols.py that
                                                             were asked for
             "F1@10": {"P", "R", "F1"}, …,                   over the images with a positive in the
                                                             label set
             "F1@10 annotated": …,                           the same over its annotated columns
                                                             only: absent without qks
             "positives_per_image",                          of the same images; equals K·P@K / R@K
             "images",                                       how many those are
             "categories": {"all", "verified", "positive",   with any label ±1, with a label +1
                            "annotated"},                    with any on those images
             "all_images": {"F1@10": …, "positives_per_image"},      the same over every image
                                                                     (NUS-WIDE's tables)
             "ci95": {"mAP": {"per_class": [low, high], "lesa", "qks"},  absent without draws
                      "F1@10": {"P", "R", "F1"}, …}},
     "gzsl": {…}, "isr": {"mean_patches", "capped_share"} | null, "made_from": {…},
     "bootstrap": {"draws", "seed"} | null,
     "published": {"zsl", "gzsl": positives per image, "over": "all" | "positive"} | null,
     "given_away": ["unseen/seen name", …],       the last two from a vocabulary (known.py)
     "twins_heard": n | null,                     how many of these hear that very seen category in
                                                  the model's graph; null without a graph
     "data": hash | null,                         the version of the data set (c2srt/shards.py):
                                                  none of three arrays, and in older results
     "warnings": ["…", …],                        sentences: figures that look surer than they are
     "versions": {"c2srt", "python", "torch", …}, of what made them (versions.py)
     "files": {"per_category.csv": SHA-256}}      of the table that belongs to these results
"""

import json
import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from annotated_types import Len

from c2srt.artefact import vouch, withdraw
from c2srt.bounds import Count, Within
from c2srt.errors import UserError
from c2srt.evaluation.bootstrap import intervals
from c2srt.evaluation.config import ANNOTATED, LESA, PER_CLASS, QKS
from c2srt.evaluation.dense import Thresholds
from c2srt.evaluation.known import Published, given_away, published
from c2srt.evaluation.metric_state import GZSL, LABEL_SETS, ZSL, MetricState, columns_of
from c2srt.evaluation.protocols import average_precisions, f1_at_k, sorted_keys
from c2srt.files import whole_file
from c2srt.hints import Command
from c2srt.opened import misfit, read_json, wrong
from c2srt.shown import csv_cell, shown
from c2srt.vocabulary import Vocabulary

RESULTS, PER_CATEGORY = "results.json", "per_category.csv"
Figure = Annotated[float, Within(ge=-1e15, le=1e15)] | None
Score = dict[Literal["P", "R", "F1"], Figure]
F1 = re.compile(f"F1@[0-9]{{1,9}}({ANNOTATED})?")
UNMEASURED: dict[str, float | None] = {"P": None, "R": None, "F1": None}
FEW = 30
"""Categories, or images, below which a mean is called an anecdote. APs of categories differ by
about 0.3 (one standard deviation), so a mean over 30 of them is off by 0.3 / √30, 5 points: three
times what the paper's C²SRT and MKT lie apart on NUS-WIDE. Its 81 unseen categories are above the
bound.
"""


@dataclass(frozen=True)
class Task:
    """What is measured: seen [C] bool, the K of F1@K, the protocols of mAP; the bootstrap's draws
    (0: no intervals) and seed.
    """

    seen: np.ndarray
    topk: tuple[int, ...]
    protocols: tuple[str, ...]
    draws: int = 0
    seed: int = 0


@dataclass(frozen=True)
class CategoriesFile:
    """How many categories a label set has, as in results.json."""

    all: Count
    verified: Count
    positive: Count
    annotated: Count = 0


@dataclass(frozen=True)
class LabelSetFile:
    """What a label set of results.json must have, besides its F1@K."""

    mAP: dict[str, Figure]
    images: Count
    categories: CategoriesFile
    positives_per_image: Figure
    all_images: dict[str, Figure | Score]
    ci95: dict[str, dict[str, Annotated[list[Figure], Len(2, 2)]]] | None = None


@dataclass(frozen=True)
class PublishedFile:
    """The published positives per image, as in results.json."""

    zsl: float
    gzsl: float
    over: Literal["all", "positive"]


@dataclass(frozen=True)
class IsrFile:
    """The ISR's statistics, as in results.json."""

    mean_patches: float
    capped_share: float


@dataclass(frozen=True)
class BootstrapFile:
    """The bootstrap's settings, as in results.json."""

    draws: Count
    seed: int


@dataclass(frozen=True)
class ResultsFile:
    """What results.json must have."""

    images: Count
    zsl: LabelSetFile
    gzsl: LabelSetFile
    isr: IsrFile | None
    bootstrap: BootstrapFile | None = None
    published: PublishedFile | None = None
    given_away: list[str] = field(default_factory=list)
    twins_heard: Count | None = None
    data: str | None = None
    warnings: list[str] = field(default_factory=list)
    made_from: dict = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def read_results(folder: Path, made_by: Command | None = None) -> dict:
    """`folder`'s results.json. Raises UserError if it is absent or damaged."""
    path, again = folder / RESULTS, made_by or Command("evaluate")
    results = read_json(path, again, ResultsFile)
    known = {one.name for one in fields(LabelSetFile)}
    keys = [
        {key for key in results[label_set] if key not in known} | set(results[label_set]["mAP"])
        for label_set in LABEL_SETS
    ]
    for label_set in LABEL_SETS:
        if "positives_per_image" not in results[label_set]["all_images"]:
            raise wrong(
                path,
                f"is not what it should be ({label_set}.all_images has no positives_per_image)",
                again,
            )
        for key, value in results[label_set].items():
            if key not in known and (
                not F1.fullmatch(key) or misfit(json.dumps(value), Score) or len(value) != 3
            ):
                raise wrong(path, f"is not what it should be ({label_set}.{shown(key, 30)})", again)
    if keys[0] != keys[1]:
        raise wrong(path, "has other figures for ZSL than for GZSL", again)
    return results


def evaluate_state(
    state: MetricState, task: Task, thresholds: Thresholds | None, at_least: np.ndarray | None
) -> tuple[dict, pl.DataFrame]:
    """The "images", "zsl", "gzsl", "isr", "bootstrap", "warnings" of results.json, and the
    per-category table [C rows].

    `thresholds` and `at_least` only for the dense protocol. Raises UserError if no image has a
    positive label.
    """
    if not state.positive.any():
        raise UserError(
            f"none of the {state.images:,} images has a positive label: nothing can be measured"
        )
    keys = sorted_keys(state)
    values: dict[str, Any] = {"images": state.images}
    columns = {
        "seen": task.seen,
        "positives": counts(state, state.positive, task.seen),
        "negatives": counts(state, ~state.positive, task.seen),
    }
    for label_set in LABEL_SETS:
        ap = average_precisions(
            state, task.seen, label_set, task.protocols, keys, thresholds, at_least
        )
        values[label_set] = summary(state, task, label_set, ap)
        columns |= {f"{label_set}_{protocol}": array for protocol, array in ap.items()}
    if task.draws:
        for label_set, found in intervals(
            state, task.seen, task.topk, task.protocols, values, task.draws, task.seed
        ).items():
            values[label_set]["ci95"] = found
    bootstrap = {"draws": task.draws, "seed": task.seed} if task.draws else None
    said = warnings_of(values, columns, task)
    return values | {
        "isr": isr_statistics(state),
        "bootstrap": bootstrap,
        "warnings": said,
    }, pl.DataFrame(columns)


def warnings_of(values: dict, columns: dict[str, np.ndarray], task: Task) -> list[str]:
    """A sentence for each label set that rests on too little, or on categories that every model
    gets right.
    """
    found = []
    for label_set in LABEL_SETS:
        name, images = label_set.upper(), values[label_set]["images"]
        categories = values[label_set]["categories"]["positive"]
        if images and min(categories, images) < FEW:
            found.append(
                f"{name} is measured over {counted(categories, 'category', 'categories')} and"
                f" {counted(images, 'image')} with a positive: under {FEW} of either it is an"
                " anecdote, and an interval over the images, however narrow, says nothing of other"
                " categories"
            )
        alone = (
            columns_of(label_set, task.seen)
            & (columns["positives"] > 0)
            & (columns["negatives"] == 0)
        )
        if alone.any() and set(task.protocols) & {PER_CLASS, LESA, QKS}:
            found.append(
                f"{int(alone.sum()):,} of the {counted(categories, 'category', 'categories')} of"
                f" {name} with a positive have no verified negative: their AP is 1 whatever the"
                " model"
            )
    return found


def counted(number: int, one: str, more: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else more or f'{one}s'}"


def counts(state: MetricState, chosen: np.ndarray | slice, seen: np.ndarray) -> np.ndarray:
    return np.bincount(state.category[chosen], minlength=len(seen))


def summary(state: MetricState, task: Task, label_set: str, ap: dict[str, np.ndarray]) -> dict:
    """The results of one label set; nulls when it has no category or no positive."""
    columns = columns_of(label_set, task.seen)
    positive, verified = (
        columns & (counts(state, chosen, task.seen) > 0) for chosen in (state.positive, slice(None))
    )
    with_positive = state.positives[:, LABEL_SETS.index(label_set)] > 0
    images = int(with_positive.sum())
    annotated = columns & (counts(state, np.repeat(with_positive, state.verified), task.seen) > 0)
    of_positive, of_all = (
        f1_summary(state, task, label_set, every_image) for every_image in (False, True)
    )
    means = {
        protocol: float(np.nanmean(array)) if images and not np.isnan(array).all() else None
        for protocol, array in ap.items()
    }
    categories = {
        "all": int(columns.sum()),
        "verified": int(verified.sum()),
        "positive": int(positive.sum()),
        "annotated": int(annotated.sum()),
    }
    return {
        "mAP": means,
        **of_positive,
        **(f1_annotated(state, task, label_set) if QKS in task.protocols else {}),
        "images": images,
        "categories": categories,
        "all_images": of_all,
    }


def f1_summary(state: MetricState, task: Task, label_set: str, every_image: bool) -> dict:
    """{"F1@K": …, "positives_per_image"} over the images with a positive, or over all."""
    positives = state.positives[:, LABEL_SETS.index(label_set)]
    if not positives.any():
        return {f"F1@{k}": UNMEASURED for k in task.topk} | {"positives_per_image": None}
    images = state.images if every_image else int((positives > 0).sum())
    return f1_at_k(state, label_set, task.topk, every_image) | {
        "positives_per_image": int(positives.sum()) / images
    }


def f1_annotated(state: MetricState, task: Task, label_set: str) -> dict:
    """{"F1@K annotated": …} over the images with a positive, nulls where K columns are not
    annotated.
    """
    none = not state.positives[:, LABEL_SETS.index(label_set)].any()
    found = {} if none else f1_at_k(state, label_set, task.topk, annotated=True)
    names = [f"F1@{k}" for k in task.topk]
    return {
        f"{name}{ANNOTATED}": found[name]
        if name in found and not math.isnan(found[name]["P"])
        else UNMEASURED
        for name in names
    }


def isr_statistics(state: MetricState) -> dict[str, float] | None:
    """Patches that the ISR selects per image and category, and the share of pairs at its cap; None
    without ISR.
    """
    patches, capped, pairs = state.isr.sum(0).tolist()
    return {"mean_patches": patches / pairs, "capped_share": capped / pairs} if pairs else None


def about(vocabulary: Vocabulary, split: str) -> dict:
    """The "published" and "given_away" of results.json: what known.py knows of a vocabulary, the
    first of its test split only.
    """
    known: Published | None = published(vocabulary) if split == "test" else None
    constants = (
        {ZSL: known.zsl, GZSL: known.gzsl, "over": "all" if known.every_image else "positive"}
        if known
        else None
    )
    return {
        "published": constants,
        "given_away": [
            f"{vocabulary.names[unseen]}/{vocabulary.names[seen]}"
            for unseen, seen in given_away(vocabulary)
        ],
    }


def write_results(out: Path, results: dict, table: pl.DataFrame) -> None:
    """Writes per_category.csv, then results.json, which vouches for it; the caller holds the
    folder.
    """
    withdraw(out / RESULTS)
    write_table(out / PER_CATEGORY, table)
    vouch(out / RESULTS, results, [PER_CATEGORY])


def write_table(path: Path, table: pl.DataFrame) -> None:
    """As a CSV, whole or not at all, NaN as an empty cell, no text a formula."""
    texts = [name for name, kind in table.schema.items() if kind == pl.String]
    table = table.with_columns(pl.col(texts).map_elements(csv_cell, pl.String)) if texts else table
    with whole_file(path) as temporary:
        table.fill_nan(None).write_csv(temporary)


def flat(results: dict) -> dict[str, float]:
    """The label sets' numbers as {"zsl/mAP/per_class": …} without nulls and intervals: what a
    tracker records.
    """
    found, todo = {}, [(label_set, results[label_set]) for label_set in LABEL_SETS]
    for name, value in todo:
        if isinstance(value, dict):
            todo += [(f"{name}/{key}", inner) for key, inner in value.items() if key != "ci95"]
        elif value is not None:
            found[name] = float(value)
    return found
