"""Figures 4, 5 and 9."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from c2srt.evaluation.metric_state import LABEL_SETS
from c2srt.figures.curves import Curves
from c2srt.figures.draw.style import BLUE, GREEN, ORANGE, PURPLE, VERMILION, WIDTH, note, short

LOOKS = (
    (BLUE, "o", "-"),
    (VERMILION, "s", "--"),
    (GREEN, "^", "-."),
    (PURPLE, "D", ":"),
    (ORANGE, "v", "-"),
)
TITLES = {"zsl": "(a) ZSL", "gzsl": "(b) GZSL"}


def draw(curves: Curves) -> Figure:
    """mAP above F1@K, ZSL beside GZSL: every trial a point, their mean a line, their range a
    band.
    """
    figure, axes = plt.subplots(
        2, 2, figsize=(WIDTH, 3.6), sharex=True, gridspec_kw={"hspace": 0.12, "wspace": 0.18}
    )
    for column, label_set in enumerate(LABEL_SETS):
        for number, (metric, trials) in enumerate(curves.values[label_set].items()):
            axis = axes[0 if metric == "mAP" else 1, column]
            draw_curve(axis, curves.x, trials, metric, *LOOKS[number % len(LOOKS)])
        axes[0, column].set_title(TITLES[label_set])
        axes[1, column].set(
            xticks=range(len(curves.x)),
            xticklabels=[f"{value:g}" for value in curves.x],
            xlabel=curves.axis,
        )
        for axis in axes[:, column]:
            if axis.lines:
                axis.legend(loc="best")
            else:
                axis.text(
                    0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes
                )
    axes[0, 0].set_ylabel("mAP (%)")
    axes[1, 0].set_ylabel("F1 (%)")
    most = max(
        len(trials)
        for metrics in curves.values.values()
        for values in metrics.values()
        for trials in values
    )
    what = f"Points: trials (up to {most}); line: their mean; band: from the least to the greatest."
    what = what if most > 1 else "One trial a point."
    note(figure, f"{what} mAP by the protocol per_class, F1 micro over images with a positive.")
    return figure


def draw_curve(
    axis: Axes,
    x: list[float],
    trials: list[list[float]],
    metric: str,
    colour: str,
    marker: str,
    line: str,
) -> None:
    """Values of x are set at equal distances, since they grow by factors as often as by steps."""
    places, percent = np.arange(len(x)), [100 * np.array(values) for values in trials]
    least, mean, most = (
        [getattr(values, name)() for values in percent] for name in ("min", "mean", "max")
    )
    axis.fill_between(places, least, most, color=colour, alpha=0.18, linewidth=0)
    axis.plot(places, mean, color=colour, linestyle=line, marker=marker, label=short(metric, 12))
    for place, values in zip(places, percent, strict=True):
        if len(values) > 1:
            axis.plot(
                np.full(len(values), place),
                values,
                linestyle="none",
                marker=marker,
                markersize=2,
                color=colour,
                alpha=0.6,
            )
