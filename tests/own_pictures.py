"""A small data set of one's own, as people have them: a folder of PNGs with blanks, umlauts,
brackets and quotes in their names, and a table of their labels. The pictures are the miniature's,
which the package's own CLIP can read.
"""

import csv
from pathlib import Path

from PIL import Image

from c2srt.demo.draw import PLAIN, Picture, random_picture, render
from c2srt.demo.words import FIRST

NAMES = ("Foto {} (2)", "Äpfel & Öl {}", "bild [{}]", "it's {}", '"a" {}', "x,y;z {}", "{}.b.c")


def write_pictures(folder: Path, count: int, seed: int = 0, split: str = "own") -> list[list[str]]:
    """`folder`/…png; returns (file name, label, label, …) of each, the labels in sorted order."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        picture = random_picture(FIRST, seed, split, number)
        name = f"{NAMES[number % len(NAMES)].format(number)}.png"
        Image.fromarray(render(picture)).save(folder / name)
        rows.append([name, *words_of(picture)])
    return rows


def words_of(picture: Picture) -> list[str]:
    """The scene, and the colours, shapes and patterns of its things."""
    words = {picture.scene}
    for thing in picture.things:
        words |= {thing.colour, thing.shape} | ({thing.pattern} - {PLAIN})
    return sorted(words)


def write_table(path: Path, rows: list[list[str]], folder: str = "", mark: str = "|") -> None:
    """A CSV with the columns image and labels; `folder` stands before each name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["image", "labels"])
        lines.writerows([f"{folder}{name}", mark.join(labels)] for name, *labels in rows)
