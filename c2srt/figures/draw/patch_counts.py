"""Figure 6(a)."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from c2srt.figures.draw.style import SEEN, UNSEEN, WIDTH, note
from c2srt.figures.patch_counts import POSITIVES, PatchCounts

KINDS = (("seen", SEEN, None), ("unseen", UNSEEN, "////"))


def draw(counts: PatchCounts) -> Figure:
    """Two distributions over categories: the best fixed k, and the mean number that the adaptive
    ISR takes.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.5), gridspec_kw={"wspace": 0.28})
    draw_best(axes[0], counts)
    draw_taken(axes[1], counts)
    for axis, letter in zip(axes, "ab", strict=True):
        axis.set_title(f"({letter}) {axis.get_title()}")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(bottom=0)
    each = [
        f"k = {k}: {100 * value:.1f}"
        for k, value in zip(counts.tried, np.nanmean(counts.ap, 1), strict=True)
    ]
    told, every, adaptive = (
        (counts.best > 0).sum(),
        len(counts.best),
        100 * np.nanmean(counts.adaptive),
    )
    note(
        figure,
        f"{counts.images:,} images. (a): {told:,} of {every:,} categories: those with at least"
        f" {POSITIVES} positives whose AP depends on k; equal APs count for the smaller k. mAP (%,"
        f" GZSL, per_class): {', '.join(each)}, adaptive: {adaptive:.1f}. (b): mean over the images"
        " in which the category is present.",
    )
    return figure


def draw_best(axis: Axes, counts: PatchCounts) -> None:
    places = np.arange(len(counts.tried))
    for number, (name, colour, hatch) in enumerate(KINDS):
        best = counts.best[(counts.seen == (name == "seen")) & (counts.best > 0)]
        share = [100 * float((best == k).mean()) if len(best) else 0.0 for k in counts.tried]
        bars = axis.bar(
            places + 0.4 * (number - 0.5),
            share,
            0.38,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.5,
            label=f"{name} ({len(best):,})",
        )
        axis.bar_label(
            bars, [f"{value:.0f}" if value else "" for value in share], fontsize=5.5, padding=1
        )
    axis.set(
        xticks=places,
        xticklabels=counts.tried,
        xlabel="k patches for every category",
        ylabel="share of categories (%)",
        title="The k of a category's best AP",
    )
    if (counts.best > 0).any():
        axis.legend()
    else:
        axis.text(0.5, 0.5, "too few positives", ha="center", va="center", transform=axis.transAxes)


def draw_taken(axis: Axes, counts: PatchCounts) -> None:
    taken = [
        counts.taken[(counts.seen == (name == "seen")) & ~np.isnan(counts.taken)]
        for name, _, _ in KINDS
    ]
    every = np.concatenate(taken)
    edges = np.linspace(every.min(), max(every.max(), every.min() + 1), 21)
    for (name, colour, hatch), some in zip(KINDS, taken, strict=True):
        fill = "none" if hatch else to_rgba(colour, 0.45)
        axis.hist(
            some,
            edges.tolist(),
            weights=np.full(len(some), 100 / max(len(some), 1)),
            histtype="stepfilled",
            edgecolor=colour,
            facecolor=fill,
            hatch=hatch,
            linewidth=1.0,
            label=f"{name} ({len(some):,})",
        )
    axis.set(
        xlabel="mean number of patches taken",
        ylabel="share of categories (%)",
        title="What the adaptive ISR takes",
    )
    axis.legend()
