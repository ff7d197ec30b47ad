"""MS-COCO as it is unpacked.

    annotations/instances_{train,val}{2014,2017}.json    images, annotations, 80 categories
    {train,val}{2014,2017}/<file_name>                   (or below images/)

A category is present in an image that has an annotation of it, a crowd too; all others are absent.
The splits are train and test, which is COCO's val. Which images of them belong to a division:

    all      those with a label
    48/17    train: with a label of a seen category; test: with one of the 65, or those of
             `data.test_images`, which is how papers have it
    65/15    train: with a seen label and no unseen one; test: with an unseen one
"""

import re
from pathlib import Path

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.opened import parse_json, read_bytes, reason, wrong
from c2srt.sharding.config import DataConfig
from c2srt.sharding.large_json import AGAIN, read_kept, rows_of
from c2srt.sharding.standard_set import (
    ALL,
    LISTED,
    POSITIVES,
    Images,
    YearlySet,
    local_root,
    require,
)
from c2srt.shown import shown

PARTS = {"train": "train", "test": "val"}
KEPT = ("images", "annotations", "categories", "id", "file_name", "image_id", "category_id", "name")
PAIRS = {"image_id": int, "category_id": int}
NAME = re.compile(r"[\w-]+\.jpg", re.ASCII)
NUMBER = re.compile(rb"(?<!\d)(\d{12})(?!\d)")

ZSL, GZSL = f"test: ZSL {POSITIVES}", f"test: GZSL {POSITIVES}"
PUBLISHED: dict[tuple[str, int], dict[str, float]] = {
    # images with an annotation, of 82,783 and 40,504, as multi-label papers count (DualPrompt,
    # section 6.1)
    (ALL, 2014): {f"train: {LISTED}": 82_081, f"test: {LISTED}": 40_137},
    # of 118,287 and 5,000
    (ALL, 2017): {f"train: {LISTED}": 117_266, f"test: {LISTED}": 4_952},
    # github.com/EricTan7/RAM, datasets/json/test_65_filtered.json: 16,429 labels on 6,392 images,
    # 3,295 of them unseen on 2,729
    ("48/17", 2014): {f"test: {LISTED}": 6_392, ZSL: 1.21, GZSL: 2.57},
    # OV-COCO of open-vocabulary detection (Zareian et al. 2021, arXiv:2011.10678)
    ("48/17", 2017): {f"train: {LISTED}": 107_761, f"test: {LISTED}": 4_836},
    # github.com/salman-h-khan/PL-ZSD_Release, MSCOCO/validation_coco_unseen_seen_all_gzsd.csv:
    # 32,909 labels on 10,098 images, 10,815 of them unseen
    ("65/15", 2014): {f"test: {LISTED}": 10_098, ZSL: 1.07, GZSL: 3.26},
}


class Coco(YearlySet):
    """The reader of this layout."""

    title = "MS-COCO"
    shipped = "coco"
    years = (2014, 2017)

    def annotations(self, split: str) -> Path:
        if split not in PARTS:
            raise UserError(f"MS-COCO has no split {shown(split)}: choose 'splits=[train,test]'")
        return self.root / f"annotations/instances_{PARTS[split]}{self.year}.json"

    def files(self, split: str) -> list[Path]:
        known = f"COCO's annotations_trainval{self.year}.zip"
        used = [require(self.annotations(split), known)]
        if split == "test" and self.data.test_images:
            used.append(Path(self.data.test_images))
        return used

    def read(self, split: str) -> Images:
        path = self.annotations(split)
        value = read_kept(path, KEPT)
        images = rows_of(value, "images", {"id": int, "file_name": str}, path)
        annotations = rows_of(value, "annotations", PAIRS, path)
        categories = rows_of(value, "categories", {"id": int, "name": str}, path)
        images = images.unique(maintain_order=True)
        check_images(images, path)
        column = columns_of(categories, self.classes.mids, path)
        row = {number: at for at, number in enumerate(images["id"])}
        found = annotations.unique()
        for name, known in (("image_id", row), ("category_id", column)):
            if len(odd := found.filter(~pl.col(name).is_in(list(known)))):
                raise wrong(path, f"has an annotation of {name} {odd[name][0]}, unknown", AGAIN)
        present = np.zeros((len(images), len(self.classes.mids)), bool)
        rows = [row[number] for number in found["image_id"]]
        present[rows, [column[number] for number in found["category_id"]]] = True
        folder = self.folder(f"{PARTS[split]}{self.year}")
        frame = images.select(
            id=pl.col("id").cast(pl.String).str.zfill(12),
            file=pl.lit(f"{folder}/") + pl.col("file_name"),
        )
        return Images(frame, present, notes=self.notes(split))

    def folder(self, name: str) -> str:
        """Where its images lie below the root. Raises UserError where they do not."""
        for folder in (name, f"images/{name}"):
            if (self.root / folder).is_dir():
                return folder
        raise UserError(f"{self.root / name} is not a folder: unpack COCO's {name}.zip there")

    def notes(self, split: str) -> list[str]:
        if split != "test" or self.divided != ("48/17", 2014) or self.data.test_images:
            return []
        return [
            "the published test images of 48/17 are a list of 6,392, not all that are tested here:"
            " name it by data.test_images=… (docs/datasets.md)"
        ]

    @property
    def divided(self) -> tuple[str, int]:
        return str(self.data.classes), self.year

    def chosen(self, split: str, images: Images) -> np.ndarray:
        seen, unseen = (
            np.any(images.present[:, list(columns)], axis=1)
            for columns in (self.classes.seen, self.classes.unseen)
        )
        if split == "test" and self.data.test_images:
            return listed(Path(self.data.test_images), images, self.annotations(split))
        if self.data.classes == "65/15":
            return seen & ~unseen if split == "train" else unseen
        return seen if split == "train" else seen | unseen

    def why_left_out(self, split: str) -> str:
        if split == "test" and self.data.test_images:
            return "they are not in data.test_images"
        if self.data.classes == "65/15":
            also = "they have no seen label, or an unseen one"
            return also if split == "train" else "they have no unseen label"
        return "they have no seen label" if split == "train" else "they have no label"

    def published(self) -> dict[str, float]:
        return dict(PUBLISHED.get(self.divided, {}))


def find(data: DataConfig) -> Coco:
    """What lies in `data.root`. Raises UserError where it is no folder, or a key is none."""
    root = local_root(data, "MS-COCO", "COCO's annotations/, train2014/ and val2014/")
    found = Coco(data, root)
    assert found.year and found.classes.mids
    return found


def check_images(images: pl.DataFrame, path: Path) -> None:
    """Raises UserError on a name that is none, or a number that two images have."""
    for name in images["file_name"]:
        if not NAME.fullmatch(name):
            raise wrong(path, f"has an image '{shown(name)}', which is no file's name", AGAIN)
    if len(twice := images.filter(pl.col("id").is_duplicated() | (pl.col("id") < 0))):
        raise wrong(path, f"has image {twice['id'][0]} twice, or it is none", AGAIN)


def columns_of(categories: pl.DataFrame, names: tuple[str, ...], path: Path) -> dict[int, int]:
    """Category's number (1 … 90, with gaps) → column. Raises UserError unless they are the 80."""
    numbers = dict(categories.unique(maintain_order=True).iter_rows())
    if sorted(numbers.values()) != sorted(names):
        odd = sorted({*numbers.values()} ^ {*names})
        about = f"'{shown(odd[0])}' is not in both" if odd else "one has two numbers"
        raise wrong(path, f"does not have COCO's 80 categories ({about})", AGAIN)
    column = {name: at for at, name in enumerate(names)}
    return {number: column[name] for number, name in numbers.items()}


def listed(path: Path, images: Images, annotations: Path) -> np.ndarray:
    """Which images a list names, bool [images]: a JSON file or lines in which the names of files
    (COCO_val2014_000000000042.jpg) or their 12 digits stand. Raises UserError where it is damaged,
    or names one that is not there.
    """
    text = read_bytes(path, "correct data.test_images")
    if path.suffix == ".json":
        try:
            parse_json(text)
        except ValueError as error:
            raise wrong(path, f"is not valid JSON ({reason(error)})", AGAIN) from None
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and len(NUMBER.findall(line)) != 1:
                raise UserError(f"{path}, line {number:,} names no image of COCO: correct it")
    names = {number.decode() for number in NUMBER.findall(text)}
    if not names:
        raise UserError(f"{path} names no image of COCO: correct data.test_images")
    if unknown := sorted(names - set(images.frame["id"])):
        raise UserError(
            f"{path} names image {unknown[0]}, which is not in {annotations}: is it of another"
            " year?"
        )
    return images.frame["id"].is_in(list(names)).to_numpy()
