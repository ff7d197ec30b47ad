"""The picture at the end: test images with what CLIP and C²SRT see in them.

Right and wrong differ in colour (Okabe & Ito's blue and vermilion) *and* sign (✓ ✗); unseen
categories are boxed.
"""

from pathlib import Path

import matplotlib
import numpy as np

from c2srt.demo.words import Category
from c2srt.files import whole_file

matplotlib.use("Agg")
from matplotlib import pyplot  # the backend comes first: no display is needed

RIGHT, WRONG, BOX = "#0072B2", "#D55E00", "#E69F00"
SHOWN, LINES = 8, 10


def draw_predictions(path: Path, test, clip: np.ndarray, model: np.ndarray) -> None:
    """Writes a PNG of the first `SHOWN` test images (not chosen: ids are hashes) with each scorer's
    best `LINES` categories.

    clip, model: their scores [`SHOWN`, C]; `test` a c2srt.demo.measure.Split.
    """
    figure, axes = pyplot.subplots(
        SHOWN // 2, 6, figsize=(15, 13), width_ratios=[1.15, 1, 1] * 2, dpi=100
    )
    for number in range(SHOWN):
        picture, left, right = axes[number % (SHOWN // 2), 3 * (number // (SHOWN // 2)) :][:3]
        picture.imshow(test.images[number].permute(1, 2, 0).numpy(), interpolation="nearest")
        picture.axis("off")
        write_ranking(
            left, "CLIP zero-shot", clip[number], test.truth[number], test.world.categories
        )
        write_ranking(right, "C²SRT", model[number], test.truth[number], test.world.categories)
    figure.suptitle(
        f"Miniature test images: the {LINES} best of {len(test.world.categories)} categories      "
        "✓ true (blue)   ✗ false (vermilion)   boxed: unseen in training",
        fontsize=14,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    pyplot.close(figure)


def write_ranking(
    axis, title: str, scores: np.ndarray, truth: np.ndarray, categories: tuple[Category, ...]
) -> None:
    """The best categories of one image, best first: scores, truth [C]."""
    axis.axis("off")
    best = np.argsort(-scores, kind="stable")[:LINES]
    axis.set_title(f"{title}: {truth[best].sum()} of {LINES}", fontsize=11, loc="left")
    for line, column in enumerate(best):
        category, sign = categories[column], "✓" if truth[column] else "✗"
        box = (
            None
            if category.seen
            else {"facecolor": "none", "edgecolor": BOX, "linewidth": 1.5, "pad": 1.5}
        )
        axis.text(
            0.02,
            0.95 - line / (LINES + 0.5),
            f"{sign} {category.name}",
            transform=axis.transAxes,
            fontsize=11,
            va="top",
            bbox=box,
            color=RIGHT if truth[column] else WRONG,
            family="DejaVu Sans",
        )
