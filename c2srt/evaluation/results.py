"""results.json, the per-category table and what is printed: from a `Part` of all test images.

results.json (fractions 0–1; null where nothing can be measured):

    {"checkpoint": str | null, "vocabulary": hash | null, "images": N,
     "zsl": {"mAP": {"per_class", "lesa", "biam_legacy", "dense"},       the protocols of protocols.py that were asked for
             "F1@10": {"P", "R", "F1"}, …,                               over the images with a positive in the label set
             "positives_per_image",                                       of the same images; equals K·P@K / R@K
             "images",                                                    how many those are
             "categories": {"all", "verified", "positive"},               with any label ±1, with a label +1
             "all_images": {"F1@10": …, "positives_per_image"}},          the same over every image (NUS-WIDE's tables)
     "gzsl": {…}, "isr": {"mean_patches", "capped_share"} | null, "made_from": {…}}
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.evaluation.dense import Thresholds
from c2srt.evaluation.part import GZSL, LABEL_SETS, Part, columns_of
from c2srt.evaluation.protocols import average_precisions, f1_at_k, sorted_keys
from c2srt.files import whole_file, write_json

RESULTS, PER_CATEGORY = "results.json", "per_category.csv"


@dataclass(frozen=True)
class Task:
    """What is measured: seen [C] bool, the K of F1@K, the protocols of mAP."""

    seen: np.ndarray
    topk: tuple[int, ...]
    protocols: tuple[str, ...]


def evaluate_part(part: Part, task: Task, thresholds: Thresholds | None,
                  at_least: np.ndarray | None) -> tuple[dict, pl.DataFrame]:
    """The "images", "zsl", "gzsl" and "isr" of results.json, and the per-category table [C rows].

    `thresholds` and `at_least` only for the dense protocol. Raises UserError if no image has a positive label.
    """
    if not part.positive.any():
        raise UserError(f"none of the {part.images:,} images has a positive label: nothing can be measured")
    keys, values = sorted_keys(part), {"images": part.images}
    columns = {"seen": task.seen, "positives": counts(part, part.positive, task.seen),
               "negatives": counts(part, ~part.positive, task.seen)}
    for label_set in LABEL_SETS:
        ap = average_precisions(part, task.seen, label_set, task.protocols, keys, thresholds, at_least)
        values[label_set] = summary(part, task, label_set, ap)
        columns |= {f"{label_set}_{protocol}": array for protocol, array in ap.items()}
    return values | {"isr": isr_statistics(part)}, pl.DataFrame(columns)


def counts(part: Part, chosen: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return np.bincount(part.category[chosen], minlength=len(seen))


def summary(part: Part, task: Task, label_set: str, ap: dict[str, np.ndarray]) -> dict:
    """The results of one label set; nulls when it has no category or no positive."""
    columns = columns_of(label_set, task.seen)
    positive, verified = (columns & (counts(part, chosen, task.seen) > 0) for chosen in (part.positive, slice(None)))
    images = int((part.positives[:, LABEL_SETS.index(label_set)] > 0).sum())
    of_positive, of_all = (f1_summary(part, task, label_set, every_image) for every_image in (False, True))
    means = {protocol: float(np.nanmean(array)) if images and not np.isnan(array).all() else None
             for protocol, array in ap.items()}
    categories = {"all": int(columns.sum()), "verified": int(verified.sum()), "positive": int(positive.sum())}
    return {"mAP": means, **of_positive, "images": images, "categories": categories, "all_images": of_all}


def f1_summary(part: Part, task: Task, label_set: str, every_image: bool) -> dict:
    """{"F1@K": …, "positives_per_image"} over the images with a positive, or over all."""
    positives = part.positives[:, LABEL_SETS.index(label_set)]
    if not positives.any():
        return {f"F1@{k}": {"P": None, "R": None, "F1": None} for k in task.topk} | {"positives_per_image": None}
    images = part.images if every_image else int((positives > 0).sum())
    return f1_at_k(part, label_set, task.topk, every_image) | {"positives_per_image": int(positives.sum()) / images}


def isr_statistics(part: Part) -> dict[str, float] | None:
    """Patches that the ISR selects per image and category, and the share of pairs at its cap; None without ISR."""
    patches, capped, pairs = part.isr.sum(0).tolist()
    return {"mean_patches": patches / pairs, "capped_share": capped / pairs} if pairs else None


def write_results(out: Path, results: dict, table: pl.DataFrame) -> None:
    """Writes per_category.csv, then results.json, each whole; the presence of results.json means that all is done."""
    with whole_file(out / PER_CATEGORY) as temporary:
        table.fill_nan(None).write_csv(temporary)
    write_json(out / RESULTS, results)


def describe(results: dict) -> str:
    """The results as a table in percent, with a sentence for whatever a reader could misunderstand."""
    rows = [["percent", "ZSL", "GZSL"]]
    rows += [[f"mAP {name}", *(percent(results[s]["mAP"][name]) for s in LABEL_SETS)] for name in results[GZSL]["mAP"]]
    for key in (key for key in results[GZSL] if key.startswith("F1@")):
        rows.append([f"{key}  (P / R / F1)", *(precision_recall(results[s][key]) for s in LABEL_SETS)])
    rows.append(["images with a positive", *(f"{results[s]['images']:,}" for s in LABEL_SETS)])
    rows.append(["categories with a positive", *(f"{results[s]['categories']['positive']:,}" for s in LABEL_SETS)])
    rows.append(["positives per such image", *(number(results[s]["positives_per_image"]) for s in LABEL_SETS)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2])]) for row in rows]
    return "\n".join(lines + notes(results))


def notes(results: dict) -> list[str]:
    """Sentences on the ISR and on label sets that cannot be measured."""
    isr = results["isr"]
    found = [f"ISR: {isr['mean_patches']:.2f} patches on average, {percent(isr['capped_share'])} % at the cap"] if isr else []
    for label_set in LABEL_SETS:
        if not results[label_set]["images"]:
            count = results[label_set]["categories"]["all"]
            found.append(f"note: {label_set.upper()} cannot be measured: its {count:,} categories have no positive label here")
    return found


def flat(results: dict) -> dict[str, float]:
    """The label sets' numbers as {"zsl/mAP/per_class": …} without nulls: what a tracker records."""
    found, todo = {}, [(label_set, results[label_set]) for label_set in LABEL_SETS]
    for name, value in todo:
        if isinstance(value, dict):
            todo += [(f"{name}/{key}", inner) for key, inner in value.items()]
        elif value is not None:
            found[name] = float(value)
    return found


def precision_recall(values: dict) -> str:
    return " / ".join(percent(values[name]) for name in ("P", "R", "F1"))


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
