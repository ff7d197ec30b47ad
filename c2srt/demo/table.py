"""The demo's tables as Markdown: rows by name, figures in percent, mean and spread over trials."""

from c2srt.tables.collect import Trials
from c2srt.tables.render import MARKDOWN, ORACLE_NOTE, cell, spread_note


def columns(topk: list[int]) -> list[str]:
    """The figures that are printed, in order (c2srt/demo/measure.py names them)."""
    f1 = [f"{label_set} F1@{k}" for label_set in ("ZSL", "GZSL") for k in topk]
    return [
        "ZSL mAP",
        "words mAP",
        "opaque mAP",
        "GZSL mAP",
        *f1,
        "true ZSL mAP",
        "true opaque mAP",
        "true GZSL mAP",
    ]


def markdown(caption: str, values: dict[str, Trials], topk: list[int]) -> str:
    """One table under its caption."""
    names = columns(topk)
    lines = [
        MARKDOWN.line([row, *(cell(trials, name) for name in names)])
        for row, trials in values.items()
    ]
    return "\n".join([*MARKDOWN.head(caption, ["row", *names]), *lines])


def notes(trials: int) -> str:
    """How to read the tables: what the columns mean, and the spread."""
    return (
        "Percent. mAP is `per_class` over verified labels, F1 micro over images with a positive."
        " Unseen categories are *words* (pairs of known words) and *opaque* (events, known only"
        " through what they come with). *true* columns use everything that the generator drew,"
        " which no real data set knows. The mAP of *prior only* is what chance gives."
        f" {spread_note(trials)} {ORACLE_NOTE}"
    )
