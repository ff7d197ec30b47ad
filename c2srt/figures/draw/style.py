"""What all figures share: fonts, sizes in inches, colours, marks, saving at print resolution.

Colours are Okabe & Ito's, told apart by every kind of colour vision, and never the only sign:
right, wrong and not verified have a mark each, seen and unseen a hatch, a weight or a place.
"""

import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from c2srt.files import whole_file
from c2srt.relations.pictures import plain

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

WIDTH = 7.0
"""Inches: a page with two columns."""
DPI = 300
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, YELLOW = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
)
INK, GREY, PALE = "#222222", "#767676", "#D9D9D9"
SEEN, UNSEEN = BLUE, ORANGE
NOVEL = "#FBEFB0"
"""Background of unseen categories: a pale YELLOW, on which the colours of MARKS keep a contrast of
4.4 : 1 at least.
"""
MARKS = {1: ("✓", BLUE), -1: ("✗", "#B84A00"), 0: ("?", "#5A5A5A")}
"""By label: sign and colour of right, wrong (a darker VERMILION, for small letters) and not
verified.
"""
MEANING = {1: "present", -1: "absent", 0: "not verified"}
SETTINGS: "dict[RcKeyType, Any]" = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "figure.titlesize": 9,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib with the settings of this file; figures must be saved inside."""
    with plt.rc_context(SETTINGS):
        yield


def save(figure: Figure, folder: Path, stem: str) -> None:
    """Writes <stem>.png and <stem>.pdf, each whole or not at all, and closes the figure."""
    for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        with whole_file(folder / f"{stem}.{kind}") as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about letters that no font has
            figure.savefig(temporary, format=kind, dpi=DPI, bbox_inches="tight", metadata=metadata)
    plt.close(figure)


def short(name: str, letters: int) -> str:
    """A category's name, cut to a number of letters, that matplotlib does not take for a
    formula.
    """
    return plain(cut(name, letters))


def cut(name: str, letters: int) -> str:
    """At most so many letters of a name; what stands in brackets at its end stays, as it may be all
    that tells two names apart.
    """
    if len(name) <= letters:
        return name
    bracket = re.search(r" \([^()]*\)$", name)
    end = bracket[0] if bracket and len(bracket[0]) <= letters - 3 else ""
    return f"{name[: letters - 1 - len(end)].rstrip()}…{end}"


def fitted(name: str, points: float, size: float, weight: str) -> str:
    """A name cut to a width in points."""
    font = FontProperties(family=SETTINGS["font.family"], size=size, weight=weight)
    for letters in range(len(name), 0, -1):
        some = cut(name, letters)
        if TextPath((0, 0), some, prop=font).get_extents().width <= points:
            break
    return plain(some)


def wrapped(name: str, letters: int, lines: int = 2) -> str:
    """A name over at most `lines` lines of about `letters` letters."""
    for some in (cut(name, count) for count in range(len(name), 0, -1)):
        if len(found := textwrap.wrap(some, letters)) <= lines:
            break
    return plain("\n".join(found))


def show_photo(axis: Axes, photo, **settings) -> None:
    """A photo [side, side, 3], or a map, on axes of 0…1 without ticks, the first row on top."""
    axis.imshow(photo, extent=(0, 1, 0, 1), **settings)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)


def note(figure: Figure, text: str) -> None:
    """Sentences under everything that is drawn: what the figure shows, and over what."""
    figure.canvas.draw()  # places axes and their labels
    lowest = (
        min(box.y0 for axis in figure.axes if (box := axis.get_tightbbox()) is not None)
        / figure.bbox.height
    )
    lines = plain(
        "\n".join(textwrap.wrap(text, round(19 * figure.get_figwidth()), break_on_hyphens=False))
    )
    figure.text(
        0.5,
        lowest - 0.06 / figure.get_figheight(),
        lines,
        ha="center",
        va="top",
        fontsize=6.5,
        linespacing=1.4,
    )


def legend_of_marks(words: dict[int, str] = MEANING) -> str:
    """What the marks mean, for a note; a mark and its words stay on one line."""
    return "   ".join(
        f"{sign} {words[label]}".replace(" ", "\u00a0") for label, (sign, _) in MARKS.items()
    )


def ink_on(colour: tuple[float, ...]) -> str:
    """White or INK, whichever is legible on a colour (relative luminance of WCAG)."""
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in colour[:3]
    )
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.2 else INK
