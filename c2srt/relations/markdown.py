"""report.md: what a report of relation graphs says, for reading."""

from c2srt.shown import markdown, markdown_table, shown

NAMES = 12  # of a list
ROWS = {
    "edges": lambda facts: f"{facts['edges']:,}",
    "neighbours a category": lambda facts: f"{facts['mean_neighbours']:.2f}",
    "categories with neighbours": lambda facts: percent(facts["coverage"]["all"]),
    "… of the unseen": lambda facts: percent(facts["coverage"]["unseen"]),
    "reciprocal edges (both seen)": lambda facts: percent(facts["reciprocal"]),
    "listeners of the median seen category": lambda facts: (
        f"{facts['listeners'].get('quantile_0.5', 0):.0f}"
    ),
    "… of the greatest hub": lambda facts: f"{facts['listeners'].get('quantile_1', 0):.0f}",
    "edges from the most heard hundredth": lambda facts: percent(facts["edges_from_top_percent"]),
    "seen categories that nobody hears": lambda facts: f"{len(facts['unreached']):,}",
}


def as_markdown(report: dict, figures: list[str]) -> str:
    """The whole of report.md."""
    titles = report["titles"]
    size = (
        f"{report['categories']:,} categories ({report['seen']:,} seen), {report['neighbours']}"
        " neighbours"
    )
    lines = [f"# Relation graphs of {size}", ""]
    lines += markdown_table(
        ["", *titles.values()],
        [[name, *map(show, report["graphs"].values())] for name, show in ROWS.items()],
    )
    lines += ["", "## Share of a row's neighbours that the column's graph has too", ""]
    lines += markdown_table(
        ["", *titles.values()],
        [
            [titles[one], *map(percent, others.values())]
            for one, others in report["overlap"].items()
        ],
    )
    lines += [""]
    for kind, facts in report["graphs"].items():
        lines += [f"## {titles[kind]}", "", *about_graph(facts)]
    if report["shortlist"]:
        lines += about_shortlist(report["shortlist"])
    lines += [f"![{name}]({name})" for name in figures]
    return "\n".join([*lines, "", "Look categories up: [lookup.html](lookup.html)", ""])


def about_graph(facts: dict) -> list[str]:
    """One graph's lists of names."""
    hubs = [f"{name_of(hub['name'])} ({hub['listeners']:,})" for hub in facts["hubs"]]
    lines = [f"Hubs: {', '.join(hubs) or 'none'}.", ""]
    if facts["types"]:
        counts = (f"{name_of(name)} {count:,}" for name, count in facts["types"].items())
        lines += [f"Relation types: {', '.join(counts)}.", ""]
    for what in ("unreached", "without_neighbours"):
        if facts[what]:
            words = what.replace("_", " ").capitalize()
            lines += [f"{words} ({len(facts[what]):,}): {some(facts[what])}.", ""]
    return lines


def about_shortlist(found: dict) -> list[str]:
    """What shortlists of each size would have shown."""
    title = "Share of the llm neighbours that a mining shortlist shows"
    sizes = map(str, next(iter(found.values())))
    rows = [[name, *map(percent, shares.values())] for name, shares in found.items()]
    return [
        f"## {title} (text similarity and shared words)",
        "",
        *markdown_table(["size", *sizes], rows),
        "",
    ]


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def some(names: list[str]) -> str:
    return ", ".join(map(name_of, names[:NAMES])) + (", …" if len(names) > NAMES else "")


def name_of(name: str) -> str:
    """A name out of the label list, as Markdown."""
    return markdown(shown(name))
