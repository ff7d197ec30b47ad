"""Tables as Markdown and LaTeX (mean ± spread, in percent, the published row below ours), CSV
(every trial) and JSON.
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from c2srt.datasets import data_set
from c2srt.evaluation.config import ANNOTATED
from c2srt.shown import csv_cell, markdown, printable
from c2srt.tables.collect import GROUP, Trials, Values
from c2srt.tables.published import contradictions
from c2srt.tables.rows import Table

ORACLE_NOTE = (
    "*Oracle graph*: the `llm` graph of this data set is written by the program that draws it, and"
    " lists each event's defining companions first: no language model would, and what it brings is"
    " the most that a graph can bring."
)
Columns = dict[str, str]
"""Name in the results → heading."""


@dataclass(frozen=True)
class Style:
    """How one kind of text writes a table's parts."""

    head: Callable[[str, list[str]], list[str]]
    line: Callable[[list[str]], str]
    tail: Callable[[list[str]], list[str]]
    """From the sentences below it, escaped."""
    spread: str
    escape: Callable[[str], str] = lambda text: text


def markdown_head(caption: str, headings: list[str]) -> list[str]:
    return [
        f"**{caption}**",
        "",
        "| " + " | ".join(headings) + " |",
        "|---|" + "---|" * (len(headings) - 1),
    ]


def latex_head(caption: str, headings: list[str]) -> list[str]:
    columns = "l" + "r" * (len(headings) - 1)
    return [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(headings) + r" \\",
        r"\midrule",
    ]


def markdown_tail(notes: list[str]) -> list[str]:
    return ["", *(line for note in notes for line in (note, ""))][:-1]


def latex_tail(notes: list[str]) -> list[str]:
    below = [rf"\\[2pt] {note}" for note in notes]
    return [r"\bottomrule", r"\end{tabular}", *below, r"\end{table}"]


LATEX_SIGNS = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "%": r"\%",
        "_": r"\_",
        "#": r"\#",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "²": "$^2$",
        "λ": r"$\lambda$",
        "α": r"$\alpha$",
        "±": r"$\pm$",
        "·": r"$\cdot$",
        "–": "--",
    }
)


def latex_escape(text: str) -> str:
    return printable(text).translate(LATEX_SIGNS)


MARKDOWN = Style(
    markdown_head,
    lambda cells: "| " + " | ".join(cells) + " |",
    markdown_tail,
    "±{:.1f}",
    markdown,
)
LATEX = Style(
    latex_head,
    lambda cells: " & ".join(cells) + r" \\",
    latex_tail,
    "$\\pm${:.1f}",
    latex_escape,
)


def columns_of(topk: list[int], protocol: str, f1_over: str, groups: list[str]) -> Columns:
    """The figures of a table in the paper's order: mAP of both label sets, then F1 at each K;
    groups of unseen categories beside ZSL.
    """
    inside, among = (
        "all_images/" if f1_over == "all" else "",
        ANNOTATED if f1_over == "annotated" else "",
    )
    found = {f"zsl/mAP/{protocol}": "ZSL mAP"} | {
        f"{GROUP}/{group}/{protocol}": f"{group} mAP" for group in groups
    }
    found[f"gzsl/mAP/{protocol}"] = "GZSL mAP"
    return found | {
        f"{label_set}/{inside}F1@{k}{among}/F1": f"{label_set.upper()} F1@{k}"
        for k in topk
        for label_set in ("zsl", "gzsl")
    }


def text_of(
    style: Style,
    caption: str,
    table: Table,
    rows: dict[str, Trials],
    columns: Columns,
    published: str | None,
) -> str:
    """One table. `published`: the data set whose published row stands below ours, None: no such
    rows. What contradicts itself in it has a number, and a sentence below the table.
    """
    headings = [style.escape(heading) for heading in ("row", *columns.values())]
    lines, notes = style.head(style.escape(caption), headings), list[str]()
    for row in table.rows:
        lines.append(
            style.line(
                [style.escape(row.name), *(cell(rows[row.name], name, style) for name in columns)]
            )
        )
        if published in row.published:
            theirs = dict(zip(published_headings(published), row.published[published], strict=True))
            cells = [
                f"{theirs[heading]:.1f}" if heading in theirs else "–"
                for heading in columns.values()
            ]
            name = f"· published, {published}"
            if said := contradictions(row, published):
                name += f" ({len(notes) + 1})"
                notes.append(f"({len(notes) + 1}) {row.name} as published: {'; '.join(said)}.")
            lines.append(style.line([style.escape(name), *map(style.escape, cells)]))
    return "\n".join(lines + style.tail([style.escape(note) for note in notes]))


def published_headings(data: str) -> list[str]:
    """What the six published numbers of a row are, as headings of `columns_of`."""
    return [
        "ZSL mAP",
        "GZSL mAP",
        *(f"{label_set} F1@{k}" for k in data_set(data).topk for label_set in ("ZSL", "GZSL")),
    ]


def cell(trials: Trials, name: str, style: Style = MARKDOWN) -> str:
    """Percent; with several trials the mean ± half the range over fine-tuning seeds, and ± half the
    range over CLIPs.
    """
    of_seeds = [
        100 * values[name] for (clip, _), values in trials.items() if clip == 0 and name in values
    ]
    of_clips = [
        100 * values[name] for (_, seed), values in trials.items() if seed == 0 and name in values
    ]
    every = [100 * values[name] for values in trials.values() if name in values]
    if not every:
        return style.escape("–")
    spreads = [
        style.spread.format(half_range(group)) for group in (of_seeds, of_clips) if len(group) > 1
    ]
    return " ".join([f"{np.mean(every):.1f}", *spreads])


def half_range(values: list[float]) -> float:
    return (max(values) - min(values)) / 2


def csv_of(rows: dict[str, Trials]) -> str:
    """A line for every figure of every trial: row, clip, seed, figure, value (a fraction)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "clip", "seed", "figure", "value"))
    writer.writerows(
        (csv_cell(row), clip, seed, csv_cell(name), value)
        for row, trials in rows.items()
        for (clip, seed), values in trials.items()
        for name, value in values.items()
    )
    return text.getvalue()


def record_of(name: str, table: Table, rows: dict[str, Trials], made_from: dict) -> dict:
    """The table as JSON: what `c2srt figures` draws its curves from."""

    def of_trials(trials: dict[tuple[int, int], Values]) -> list[dict]:
        return [
            {"clip": clip, "seed": seed, "values": values}
            for (clip, seed), values in trials.items()
        ]

    return {
        "table": name,
        "caption": table.caption,
        "axis": table.axis,
        "made_from": made_from,
        "rows": [
            {
                "name": row.name,
                "x": row.x,
                "published": row.published,
                "contradictions": {data: contradictions(row, data) for data in row.published_pr},
                "trials": of_trials(rows[row.name]),
            }
            for row in table.rows
        ],
    }


def spread_note(every: int) -> str:
    """What the ± are."""
    if every == 1:
        return "One trial."
    return (
        f"Mean of {every} trials ± half the range over fine-tuning seeds (first CLIP) ± half the"
        " range over CLIPs (first fine-tuning seed); a single ± is the one of the two that varies."
    )
