"""`c2srt relations report`: the graphs of a data set in numbers, pictures, and a page to look
categories up.

Writes report.json (everything), report.md (the same for reading), listeners.png,
figure10-<category>.png, lookup.html.
"""

import logging
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl

from c2srt.artefact import FILES, is_recorded
from c2srt.errors import UserError
from c2srt.files import write_json, write_text
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.opened_tables import INTEGER, NUMBER, TEXT, read_parquet
from c2srt.relations.answers import Answers, Relation
from c2srt.relations.compare import Graph, describe, overlap
from c2srt.relations.config import ReportConfig as Config
from c2srt.relations.kinds import KINDS, LLM
from c2srt.relations.markdown import as_markdown, percent
from c2srt.relations.questions import find_rows
from c2srt.relations.table import EDGES, PROVENANCE, Provenance, load_relations
from c2srt.shown import file_name, shown
from c2srt.vocabulary import Vocabulary, load_vocabulary

log = logging.getLogger(__name__)

SHORTLISTS = (100, 300, 1000, 2000)


def run(config: Config) -> None:
    """Reads the graphs below `folder` and writes the report. Raises UserError on bad input."""
    vocabulary, out = load_vocabulary(Path(config.shards)), Path(config.out)
    graphs = load_graphs(config, vocabulary)
    k = graphs[0].table.shape[1]
    rows = find_rows(vocabulary, config.draw) if config.draw else [greatest_hub(graphs[0])]
    report = {
        "vocabulary": vocabulary.hash,
        "categories": len(vocabulary),
        "seen": vocabulary.seen_count,
        "neighbours": k,
        "graphs": {graph.kind: describe(graph, vocabulary) for graph in graphs},
        "overlap": {
            one.kind: {other.kind: overlap(one.table, other.table) for other in graphs}
            for one in graphs
        },
        "shortlist": shortlist_coverage(config, vocabulary, graphs),
        "titles": {graph.kind: graph.title for graph in graphs},
        "provenance": {graph.kind: graph.provenance for graph in graphs},
    }
    figures = draw(out, graphs, rows, vocabulary)
    write_json(out / "report.json", report)
    write_text(out / "report.md", as_markdown(report, figures))
    print("\n".join(summary_lines(report)))
    log.info(f"{out}: report.md, report.json, lookup.html, {', '.join(figures)}")


def load_graphs(config: Config, vocabulary: Vocabulary) -> list[Graph]:
    """The graphs asked for, or all that are there, each cut to the same K. Raises UserError if one
    is absent or damaged.
    """
    folder = Path(config.folder)
    kinds = config.graphs or [kind for kind in KINDS if (folder / kind / PROVENANCE).is_file()]
    if not kinds:
        raise UserError(
            f"{folder} has no relation graph: make some with `{Command('relations', graph='llm')}`,"
            " graph=similarity, …"
        )
    kept = {
        kind: read_json(folder / kind / PROVENANCE, Command("relations", graph=kind), Provenance)
        for kind in kinds
    }
    k = config.neighbours or min(content["made_from"]["neighbours"] for content in kept.values())
    tables = {kind: load_relations(folder / kind, vocabulary, k).numpy() for kind in kinds}
    return [
        Graph(kind, tables[kind], load_edges(folder / kind, kept[kind], k), kept[kind])
        for kind in kinds
    ]


def load_edges(folder: Path, provenance: dict, k: int) -> pl.DataFrame:
    path = folder / EDGES
    if not is_recorded(path.parent, path.name, provenance.get(FILES, {})):
        raise UserError(
            f"{path} is absent or not what {PROVENANCE} describes: rebuild it with "
            f"`{Command('relations', graph=folder.name)}`"
        )
    rebuild = Command("relations", graph=folder.name)
    columns = {"target": TEXT, "source": TEXT, "place": INTEGER, "strength": NUMBER, "type": TEXT}
    edges = read_parquet(path, rebuild, columns, ("strength",))
    return cast(pl.DataFrame, pl.from_arrow(edges)).filter(pl.col("place") < k)


def greatest_hub(graph: Graph) -> int:
    """The category drawn when none is named: the greatest hub."""
    return int(np.bincount(np.maximum(graph.table.ravel(), 0)).argmax())


def draw(out: Path, graphs: list[Graph], rows: list[int], vocabulary: Vocabulary) -> list[str]:
    """Writes page and pictures; returns the pictures' names."""
    from c2srt.relations.page import write_page
    from c2srt.relations.pictures import (
        neighbourhood,
        out_degrees,
    )  # matplotlib takes a second to import

    write_page(out / "lookup.html", graphs, vocabulary)
    out_degrees(out / "listeners.png", graphs, vocabulary.seen_count)
    names = []
    for row in rows:
        names.append(f"figure10-{file_name(f'{vocabulary.names[row]} {vocabulary.mids[row]}')}.png")
        neighbourhood(out / names[-1], graphs, row, vocabulary)
    return ["listeners.png", *names]


def shortlist_coverage(config: Config, vocabulary: Vocabulary, graphs: list[Graph]) -> dict | None:
    """What share of the llm graph's neighbours a mining shortlist of each size would have shown.

    None without an llm graph or text features.
    """
    mined = next((graph for graph in graphs if graph.kind == LLM), None)
    if (
        mined is None
        or not (Path(config.text) / "text.json").is_file()
        or vocabulary.seen_count < 2
    ):
        return None
    from c2srt.relations.shortlist import coverage, shortlists
    from c2srt.text import load_text

    related: dict[str, list[Relation]] = {}
    for target, source, kind in mined.edges.select("target", "source", "type").iter_rows():
        related.setdefault(target, []).append(Relation(source, 1.0, kind))
    sizes = [size for size in SHORTLISTS if size < vocabulary.seen_count] or [
        vocabulary.seen_count - 1
    ]
    answers, found = Answers("", related, {}, ""), {}
    lists = shortlists(
        vocabulary,
        list(range(len(vocabulary))),
        sizes[-1],
        load_text(Path(config.text), vocabulary),
    )
    for name, rows in (
        ("all", range(len(vocabulary))),
        ("unseen", range(vocabulary.seen_count, len(vocabulary))),
    ):
        if rows:
            found[name] = coverage(
                [lists[row] for row in rows], list(rows), vocabulary, answers, sizes
            )
    return found


def summary_lines(report: dict) -> list[str]:
    """A line a graph."""
    return [
        f"{report['titles'][kind]}: {facts['mean_neighbours']:.1f} neighbours,"
        f" {percent(facts['coverage']['all'])} covered, {percent(facts['reciprocal'])} reciprocal,"
        f" greatest hub {shown(facts['hubs'][0]['name']) if facts['hubs'] else 'none'},"
        f" {len(facts['unreached']):,} unreached"
        for kind, facts in report["graphs"].items()
    ]
