"""Pictures of relation graphs: figure 10 (one category, the kinds side by side) and how often categories are heard."""

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

from c2srt.files import whole_file
from c2srt.relations.compare import Graph
from c2srt.relations.table import ABSENT
from c2srt.vocabulary import Vocabulary

TARGET, OTHER, INTO, AMONG = "#f28e2b", "#6baed6", "#d62728", "#bdbdbd"


def neighbourhood(path: Path, graphs: list[Graph], row: int, vocabulary: Vocabulary) -> None:
    """Figure 10: the category `row` (orange) with its neighbours (blue) in every graph that has edges.

    Red edges carry information into it, their width is the edge's strength where the kind has one; grey edges run among the
    others; a node grows with its edges.
    """
    drawn = [graph for graph in graphs if len(graph.edges)] or graphs
    figure, axes = plt.subplots(1, len(drawn), figsize=(5 * len(drawn), 5.2), squeeze=False)
    for axis, graph in zip(axes[0], drawn, strict=True):
        draw_one(axis, graph, row, vocabulary)
    figure.suptitle(f"What “{plain(vocabulary.names[row])}” hears", y=0.99)
    save(figure, path)


def draw_one(axis: plt.Axes, graph: Graph, row: int, vocabulary: Vocabulary) -> None:
    """One panel."""
    sources = [column for column in graph.table[row].tolist() if column != ABSENT]
    strengths = dict(graph.edges.filter(graph.edges["target"] == vocabulary.mids[row]).select("source", "strength").iter_rows())
    weights = [strengths.get(vocabulary.mids[column]) for column in sources]
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(sources)) / max(len(sources), 1)
    place = {column: (np.cos(angle), np.sin(angle)) for column, angle in zip(sources, angles, strict=True)} | {row: (0.0, 0.0)}
    among = [(source, listener) for listener in sources for source in graph.table[listener].tolist() if source in place]
    edges = {node: len(sources) if node == row else 1 for node in place}
    for source, listener in among:
        edges[source], edges[listener] = edges[source] + 1, edges[listener] + 1
        arrow(axis, place[source], place[listener], AMONG, 1.0)
    strongest = max((weight for weight in weights if weight), default=1.0)
    for source, weight in zip(sources, weights, strict=True):
        arrow(axis, place[source], place[row], INTO, 1.0 + 2.5 * (weight / strongest if weight else 0.0))
    for node, (across, up) in place.items():
        axis.scatter(across, up, s=120 + 60 * edges[node], c=TARGET if node == row else OTHER, zorder=3, edgecolors="white")
        below = node == row or up < -0.1
        axis.annotate(plain(vocabulary.names[node]), (across, up), (0, -18 if below else 18), textcoords="offset points",
                      ha="center", va="center", fontsize=9, zorder=4, path_effects=[withStroke(linewidth=3, foreground="white")])
    axis.set(title=graph.kind if sources else f"{graph.kind}: no neighbours", xlim=(-1.7, 1.7), ylim=(-1.4, 1.4), aspect="equal")
    axis.axis("off")


def arrow(axis: plt.Axes, start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": width, "shrinkA": 9, "shrinkB": 11})


def plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")


def listeners(path: Path, graphs: list[Graph], seen: int) -> None:
    """How many categories listen to each seen one: hubs at the left, the unreached at the right."""
    figure, axis = plt.subplots(figsize=(7, 4))
    for graph in graphs:
        heard = np.bincount(graph.table[graph.table != ABSENT], minlength=seen)[:seen]
        axis.plot(np.arange(1, seen + 1), np.sort(heard)[::-1], label=graph.kind)
    axis.set(xscale="log", yscale="symlog", xlabel="seen categories, most heard first", ylabel="listeners")
    axis.legend()
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    with whole_file(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about letters that no font has
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)
