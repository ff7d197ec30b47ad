"""The report of a study, from its results alone: nothing is trained for it.

Every sentence points to an interval; one that holds 0 is "no difference seen".
"""

from pathlib import Path

import numpy as np

from c2srt.demo.noise import NOISES
from c2srt.demo.words import SMALLEST
from c2srt.files import write_json, write_text
from c2srt.study.compare import Difference, difference, holm, mean_interval
from c2srt.study.config import Config
from c2srt.study.plan import AGAINST, KEPT, MARGIN, PARTS, PRIMARY, SHOWN
from c2srt.study.results import Results, of_row, records_below, results_of
from c2srt.study.rows import CANDIDATE, FULL, NO_GRAPH, ROWS


def report(config: Config) -> str:
    """Writes study.md, study.json and results.json of the worlds asked for; returns the text."""
    out = Path(config.out)
    records = records_below(out, config.worlds)
    text, results = text_of(records, config), results_of(records)
    compared = {
        graph: {name: vars(found) for name, found in comparisons(results, graph).items()}
        for graph in config.graphs
    }
    write_text(out / "study.md", text + "\n")
    write_json(out / "study.json", {"worlds": config.worlds, "compared": compared})
    write_json(out / "results.json", {"results": records})
    return text


POSITIVES, ABOVE_CHANCE = 10, 3
PER_STEP = "seconds_per_step"


def text_of(records: list[dict], config: Config) -> str:
    """Tables, comparisons and what is kept, a graph after the other."""
    records = [each for each in records if each["world"] in config.worlds]
    results = results_of(records)
    parts = [sound(records), *(table(results, graph) for graph in config.graphs)]
    compared = {graph: comparisons(results, graph) for graph in config.graphs}
    parts += [sentences(found, graph) for graph, found in compared.items() if found]
    parts += [kept(results, graph) for graph in config.graphs]
    return "\n\n".join(part for part in parts if part)


def sound(records: list[dict]) -> str:
    """Of larger worlds, whether their rows say anything: every unseen category has enough
    positives, and CLIP's ranking of unseen names is far enough above one that ignores the image.
    """
    larger = [each for each in records if each.get("categories", SMALLEST) > SMALLEST]
    least = min((each["least_positives"] for each in larger), default=0)
    found = results_of(larger)
    clip, chance = (found.get((NO_GRAPH, name), {}) for name in ("CLIP zero-shot", "prior only"))
    if not (shared := sorted(set(clip) & set(chance))):
        return ""
    ratio = min(clip[world]["ZSL mAP"] / chance[world]["ZSL mAP"] for world in shared)
    enough = least >= POSITIVES and ratio >= ABOVE_CHANCE
    return (
        f"{larger[0]['categories']:,} categories: each unseen one has at least {least} test"
        f" positives, CLIP's ZSL mAP is at least {ratio:.1f} times chance."
        + ("" if enough else f" These rows say nothing: {POSITIVES} and {ABOVE_CHANCE} are needed.")
    )


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
        cells = [cell(found, name) for name in SHOWN]
        lines.append(f"| {row.name} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def grid(results: Results, name: str) -> str:
    """One figure of every row on every graph: means over worlds ± half of the 95 % interval, in
    percent; a row that hears no graph has one value.
    """
    graphs = [each for each in NOISES if any(graph == each for graph, _ in results)]
    lines = [f"**{name}**", "", f"| row | {' | '.join(graphs)} |", "|---" * (len(graphs) + 1) + "|"]
    for row in ROWS:
        if (NO_GRAPH, row.name) in results:
            lines.append(f"| {row.name} | {cell(results[NO_GRAPH, row.name], name)} |")
        elif any(found := [of_row(results, graph, row.name) for graph in graphs]):
            cells = (cell(each, name) if each else "" for each in found)
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(found: dict[int, dict[str, float]], name: str) -> str:
    """A row's figure over its worlds."""
    return with_interval(100 * np.array([values[name] for values in found.values()]), ".1f")


def with_interval(values: np.ndarray, form: str) -> str:
    """The mean ± half of the 95 % interval, if there is one."""
    mean, half = mean_interval(values)
    return f"{mean:{form}}" + (f" ±{half:{form}}" if half == half else "")


def cost(records: list[dict], graph: str) -> str:
    """Seconds of a training step beside full C²SRT's in the same world: means over worlds ± half of
    the 95 % interval. Rows that train nothing of their own have the step of their base.
    """
    steps: dict[str, dict[int, float]] = {}
    for record in records:
        if record["training"] and record["graph"] in (graph, NO_GRAPH):
            steps.setdefault(record["row"], {})[record["world"]] = record["training"][PER_STEP]
    whole = steps.get(FULL, {})
    lines = [f"| row | seconds a step, of {FULL}'s |", "|---|---|"]
    for row in ROWS:
        if shared := sorted(set(steps.get(row.name, {})) & set(whole)):
            ratios = np.array([steps[row.name][world] / whole[world] for world in shared])
            mean, half = mean_interval(ratios)
            lines.append(
                f"| {row.name} | {mean:.2f}" + (f" ±{half:.2f} |" if half == half else " |")
            )
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


def pair(results: Results, argument: str) -> str:
    """All figures of two rows on a graph: `argument` is "<graph> | <row> | <other row>"."""
    graph, first, second = argument.split(" | ")
    own, other = (of_row(results, graph, name) for name in (first, second))
    shared = sorted(set(own) & set(other))
    said = []
    for name in SHOWN:
        both = (np.array([row[world][name] for world in shared]) for row in (own, other))
        said.append(f"{name} {said_of(difference(*both))}")
    return f"{first} against {second}, {graph}: {'; '.join(said)}."


def said_of(found: Difference) -> str:
    """A difference in percent, where its interval leaves out 0."""
    if found.low != found.low:
        return f"{100 * found.mean:+.1f} (one world: no interval)"
    seen = "no difference seen" if found.low <= 0 <= found.high else f"{100 * found.mean:+.1f}"
    return f"{seen} (95 % [{100 * found.low:+.1f}, {100 * found.high:+.1f}])"


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
        part = " (one part less)" if name in PARTS else ""
        holm_p = "" if each.low != each.low else f", Holm p {each.adjusted:.2g}"
        lines.append(f"- {name}{part}: {said_of(each)}{holm_p}")
    return "\n".join(lines)
