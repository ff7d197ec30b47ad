"""Figure 11, and what figure 8 shares with it."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from c2srt.figures.draw.style import MARKS, NOVEL, WIDTH, fitted, legend_of_marks, note, show_photo
from c2srt.figures.predictions import BEST, Label, Predictions

ABREAST = 2
HEIGHT = 1.12
MARGIN = 14
"""Points of a column that the mark and the gap to the next column take."""


def draw(predictions: Predictions) -> Figure:
    """Two photos abreast, each with a column of labels for every model."""
    models = list(next(iter(predictions.best.values())))
    lines = -(-len(predictions.photos) // ABREAST)
    wide = [0.95, *[(WIDTH / ABREAST - 0.95) / len(models)] * len(models)]
    figure, axes = plt.subplots(
        lines,
        ABREAST * len(wide),
        figsize=(WIDTH, HEIGHT * lines),
        squeeze=False,
        gridspec_kw={
            "width_ratios": wide * ABREAST,
            "wspace": 0.05,
            "hspace": 0.12,
            "left": 0,
            "right": 1,
            "bottom": 0,
            "top": 1,
        },
    )
    for axis in axes.flat:
        axis.axis("off")
    for number, (image, photo) in enumerate(predictions.photos.items()):
        block = axes[number // ABREAST, number % ABREAST * len(wide) :][: len(wide)]
        show_photo(block[0], photo)
        for axis, model in zip(block[1:], models, strict=True):
            write_labels(axis, model, predictions.best[image][model], wide[1] * 72 - MARGIN)
    words = {1: "right (verified present)", -1: "wrong (verified absent)", 0: "not verified"}
    note(
        figure,
        f"The {BEST} best categories of each model. {legend_of_marks(words)}. Yellow, bold:"
        f" {predictions.marked}.",
    )
    return figure


def write_labels(axis: Axes, model: str, labels: list[Label], points: float) -> None:
    axis.text(0.02, 0.98, model, weight="bold", fontsize=6.5, va="top", transform=axis.transAxes)
    for line, label in enumerate(labels):
        sign, colour = MARKS[label.label]
        background = {"facecolor": NOVEL, "edgecolor": "none", "pad": 1.0} if label.novel else None
        weight = "bold" if label.novel else "normal"
        name = fitted(label.name, points, 6, weight)
        axis.text(
            0.02,
            0.80 - 0.155 * line,
            f"{sign} {name}",
            fontsize=6,
            va="top",
            color=colour,
            bbox=background,
            weight=weight,
            transform=axis.transAxes,
        )
