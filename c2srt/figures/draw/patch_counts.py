"""Figure 6(a)."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from c2srt.figures.draw.style import SEEN, UNSEEN, WIDTH, note
from c2srt.figures.patch_counts import POSITIVES, PatchCounts

HEADROOM = 1.4
"""Room for the legend above the bars."""
KINDS = (("seen", SEEN, None), ("unseen", UNSEEN, "////"))


def draw(counts: PatchCounts) -> Figure:
    """Three distributions over categories: the best fixed k by AP and by F1, and the mean number
    that the adaptive ISR takes.
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.3), gridspec_kw={"wspace": 0.42})
    draw_best(axes[0], counts, counts.best, "AP")
    draw_best(axes[1], counts, counts.best_f1, f"F1@{counts.topk}")
    draw_taken(axes[2], counts)
    for axis, letter in zip(axes, "abc", strict=True):
        axis.set_title(f"({letter}) {axis.get_title()}")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(0, HEADROOM * axis.get_ylim()[1])
    each = [
        f"k = {k}: {100 * value:.1f} / {100 * f1:.1f}"
        for k, value, f1 in zip(
            counts.tried, np.nanmean(counts.ap, 1), counts.micro[1:], strict=True
        )
    ]
    told, by_f1 = (counts.best > 0).sum(), (counts.best_f1 > 0).sum()
    adaptive = f"{100 * np.nanmean(counts.adaptive):.1f} / {100 * counts.micro[0]:.1f}"
    note(
        figure,
        f"{counts.images:,} images. (a), (b): {told:,} and {by_f1:,} of {len(counts.best):,}"
        f" categories: those with at least {POSITIVES} positives whose AP, or F1 of the"
        f" {counts.topk} best labels of an image, depends on k; equals count for the smaller k. mAP"
        f" (per_class) / micro F1@{counts.topk} (%, GZSL): {', '.join(each)}, adaptive: {adaptive}."
        " (c): mean over the images in which the category is present.",
    )
    return figure


def draw_best(axis: Axes, counts: PatchCounts, chosen: np.ndarray, what: str) -> None:
    """Of the k [C] that were chosen by AP or F1."""
    places = np.arange(len(counts.tried))
    for number, (name, colour, hatch) in enumerate(KINDS):
        best = chosen[(counts.seen == (name == "seen")) & (chosen > 0)]
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
        title=f"The k of the best {what}",
    )
    if (chosen > 0).any():
        axis.legend(loc="upper right")
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
        title="What the ISR takes",
    )
    axis.legend(loc="upper right")
