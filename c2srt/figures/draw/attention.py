"""Figure 7."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from c2srt.figures.attention import Relations, Row
from c2srt.figures.draw.style import GREY, WIDTH, ink_on, note, wrapped

SCALE = "Blues"


def draw(relations: Relations) -> Figure:
    """A row an unseen category, a cell a neighbour with its name and weight; itself and the other
    neighbours in columns apart.
    """
    rows, most = relations.rows, max(len(row.neighbours) for row in relations.rows)
    extra = [
        title
        for title, values in (
            ("itself", [row.itself for row in rows]),
            ("others", [row.others for row in rows]),
        )
        if any(value is not None for value in values)
    ]
    figure, axis = plt.subplots(figsize=(WIDTH, 0.36 * len(rows) + 0.5))
    values = weights_of(rows, most, extra)
    picture = axis.pcolormesh(
        values, cmap=SCALE, vmin=0, vmax=np.nanmax(values), edgecolors="white", linewidth=1.2
    )
    for place, row in enumerate(rows):
        write_row(axis, place, row, values[place], most, picture)
    titles = [f"neighbour {number + 1}" for number in range(most)] + extra
    axis.set(
        xticks=np.arange(len(titles)) + 0.5,
        xticklabels=titles,
        yticks=np.arange(len(rows)) + 0.5,
        yticklabels=[
            f"{wrapped(row.name, 22)}\n({row.images} image{'s' * (row.images > 1)})" for row in rows
        ],
    )
    axis.invert_yaxis()
    axis.tick_params(length=0)
    axis.xaxis.tick_top()
    for spine in axis.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(picture, ax=axis, fraction=0.025, pad=0.015)
    bar.set_label("attention weight")
    note(
        figure,
        "How much an unseen category (left) listens to its seen neighbours: attention weights of"
        f" the IST's first layer, mean over heads and over images of split {relations.split} that"
        " contain the category. A row sums to"
        f" 1.{' Neighbours are those of an oracle graph.' if relations.oracle else ''}",
    )
    return figure


def weights_of(rows: list[Row], most: int, extra: list[str]) -> np.ndarray:
    """The weights [rows, most + extra]: of the neighbours, then of the columns apart; NaN where
    there is none.
    """
    values = np.full((len(rows), most + len(extra)), np.nan)
    for place, row in enumerate(rows):
        values[place, : len(row.neighbours)] = row.weights
        values[place, most:] = [
            np.nan if value is None else value for value in (getattr(row, title) for title in extra)
        ]
    return values


def write_row(
    axis: Axes, place: int, row: Row, values: np.ndarray, most: int, picture: QuadMesh
) -> None:
    for column, value in enumerate(values):
        if np.isnan(value):
            axis.text(column + 0.5, place + 0.5, "–", ha="center", va="center", color=GREY)
            continue
        name = f"{wrapped(row.neighbours[column], 18)}\n" if column < most else ""
        axis.text(
            column + 0.5,
            place + 0.5,
            f"{name}{value:.2f}",
            ha="center",
            va="center",
            fontsize=5.5,
            linespacing=1.05,
            color=ink_on(tuple(picture.to_rgba(value))),
        )
