"""The ISR's patches on the photo."""

from typing import cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from c2srt.figures.draw.style import MARKS, NOVEL, WIDTH, legend_of_marks, note, short, show_photo
from c2srt.figures.patches import Choice, Chosen

SCALE = "cividis"
TICKS = tuple(step * 10.0**power for power in (-3, -2, -1) for step in (1, 1.5, 2, 3, 5, 7))


def draw(chosen: Chosen) -> Figure:
    """A row a photo, a panel a category: taken patches are outlined and coloured by their softmax
    score, the rest is dimmed.
    """
    most = max(map(len, chosen.choices.values()))
    side = min(WIDTH / (1 + most), 1.75)
    figure, axes = plt.subplots(
        len(chosen.photos),
        1 + most,
        figsize=((1 + most) * side, len(chosen.photos) * (side + 0.5)),
        squeeze=False,
        gridspec_kw={"wspace": 0.06, "hspace": 0.42},
    )
    norm = scale_of(chosen)
    for (image, photo), line in zip(chosen.photos.items(), axes, strict=True):
        for axis in line[1 + len(chosen.choices[image]) :]:
            axis.axis("off")
        show_photo(line[0], photo)
        for axis, choice in zip(line[1:], chosen.choices[image], strict=False):
            draw_choice(axis, photo, choice, chosen.categories, norm)
    low, high = cast(tuple[float, float], (norm.vmin, norm.vmax))  # `scale_of` gives both
    ticks = [tick for tick in TICKS if low <= tick <= high]
    bar = figure.colorbar(
        ScalarMappable(norm, SCALE), ax=axes, location="bottom", fraction=0.012, pad=0.05, aspect=70
    )
    bar.ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label("softmax score of a patch that is taken (logarithmic)")
    note(
        figure,
        "Patches that the ISR takes for a category; Σ: their softmax scores together."
        f" {legend_of_marks()}. Yellow: a category that is unseen in training.",
    )
    return figure


def scale_of(chosen: Chosen) -> Normalize:
    """One logarithmic scale for all panels."""
    scores = np.concatenate(
        [choice.softmax[choice.taken] for choices in chosen.choices.values() for choice in choices]
    )
    return LogNorm(scores.min(), max(scores.max(), 1.001 * scores.min()))


def draw_choice(
    axis: Axes, photo: np.ndarray, choice: Choice, categories: int, norm: Normalize
) -> None:
    dim = photo.mean(-1) * 0.55
    show_photo(axis, dim, cmap="gray", vmin=0, vmax=255)
    rows, columns = choice.taken.shape
    for row, column in np.argwhere(choice.taken):
        place, colour = (
            (column / columns, 1 - (row + 1) / rows),
            plt.get_cmap(SCALE)(norm(choice.softmax[row, column])),
        )
        cut = photo[
            round(row * len(photo) / rows) : round((row + 1) * len(photo) / rows),
            round(column * len(photo) / columns) : round((column + 1) * len(photo) / columns),
        ]
        extent = (place[0], place[0] + 1 / columns, place[1], place[1] + 1 / rows)
        axis.imshow(cut, extent=extent)
        axis.add_patch(
            plt.Rectangle(
                place,
                1 / columns,
                1 / rows,
                facecolor=(*colour[:3], 0.5),
                edgecolor="white",
                lw=0.5,
            )
        )
    axis.set(xlim=(0, 1), ylim=(0, 1))
    sign, ink = MARKS[choice.label]
    background = {"facecolor": NOVEL, "edgecolor": "none", "pad": 1.2} if choice.unseen else None
    axis.set_title(
        f"{sign} {short(choice.name, 24)}", fontsize=7, color=ink, pad=3, bbox=background
    )
    count, total = int(choice.taken.sum()), choice.softmax[choice.taken].sum()
    taken = f"{count} patch{'es' * (count > 1)}, Σ {total:.2f}"
    axis.set_xlabel(f"{taken}\nrank {choice.rank:,} of {categories:,}", fontsize=6, labelpad=2)
