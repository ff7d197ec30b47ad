"""Table 2."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from c2srt.figures.cam import Cams, Row
from c2srt.figures.draw.style import MARKS, WIDTH, legend_of_marks, note, short, show_photo


def draw(cams: Cams) -> Figure:
    """A row a photo: the photo with its categories, then a map for each model and category."""
    models, most = list(cams.rows[0].maps), max(len(row.columns) for row in cams.rows)
    columns = 1 + len(models) * most
    side, below = WIDTH / columns, 0.16 + 0.13 * most
    grid = {
        "wspace": 0.06,
        "hspace": below / side,
        "left": 0,
        "right": 1,
        "top": 1,
        "bottom": below / side / len(cams.rows),
    }
    figure, axes = plt.subplots(
        len(cams.rows),
        columns,
        figsize=(WIDTH, len(cams.rows) * (side + below)),
        squeeze=False,
        gridspec_kw=grid,
    )
    for row, line in zip(cams.rows, axes, strict=True):
        draw_row(row, line, models, most)
    for number, model in enumerate(models):
        first, last = axes[0, 1 + number * most], axes[0, (number + 1) * most]
        middle = (first.get_position().x0 + last.get_position().x1) / 2
        figure.text(
            middle,
            first.get_position().y1 + 0.06 / figure.get_figheight(),
            model,
            ha="center",
            va="bottom",
            fontsize=8,
            weight="bold",
        )
    note(
        figure,
        "Grad-CAM of a category's score at the output of the last block but one."
        f" {legend_of_marks()}. Every map has a scale of its own, from nothing to its peak; the"
        " number says how high that is, in percent of the model's highest peak on the photo, and 0"
        " that no patch speaks for the category.",
    )
    return figure


def draw_row(row: Row, line: np.ndarray, models: list[str], most: int) -> None:
    for axis in line:
        axis.axis("off")
    show_photo(line[0], row.photo)
    for place, (name, label) in enumerate(zip(row.names, row.labels, strict=True)):
        sign, colour = MARKS[label]
        line[0].text(
            0,
            -0.05 - 0.15 * place,
            f"{sign} {short(name, 20)}",
            color=colour,
            va="top",
            fontsize=6.5,
        )
    grey = row.photo.mean(-1)
    for number, model in enumerate(models):
        highest = max(float(found.max()) for found in row.maps[model])
        for place, found in enumerate(row.maps[model]):
            axis, (sign, colour) = line[1 + number * most + place], MARKS[row.labels[place]]
            show_photo(axis, grey, cmap="gray", vmin=0, vmax=255)
            if peak := float(found.max()):
                show_photo(
                    axis,
                    found / peak,
                    cmap="inferno",
                    vmin=0,
                    vmax=1,
                    interpolation="bilinear",
                    alpha=0.15 + 0.65 * found / peak,
                )
            share = 100 * peak / highest if peak else 0.0
            axis.text(
                0.5, -0.05, f"{sign} {share:.0f}", color=colour, ha="center", va="top", fontsize=6.5
            )
