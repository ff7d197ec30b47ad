"""Figure 6(b)."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from c2srt.figures.ap_change import ApChange
from c2srt.figures.draw.style import GREY, INK, SEEN, UNSEEN, WIDTH, note, short

NAMED = 3


def draw(found: ApChange) -> Figure:
    """Seen and unseen categories, each sorted by the change; the panels share the scale and are as
    wide as is legible.
    """
    groups = [
        ("seen", SEEN, np.flatnonzero(found.seen)),
        ("unseen", UNSEEN, np.flatnonzero(~found.seen)),
    ]
    groups = [group for group in groups if len(group[2])]
    figure, axes = plt.subplots(
        1,
        len(groups),
        figsize=(WIDTH, 2.6),
        sharey=True,
        squeeze=False,
        gridspec_kw={"wspace": 0.06},
    )
    for axis, (name, colour, rows) in zip(axes[0], groups, strict=True):
        draw_group(axis, found, rows, name, colour)
    axes[0, 0].set_ylabel("change of AP by the ISR (points)")
    note(
        figure,
        "AP of each category with the ISR minus AP without, in percentage points (per_class, GZSL);"
        " dashed: the mean. Named: the greatest gains and losses.",
    )
    return figure


def draw_group(axis: Axes, found: ApChange, rows: np.ndarray, name: str, colour: str) -> None:
    order = rows[np.argsort(-found.change[rows], kind="stable")]
    change = 100 * found.change[order]
    edges = np.arange(len(order) + 1)
    axis.stairs(change, edges, fill=True, color=colour, alpha=0.75, linewidth=0)
    axis.axhline(0, color=INK, linewidth=0.6)
    axis.axhline(change.mean(), color=GREY, linewidth=0.9, linestyle="--")
    sums = f"mean {signed(change.mean())}, {(change > 0).sum():,} gain, {(change < 0).sum():,} lose"
    axis.set(
        xlim=(0, len(order)),
        xlabel=f"{name} categories, sorted",
        title=f"{name} ({len(order):,}): {sums}",
    )
    few = min(NAMED, len(order) // 2)
    text: dict[str, Any] = {"fontsize": 6, "transform": axis.transAxes, "linespacing": 1.35}
    axis.text(
        0.97,
        0.97,
        "\n".join(line(found, order[i]) for i in range(few)),
        ha="right",
        va="top",
        **text,
    )
    axis.text(
        0.03,
        0.03,
        "\n".join(line(found, order[-1 - i]) for i in reversed(range(few))),
        ha="left",
        va="bottom",
        **text,
    )


def line(found: ApChange, row: int) -> str:
    return f"{short(found.names[row], 26)} {signed(100 * found.change[row])}"


def signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")
