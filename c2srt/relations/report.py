"""`c2srt relations report`: the graphs of a data set in numbers, pictures, and a page to look
categories up.

Writes report.json (everything), report.md (the same for reading), listeners.png,
figure10-<category>.png, lookup.html.
"""

from pathlib import Path

import numpy as np
import polars as pl

from c2srt.artefact import FILES
from c2srt.errors import UserError
from c2srt.files import sha256_of_file, write_json, write_text
from c2srt.hints import Command
from c2srt.opened import INTEGER, NUMBER, TEXT, read_json, read_parquet
from c2srt.relations.answers import Answers, Relation
from c2srt.relations.compare import Graph, describe, overlap
from c2srt.relations.config import ReportConfig as Config
from c2srt.relations.kinds import KINDS, LLM
from c2srt.relations.questions import find_rows
from c2srt.relations.table import EDGES, PROVENANCE, Provenance, load_relations
from c2srt.shown import file_name, markdown, shown
from c2srt.vocabulary import Vocabulary, load_vocabulary

SHORTLISTS = (100, 300, 1000, 2000)
NAMES = 12  # of a list, in report.md


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
    print(f"{out}: report.md, report.json, lookup.html, {', '.join(figures)}")


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
    if not path.is_file() or sha256_of_file(path) != provenance.get(FILES, {}).get(EDGES):
        raise UserError(
            f"{path} is absent or not what {PROVENANCE} describes: rebuild it with "
            f"`{Command('relations', graph=folder.name)}`"
        )
    rebuild = Command("relations", graph=folder.name)
    columns = {"target": TEXT, "source": TEXT, "place": INTEGER, "strength": NUMBER, "type": TEXT}
    return pl.from_arrow(read_parquet(path, rebuild, columns, ("strength",))).filter(
        pl.col("place") < k
    )


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


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def as_markdown(report: dict, figures: list[str]) -> str:
    """report.md."""
    graphs, titles = report["graphs"], report["titles"]
    rows = [
        ("edges", lambda facts: f"{facts['edges']:,}"),
        ("neighbours a category", lambda facts: f"{facts['mean_neighbours']:.2f}"),
        ("categories with neighbours", lambda facts: percent(facts["coverage"]["all"])),
        ("… of the unseen", lambda facts: percent(facts["coverage"]["unseen"])),
        ("reciprocal edges (both seen)", lambda facts: percent(facts["reciprocal"])),
        (
            "listeners of the median seen category",
            lambda facts: f"{facts['listeners'].get('quantile_0.5', 0):.0f}",
        ),
        ("… of the greatest hub", lambda facts: f"{facts['listeners'].get('quantile_1', 0):.0f}"),
        (
            "edges from the most heard hundredth",
            lambda facts: percent(facts["edges_from_top_percent"]),
        ),
        ("seen categories that nobody hears", lambda facts: f"{len(facts['unreached']):,}"),
    ]
    size = (
        f"{report['categories']:,} categories ({report['seen']:,} seen), {report['neighbours']}"
        " neighbours"
    )
    lines = [
        f"# Relation graphs of {size}",
        "",
        *table(
            ["", *titles.values()],
            [[name, *(show(facts) for facts in graphs.values())] for name, show in rows],
        ),
        "",
        "## Share of a row's neighbours that the column's graph has too",
        "",
        *table(
            ["", *titles.values()],
            [
                [titles[one], *map(percent, others.values())]
                for one, others in report["overlap"].items()
            ],
        ),
        "",
    ]
    for kind, facts in graphs.items():
        lines += [f"## {titles[kind]}", ""]
        hubs = [f"{name_of(hub['name'])} ({hub['listeners']:,})" for hub in facts["hubs"]]
        lines += [f"Hubs: {', '.join(hubs) or 'none'}.", ""]
        if facts["types"]:
            counts = (f"{name_of(name)} {count:,}" for name, count in facts["types"].items())
            lines += [f"Relation types: {', '.join(counts)}.", ""]
        for what in ("unreached", "without_neighbours"):
            if facts[what]:
                lines += [
                    (
                        f"{what.replace('_', ' ').capitalize()} ({len(facts[what]):,}):"
                        f" {some(facts[what])}."
                    ),
                    "",
                ]
    if report["shortlist"]:
        sizes = map(str, next(iter(report["shortlist"].values())))
        rows = [
            [name, *map(percent, found.values())] for name, found in report["shortlist"].items()
        ]
        lines += [
            (
                "## Share of the llm neighbours that a mining shortlist shows (text similarity and"
                " shared words)"
            ),
            "",
            *table(["size", *sizes], rows),
            "",
        ]
    lines += [f"![{name}]({name})" for name in figures]
    return "\n".join([*lines, "", "Look categories up: [lookup.html](lookup.html)", ""])


def some(names: list[str]) -> str:
    return ", ".join(map(name_of, names[:NAMES])) + (", …" if len(names) > NAMES else "")


def name_of(name: str) -> str:
    """A name out of the label list, as Markdown."""
    return markdown(shown(name))


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
