"""results.json as a table in percent, with a sentence for whatever a reader could misunderstand."""

from pathlib import Path

import polars as pl

from c2srt.evaluation.config import ANNOTATED, PROTOCOLS
from c2srt.evaluation.known import as_recorded
from c2srt.evaluation.metric_state import GZSL, LABEL_SETS
from c2srt.evaluation.results import PER_CATEGORY
from c2srt.hints import Command
from c2srt.opened_tables import csv_header, read_csv
from c2srt.shown import printable, shown

EXAMPLES = 3
ENOUGH = 5
"""Positives of a category whose AP is shown: with fewer it is 1 or next to nothing by chance."""


def describe(results: dict) -> str:
    """The table and its notes. Intervals stand in brackets: of an F1 row they are F1's."""
    rows = [["percent", "ZSL", "GZSL"]]
    rows += [
        [
            f"mAP {name}",
            *(
                percent(results[s]["mAP"][name]) + interval(results[s], "mAP", name)
                for s in LABEL_SETS
            ),
        ]
        for name in PROTOCOLS
        if name in results[GZSL]["mAP"]
    ]
    for key in sorted((key for key in results[GZSL] if key.startswith("F1@")), key=k_of):
        cells = [
            precision_recall(results[s][key]) + interval(results[s], key, "F1") for s in LABEL_SETS
        ]
        rows.append([f"{key}  (P / R / F1)", *cells])
    rows.append(["images with a positive", *(f"{results[s]['images']:,}" for s in LABEL_SETS)])
    rows.append(
        [
            "categories with a positive",
            *(f"{results[s]['categories']['positive']:,}" for s in LABEL_SETS),
        ]
    )
    rows.append(
        [
            "positives per such image",
            *(number(results[s]["positives_per_image"]) for s in LABEL_SETS),
        ]
    )
    if results.get("published"):
        rows.append(published_row(results["published"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2])])
        for row in rows
    ]
    return "\n".join(lines + notes(results))


def best_and_worst(folder: Path, results: dict) -> str:
    """The categories of the greatest and the least AP in `folder`'s per_category.csv, in the first
    protocol that is there; "" if fewer than twice EXAMPLES have ENOUGH positives, or no names.
    """
    path, again = folder / PER_CATEGORY, Command("evaluate")
    protocol = next((name for name in PROTOCOLS if name in results[GZSL]["mAP"]), None)
    if protocol is None or "name" not in csv_header(path, again):
        return ""
    column = f"{GZSL}_{protocol}"
    columns = {"name": pl.String, "positives": pl.Int64, column: pl.Float64}
    table = read_csv(path, again, columns).filter(pl.col("positives") >= ENOUGH)
    table = table.drop_nulls(column).sort(column, "positives", descending=True, maintain_order=True)
    if len(table) < 2 * EXAMPLES:
        return ""
    return "\n".join(
        f"{title} AP ({protocol}; positives): "
        + ", ".join(
            f"{shown(row['name'])} {percent(row[column])} ({row['positives']:,})"
            for row in rows.to_dicts()
        )
        for title, rows in (
            ("best", table.head(EXAMPLES)),
            ("worst", table.tail(EXAMPLES).reverse()),
        )
    )


def k_of(key: str) -> tuple[bool, int]:
    """The order of the F1s: by K, those of annotated columns behind the others."""
    name, _, annotated = key.partition(" ")
    return bool(annotated), int(name.removeprefix("F1@"))


def published_row(published: dict) -> list[str]:
    what = "published, over all images" if published["over"] == "all" else "published, such images"
    return [what, *(f"{published[label_set]:g}" for label_set in LABEL_SETS)]


def notes(results: dict) -> list[str]:
    """Sentences on intervals, the ISR, label sets that cannot be measured, what looks surer than it
    is, labels that are not the published ones, and names.
    """
    isr, bootstrap, found = results["isr"], results.get("bootstrap"), []
    if bootstrap:
        found.append(
            f"in brackets: 95 % interval over the choice of test images, {bootstrap['draws']} draws"
        )
    if isr:
        found.append(
            f"ISR: {isr['mean_patches']:.2f} patches on average, {percent(isr['capped_share'])} %"
            " at the cap"
        )
    if any(key.endswith(ANNOTATED) for key in results[GZSL]):
        counts = [
            "{annotated:,} of {all:,}".format(**results[label_set]["categories"])
            for label_set in LABEL_SETS
        ]
        found.append(
            "annotated: F1@K as QKS has it, which ranks columns with a verified label only,"
            f" {' and '.join(counts)}"
        )
    for label_set in LABEL_SETS:
        if not results[label_set]["images"]:
            count = results[label_set]["categories"]["all"]
            found.append(
                f"note: {label_set.upper()} cannot be measured: its {count:,} categories have no"
                " positive label here"
            )
    found += [f"warning: {printable(sentence)}" for sentence in results.get("warnings", ())]
    return found + other_labels(results) + given_away(results)


def other_labels(results: dict) -> list[str]:
    """Where the positives per image are not the published constant."""
    published = results.get("published") or {}
    if not (known := as_recorded(*map(published.get, LABEL_SETS))):
        return []
    over, found = "all images" if known.every_image else "images with a positive", []
    for label_set in LABEL_SETS:
        values = results[label_set]["all_images"] if known.every_image else results[label_set]
        value = values["positives_per_image"]
        if value is not None and not known.agrees(label_set, value):
            found.append(
                f"note: {label_set.upper()} has {value:.3f} positives per image over {over}, the"
                f" published tables {published[label_set]:g}: other labels or images, so P, R and"
                " F1 cannot be compared with them"
            )
    return found


def given_away(results: dict) -> list[str]:
    found = twins(results)
    return [f"note: {found}"] if found else []


def twins(results: dict) -> str:
    """How many unseen names equal a seen one, and how many of these hear it; "" if none does."""
    if not (names := results.get("given_away")):
        return ""
    unseen = len({name.split("/")[0] for name in names})
    examples = ", ".join(map(shown, names[:EXAMPLES])) + ", …" * (len(names) > EXAMPLES)
    heard = results.get("twins_heard")
    graph = f"; {heard:,} of these hear that very category as a neighbour" if heard else ""
    return (
        f"{unseen:,} of the {results['zsl']['categories']['all']:,} unseen names equal a seen one"
        f" but for a plural ({examples}): the training saw these words, say so beside ZSL{graph}"
    )


def interval(values: dict, outer: str, inner: str) -> str:
    """ " [low, high]" in percent; nothing where there is none."""
    ends = values.get("ci95", {}).get(outer, {}).get(inner)
    return f" [{percent(ends[0])}, {percent(ends[1])}]" if ends else ""


def precision_recall(values: dict) -> str:
    return " / ".join(percent(values[name]) for name in ("P", "R", "F1"))


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
