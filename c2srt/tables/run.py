"""`c2srt tables`: trains and evaluates what is missing, collects, and writes every table.

<out>/<table>.md, .tex, .csv, .json     one table; the CSV and JSON hold every trial
<out>/tables.md                         all of them, those that earlier calls left in the folder too
"""

import logging
from pathlib import Path

from c2srt.artefact import FILES, vouch, vouched, withdraw, writing
from c2srt.datasets import data_set, published_names
from c2srt.errors import UserError
from c2srt.evaluation.describe import twins
from c2srt.files import write_text
from c2srt.hints import Command
from c2srt.jobs import Jobs
from c2srt.progress import clock
from c2srt.tables import render
from c2srt.tables.collect import Collected, collect, read_groups
from c2srt.tables.commands import evaluate_control
from c2srt.tables.config import Config
from c2srt.tables.rows import (
    Row,
    Table,
    Trial,
    controls_of,
    for_data,
    groups_of,
    trained_rows,
    trials,
)
from c2srt.tables.runner import Runner, prepare_clips, train_missing

log = logging.getLogger(__name__)


def run(config: Config, jobs: Jobs) -> None:
    """Trains what is missing (unless train=false), then writes the tables, unless this process had
    only a part of the rows.
    """
    tables = for_data(config.tables, config.data["name"])
    every, rows, runner = (
        trials(config.seeds, len(config.clips)),
        trained_rows(tables),
        Runner(Command("tables"), jobs),
    )
    if config.groups:
        read_groups(Path(config.groups))  # bad input is refused before hours of training
    if config.train:
        clips = sorted({clip for clip, _ in every})
        prepare_clips(runner, config.workspace, clips, rows, controls_of(tables))
        train_missing(runner, config.workspace, todo_of(config, rows, every))
    if config.part:
        log.info(
            f"\nthis was part {config.part}; when all parts are through, run"
            f" `{Command('tables', part=None)}` for the tables"
        )
        return
    if config.train:
        for row, trial in controls(tables, every):
            runner.run(evaluate_control(config.workspace, row, trial))
    collected = collect(
        config.workspace, tables, every, Path(config.groups) if config.groups else None
    )
    write(config, tables, collected, len(every))
    log.info(f"\n{clock(sum(runner.seconds.values()))} in commands" if runner.seconds else "")


def todo_of(config: Config, rows: list[Row], every: list[Trial]) -> list[tuple[Row, Trial]]:
    """The trained rows and trials of this process: rows that need one another stay together."""
    number, of = config.share
    units = [(group, trial) for trial in every for group in groups_of(rows)]
    return [(row, trial) for group, trial in units[number - 1 :: of] for row in group]


def controls(tables: dict[str, Table], every: list[Trial]) -> list[tuple[Row, Trial]]:
    """Each row of `controls_of` with its trials: without training one for each CLIP."""
    clips = [(clip, 0) for clip in sorted({clip for clip, _ in every})]
    return [(row, trial) for row in controls_of(tables) for trial in (every if row.run else clips)]


def write(config: Config, tables: dict[str, Table], collected: Collected, every: int) -> None:
    """All files, and the tables on the terminal. Raises UserError if no result is there."""
    if not any(trials for rows in collected.rows.values() for trials in rows.values()):
        raise UserError(
            f"none of the {len(collected.missing)} results is there, such as"
            f" {collected.missing[0]}: run `{Command('tables', train=None)}`"
        )
    out, data = Path(config.out), config.data["name"]
    groups = sorted(read_groups(Path(config.groups))) if config.groups else []
    columns, texts = render.columns_of(config.topk, config.protocol, config.f1_over, groups), {}
    published = data_set(data).compared_with or data
    how = note(config, every, published) + twins_note(collected)
    with writing(out):
        for name, table in tables.items():
            caption, rows = (
                f"{table.caption} · {data}, {config.protocol}, percent",
                collected.rows[name],
            )
            texts[name] = render.text_of(render.MARKDOWN, caption, table, rows, columns, published)
            latex = render.text_of(render.LATEX, caption, table, rows, columns, published)
            withdraw(out / f"{name}.json")
            for ending, text in (("md", texts[name]), ("tex", latex), ("csv", render.csv_of(rows))):
                write_text(out / f"{name}.{ending}", text if text.endswith("\n") else text + "\n")
            vouch(
                out / f"{name}.json",
                render.record_of(name, table, rows, collected.made_from) | {"note": how},
                [f"{name}.{ending}" for ending in ("md", "tex", "csv")],
            )
        kept = earlier(out, set(texts))
        write_text(out / "tables.md", together({how: list(texts.values())}, kept))
    print("\n" + "\n\n".join([*texts.values(), how]))
    if kept:
        log.info(
            "\ntables.md also keeps what earlier calls wrote:"
            f" {', '.join(name for name, _, _ in kept)}"
        )
    if collected.missing:
        log.info(
            f"\n{len(collected.missing)} results are missing (–), such as {collected.missing[0]}:"
            f" `{Command('tables', train=None, part=None)}` trains them"
        )
    log.info(f"\nwritten to {out}/")


def earlier(out: Path, new: set[str]) -> list[tuple[str, str, str]]:
    """(name, Markdown, note) of each table that an earlier call left whole in `out`."""
    found = []
    for path in sorted(out.glob("*.json")):
        record = vouched(path) if path.stem not in new else None
        if record and record.get("table") == path.stem and f"{path.stem}.md" in record[FILES]:
            found.append(
                (
                    path.stem,
                    path.with_suffix(".md").read_text(encoding="utf-8").strip(),
                    str(record.get("note", "")),
                )
            )
    return found


def together(groups: dict[str, list[str]], kept: list[tuple[str, str, str]]) -> str:
    """Tables in groups, each group above the note that says how to read it."""
    for _, text, how in kept:
        groups.setdefault(how, []).append(text)
    return (
        "\n\n".join(part for how, texts in groups.items() for part in (*texts, how) if part) + "\n"
    )


def twins_note(collected: Collected) -> str:
    """What must stand beside every ZSL figure where a seen category has an unseen one's name."""
    found = twins(collected.twins)
    return f" {found}." if found else ""


def note(config: Config, every: int, published: str) -> str:
    """How to read the tables."""
    f1 = {
        "positive": "images with a positive",
        "all": "all images",
        "annotated": "images with a positive, annotated columns only",
    }[config.f1_over]
    theirs = f" Published rows are the paper's on {published}, under its own protocol" + (
        ": another data set, only their order can be compared."
        if published != config.data["name"]
        else "."
    )
    if published not in published_names():
        theirs = ""
    graph = f" {render.ORACLE_NOTE}" if data_set(config.data["name"]).oracle else ""
    return (
        f"mAP is `{config.protocol}`, F1 micro over {f1}. {render.spread_note(every)}"
        f"{theirs}{graph}"
    )
