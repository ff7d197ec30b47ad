"""VG-256 of Visual Genome: its objects, under 256 categories.

    objects.json                 of every image the names of its objects (version 1.2)
    VG_100K/, VG_100K_2/         <image>.jpg
    vg256.json                   category → names of objects that are of it (or data.categories)

The rule, split included, is that of github.com/xiemk/MLC-PAT, data/vg256/format_vg256.py (Xie et
al., ICML 2024), where vg256.json lies, too. It has no division into seen and unseen categories.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.opened import misfit, parse_json, read_bytes, reason, wrong
from c2srt.sharding.config import DataConfig
from c2srt.sharding.large_json import AGAIN, read_kept, rows_of
from c2srt.sharding.standard_set import LISTED, Classes, Images, StandardSet, local_root, require
from c2srt.shown import shown

FOLDERS = ("VG_100K", "VG_100K_2")
KEPT = ("image_id", "objects", "names")
CATEGORIES = "vg256.json"
SOURCE = "data/vg256/vg256.json of github.com/xiemk/MLC-PAT"
DIGITS = 7  # of an image's number, so that ids sort as numbers do
TEST_SHARE, SEED = 0.3, 1
PUBLISHED = {  # of DualPrompt, section 6.1: 106,702 images in all
    f"train: {LISTED}": 74_691,
    f"test: {LISTED}": 32_011,
}
ATTRIBUTES = frozenset(
    [
        *("white", "black", "blue", "green", "red", "brown", "yellow", "orange", "gray", "grey"),
        *("pink", "silver", "wooden", "metal", "small", "large", "tall", "long", "dark"),
    ]
)
"""Words before an object's own name that the rule leaves out: "small white dog" is a dog."""


class VisualGenome(StandardSet):
    """The reader of this layout."""

    title = "VG-256"
    keys = ("categories",)

    @property
    def categories(self) -> Path:
        return Path(self.data.categories or self.root / CATEGORIES)

    @cached_property
    def words(self) -> dict[str, list[str]]:
        """Category → names of objects. Raises UserError where the file is none."""
        return read_categories(self.categories)

    @cached_property
    def classes(self) -> Classes:
        names = tuple(self.words)
        return Classes(names, names, tuple(range(len(names))))

    def files(self, split: str) -> list[Path]:
        if split not in ("train", "test"):
            raise UserError(f"VG-256 has no split {shown(split)}: choose 'splits=[train,test]'")
        objects = require(self.root / "objects.json", "Visual Genome's objects_v1_2.json.zip")
        return [objects, require(self.categories, SOURCE)]

    def read(self, split: str) -> Images:
        return self.every

    @cached_property
    def every(self) -> Images:
        """All images of objects.json."""
        path = self.root / "objects.json"
        value = read_kept(path, KEPT)
        numbers = rows_of({"images": value}, "images", {"image_id": int}, path)["image_id"]
        column = {
            word: at for at, words in enumerate(self.words.values()) for word in words
        }  # a word of two categories is of the later one, as published
        present = np.zeros((len(numbers), len(self.words)), bool)
        for row, image in enumerate(value):
            for name in first_names(image, path):
                if (at := column.get(object_of(name))) is not None:
                    present[row, at] = True
        ids = [f"{number:0{DIGITS}}" for number in numbers]
        if len(set(ids)) < len(ids) or (numbers < 0).any():
            raise wrong(path, "has an image twice, or one that has no number", AGAIN)
        second = names_in(self.root / FOLDERS[1]) - names_in(self.root / FOLDERS[0])
        files = [f"{number}.jpg" for number in numbers]
        places = [f"{FOLDERS[name in second]}/{name}" for name in files]
        return Images(pl.DataFrame({"id": ids, "file": places}), present)

    def chosen(self, split: str, images: Images) -> np.ndarray:
        """Of the images with a label, in the order of their numbers, 70 % drawn for train."""
        labelled = np.flatnonzero(images.present.any(1))
        ordered = labelled[images.frame[labelled]["id"].arg_sort().to_numpy()]
        drawn = np.random.RandomState(SEED).permutation(len(ordered))
        of_train = len(ordered) - round(TEST_SHARE * len(ordered))
        found = np.zeros(len(images.frame), bool)
        found[ordered[drawn[:of_train] if split == "train" else drawn[of_train:]]] = True
        return found

    def why_left_out(self, split: str) -> str:
        return "they are of the other split, or have no label"

    def published(self) -> dict[str, float]:
        return dict(PUBLISHED)


def find(data: DataConfig) -> VisualGenome:
    """What lies in `data.root`. Raises UserError where it is no folder, or the categories are
    absent or none.
    """
    holds = "objects.json, vg256.json, VG_100K/ and VG_100K_2/"
    found = VisualGenome(data, local_root(data, "Visual Genome", holds))
    require(found.categories, SOURCE)
    for folder in FOLDERS:
        if not (found.root / folder).is_dir():
            raise UserError(f"{found.root / folder} is not a folder: unpack the images there")
    return found


def read_categories(path: Path) -> dict[str, list[str]]:
    """Raises UserError unless it is a JSON object of lists of words."""
    text = read_bytes(path, f"download {SOURCE}")
    try:
        value = parse_json(text)
    except ValueError as error:
        raise wrong(path, f"is not valid JSON ({reason(error)})", f"download {SOURCE}") from None
    if unlike := misfit(text, dict[str, list[str]]):
        raise wrong(path, f"is no list of categories ({unlike})", f"download {SOURCE}")
    if len(value) < 2 or not all(words and name.strip() for name, words in value.items()):
        raise wrong(path, "has a category without a name or words", f"download {SOURCE}")
    return dict(value)


def first_names(image: dict[str, Any], path: Path) -> list[str]:
    """The first name of each object of an image. Raises UserError where there is none."""
    objects = image.get("objects")
    try:
        names = [each["names"][0] for each in objects or []]
    except (KeyError, IndexError, TypeError):
        names = [None]
    if not isinstance(objects, list) or not all(isinstance(name, str) for name in names):
        raise wrong(path, f"has objects without a name in image {image['image_id']}", AGAIN)
    return names


def object_of(name: str) -> str:
    """An object's name in small letters, without a full stop, and without the attributes before it
    if nothing else stands there.
    """
    clean = name.lower().strip()
    clean = clean[:-1].strip() if clean.endswith(".") else clean
    words = clean.split()
    return words[-1] if len(words) > 1 and ATTRIBUTES.issuperset(words[:-1]) else clean


def names_in(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}
