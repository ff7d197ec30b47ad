"""The report of a study, from its results alone: nothing is trained for it.

Every sentence points to an interval; one that holds 0 is "no difference seen".
"""

import logging
from pathlib import Path

import numpy as np

from c2srt.files import write_json, write_text
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.study.compare import Difference, difference, holm, mean_interval
from c2srt.study.config import Config
from c2srt.study.plan import AGAINST, KEPT, MARGIN, PRIMARY, SHOWN
from c2srt.study.rows import CANDIDATE, FULL, NO_GRAPH, ROWS

log = logging.getLogger(__name__)

Results = dict[tuple[str, str], dict[int, dict[str, float]]]
"""(graph, row) → world → figures."""


def report(config: Config) -> str:
    """Writes study.md and study.json of the worlds asked for; returns the text."""
    out = Path(config.out)
    results = read_results(out, config.worlds)
    parts = [table(results, graph) for graph in config.graphs]
    compared = {graph: comparisons(results, graph) for graph in config.graphs}
    parts += [sentences(found, graph) for graph, found in compared.items() if found]
    parts += [kept(results, graph) for graph in config.graphs]
    text = "\n\n".join(part for part in parts if part)
    write_text(out / "study.md", text + "\n")
    record = {
        graph: {name: vars(found) for name, found in of_graph.items()}
        for graph, of_graph in compared.items()
    }
    write_json(out / "study.json", {"worlds": config.worlds, "compared": record})
    return text


def read_results(out: Path, worlds: list[int]) -> Results:
    """All results of these worlds."""
    found: Results = {}
    for world in worlds:
        for path in sorted((out / f"world-{world}").glob("*/*.json")):
            record = read_json(path, Command("study"))
            found.setdefault((record["graph"], record["row"]), {})[world] = record["figures"]
    return found


def of_row(results: Results, graph: str, row: str) -> dict[int, dict[str, float]]:
    """A row's figures by world on a graph; of a row that hears none, those that it has."""
    return results.get((graph, row)) or results.get((NO_GRAPH, row)) or {}


def table(results: Results, graph: str) -> str:
    """Means over worlds ± half of the 95 % interval, in percent."""
    lines = [
        f"**{graph}**",
        "",
        "| row | worlds | " + " | ".join(SHOWN) + " |",
        "|---" * (len(SHOWN) + 2) + "|",
    ]
    for row in ROWS:
        found = of_row(results, graph, row.name)
        if not found:
            continue
        cells = []
        for name in SHOWN:
            mean, half = mean_interval(np.array([values[name] for values in found.values()]))
            cells.append(f"{100 * mean:.1f}" + (f" ±{100 * half:.1f}" if half == half else ""))
        lines.append(f"| {row.name} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparisons(results: Results, graph: str) -> dict[str, Difference]:
    """The candidate's PRIMARY against each row, over the worlds that both have."""
    own, found = of_row(results, graph, CANDIDATE), {}
    for name in AGAINST:
        if shared := sorted(set(own) & set(other := of_row(results, graph, name))):
            pair = [np.array([row[world][PRIMARY] for world in shared]) for row in (own, other)]
            found[name] = difference(*pair)
    adjusted = holm([each.p for each in found.values()])
    return {
        name: Difference(each.mean, each.low, each.high, each.p, p)
        for (name, each), p in zip(found.items(), adjusted, strict=True)
    }


def kept(results: Results, graph: str) -> str:
    """Whether the candidate keeps what the full model has in KEPT."""
    own, other = (of_row(results, graph, name) for name in (CANDIDATE, FULL))
    shared = sorted(set(own) & set(other))
    if len(shared) < 2:
        return ""
    found = difference(*(np.array([row[world][KEPT] for world in shared]) for row in (own, other)))
    word = "kept" if found.low > -MARGIN else "not kept"
    return (
        f"{KEPT} of {FULL}, {graph}: {word} ({100 * found.mean:+.1f}, 95 %"
        f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}])"
    )


def sentences(found: dict[str, Difference], graph: str) -> str:
    """A line a comparison."""
    lines = [f"**{CANDIDATE}: {PRIMARY} against the other rows, {graph}**", ""]
    for name, each in found.items():
        if each.low != each.low:
            lines.append(f"- {name}: {100 * each.mean:+.1f} (one world: no interval)")
            continue
        seen = "no difference seen" if each.low <= 0 <= each.high else f"{100 * each.mean:+.1f}"
        interval = f"95 % [{100 * each.low:+.1f}, {100 * each.high:+.1f}]"
        lines.append(f"- {name}: {seen} ({interval}, Holm p {each.adjusted:.2g})")
    return "\n".join(lines)
