"""Raw lists as Open Images has them, of one split and three categories."""

import csv
import io
from pathlib import Path

from tests.raw_images import HEADER

A, B, C, D = "00000000000000aa", "7fffffffffffffff", "8000000000000000", "ffffffffffffffff"


NAMES = {"/m/cat": "Cat", "/m/dog": "Dog, or hound", "/g/11fox": "Fox"}


def image_row(
    image_id: str,
    split: str = "train",
    title: str = "A title",
    size: object = 10,
    rotation: str = "0.0",
) -> list:
    return [
        image_id,
        split,
        f"http://x/{image_id}",
        "http://l",
        "CC BY",
        "http://p",
        "Ann, the author",
        title,
        size,
        "bWQ1",
        "http://t",
        rotation,
    ]


def text_of(rows: list[list], newline: str = "\n") -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator=newline).writerows(rows)
    return text.getvalue()


def write_root(
    root: Path, images: list[list], labels: list[tuple], split: str = "train", rotation: bool = True
) -> Path:
    """A raw folder of one split; labels are (id, MID, confidence)."""
    folder = root / "2018_04" / split
    folder.mkdir(parents=True, exist_ok=True)
    (root / "2018_04" / "class-descriptions.csv").write_text(
        text_of([[mid, name] for mid, name in NAMES.items()])
    )
    width = 12 if rotation else 11
    (folder / "images.csv").write_text(text_of([HEADER[:width], *(row[:width] for row in images)]))
    rows = [
        ["ImageID", "Source", "LabelName", "Confidence"],
        *([i, "verification", mid, value] for i, mid, value in labels),
    ]
    (folder / f"{split}-annotations-human-imagelabels.csv").write_text(text_of(rows))
    return root
