"""Pictures of relation graphs: figure 10 (one category, the kinds side by side) and how many
out-neighbours categories have.
"""

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

from c2srt.files import whole_file
from c2srt.relations.compare import Graph
from c2srt.relations.neighbours import ABSENT
from c2srt.vocabulary import Vocabulary

Point = tuple[float, float]
TARGET, OTHER, INTO, AMONG = "#f28e2b", "#6baed6", "#d62728", "#bdbdbd"


def neighbourhood(path: Path, graphs: list[Graph], row: int, vocabulary: Vocabulary) -> None:
    """Writes figure 10 as a PNG, the kinds in one line."""
    save(neighbourhood_figure(graphs, row, vocabulary, len(graphs)), path)


def neighbourhood_figure(
    graphs: list[Graph], row: int, vocabulary: Vocabulary, across: int, scale: float = 1.0
) -> plt.Figure:
    """Figure 10: the category `row` (orange) with its neighbours (blue) in every graph that has
    edges, `across` panels a line, each 5 × `scale` inches wide.

    Red edges carry information into it, their width is the edge's strength where the kind has one;
    grey edges run among the others; a node grows with its edges.
    """
    drawn = [graph for graph in graphs if len(graph.edges)] or graphs
    across = min(across, len(drawn))
    lines = -(-len(drawn) // across)
    height = 4.1 * scale * lines + 0.3
    figure, axes = plt.subplots(
        lines,
        across,
        figsize=(5 * scale * across, height),
        squeeze=False,
        gridspec_kw={"left": 0, "right": 1, "bottom": 0, "top": 1 - 0.5 / height, "hspace": 0.12},
    )
    for axis in axes.flat[len(drawn) :]:
        axis.axis("off")
    for axis, graph in zip(axes.flat, drawn, strict=False):
        draw_one(axis, graph, row, vocabulary, scale)
    figure.suptitle(f"What “{plain(vocabulary.titles[row])}” hears", y=0.99)
    return figure


def draw_one(axis: plt.Axes, graph: Graph, row: int, vocabulary: Vocabulary, scale: float) -> None:
    """One panel."""
    sources = [column for column in graph.table[row].tolist() if column != ABSENT]
    strengths = dict(
        graph.edges.filter(graph.edges["target"] == vocabulary.mids[row])
        .select("source", "strength")
        .iter_rows()
    )
    weights = [strengths.get(vocabulary.mids[column]) for column in sources]
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(sources)) / max(len(sources), 1)
    place = {
        column: (np.cos(angle), np.sin(angle))
        for column, angle in zip(sources, angles, strict=True)
    } | {row: (0.0, 0.0)}
    among = [
        (source, target)
        for target in sources
        for source in graph.table[target].tolist()
        if source in place
    ]
    radius = radii(row, place, among, scale)
    strongest = max((weight for weight in weights if weight), default=1.0)
    arrows = [(source, target, AMONG, 1.0) for source, target in among]
    arrows += [
        (source, row, INTO, 1 + 2.5 * (weight or 0) / strongest)
        for source, weight in zip(sources, weights, strict=True)
    ]
    for source, target, colour, width in arrows:
        ends = radius[source], radius[target]
        draw_arrow(axis, place[source], place[target], ends, colour, width, scale)
    draw_nodes(axis, row, place, radius, vocabulary, scale)
    axis.set(
        title=graph.title if sources else f"{graph.title}: no neighbours",
        xlim=(-1.9, 1.9),
        ylim=(-1.4, 1.4),
        aspect="equal",
    )
    axis.axis("off")


def radii(
    row: int, place: dict[int, Point], among: list[tuple[int, int]], scale: float
) -> dict[int, float]:
    """Each node's radius in points: its area grows with its edges, those into `row` and `among`."""
    edges = {node: len(place) - 1 if node == row else 1 for node in place}
    for source, target in among:
        edges[source], edges[target] = edges[source] + 1, edges[target] + 1
    return {node: scale * np.sqrt(120 + 60 * count) / 2 for node, count in edges.items()}


def draw_arrow(
    axis: plt.Axes,
    source: Point,
    target: Point,
    ends: tuple[float, float],
    colour: str,
    width: float,
    scale: float,
) -> None:
    """An edge between the rims of two nodes, whose radii in points are `ends`."""
    axis.annotate(
        "",
        target,
        source,
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "lw": width * scale,
            "mutation_scale": 13 * scale,
            "shrinkA": ends[0] + 1,
            "shrinkB": ends[1] + 1,
        },
    )


def draw_nodes(
    axis: plt.Axes,
    row: int,
    place: dict[int, Point],
    radius: dict[int, float],
    vocabulary: Vocabulary,
    scale: float,
) -> None:
    """The nodes, and the names of all but `row`: that one is named above all panels; here its name
    would cross the arrows.
    """
    for node, (across, up) in place.items():
        axis.scatter(
            across,
            up,
            s=(2 * radius[node]) ** 2,
            c=TARGET if node == row else OTHER,
            zorder=3,
            edgecolors="white",
        )
        if node != row:
            write_name(axis, plain(vocabulary.titles[node]), across, up, radius[node], 9 * scale)


def write_name(
    axis: plt.Axes, name: str, across: float, up: float, radius: float, size: float
) -> None:
    """A node's name, outside of the ring, so that names at one height run away from each other:
    `radius` of the node and `size` of the letters in points.
    """
    side = 0 if abs(across) < 0.3 else int(np.sign(across))
    shift = (side * (radius + 3), size * up) if side else (0, np.sign(up) * (radius + size))
    axis.annotate(
        name,
        (across, up),
        shift,
        textcoords="offset points",
        ha=("center", "left", "right")[side],
        va="center",
        fontsize=size,
        zorder=4,
        path_effects=[withStroke(linewidth=size / 3, foreground="white")],
    )


def plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")


def out_degrees(path: Path, graphs: list[Graph], seen: int) -> None:
    """Writes the picture of `out_degree_figure` as a PNG."""
    save(out_degree_figure(graphs, seen), path)


def out_degree_figure(graphs: list[Graph], seen: int) -> plt.Figure:
    """How many categories listen to each seen one: hubs at the left, the unreached at the right."""
    figure, axis = plt.subplots(figsize=(7, 4))
    most = 1
    for graph in graphs:
        out_degree = np.bincount(graph.table[graph.table != ABSENT], minlength=seen)[:seen]
        axis.plot(np.arange(1, seen + 1), np.sort(out_degree)[::-1], label=graph.title)
        most = max(most, out_degree.max(initial=0))
    axis.set(
        xscale="log",
        yscale="symlog",
        xlabel="seen categories, most heard first",
        ylabel="listeners",
    )
    axis.set_xlim(
        1, max(seen, 2)
    )  # a margin would be places before the first, and fewer listeners than none
    axis.set_ylim(0, 1.3 * most)
    axis.legend()
    return figure


def save(figure: plt.Figure, path: Path) -> None:
    with whole_file(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about letters that no font has
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)
