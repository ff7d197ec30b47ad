"""PASCAL VOC as it is unpacked.

    ImageSets/Main/<category>_<part>.txt    an image a line: `000005 -1`, `000007  1`, `000012  0`
    JPEGImages/<image>.jpg

Train is trainval of 2007, whose test has labels, too; the test of 2012 has none, so train and val
of 2012 are train and test. A category is present (1), absent (-1), or there are only objects of it
that are hard to see (0, "difficult"): that is unknown, as VOC's own evaluation leaves them out.

    all      every image; all 20 categories are seen
    16/4     training images without one of the four; every test image
"""

import re
from pathlib import Path

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.sharding.config import DataConfig
from c2srt.sharding.csvs import damaged, read_lines
from c2srt.sharding.standard_set import (
    ALL,
    LISTED,
    Images,
    YearlySet,
    local_root,
    require,
    year_of,
)
from c2srt.shown import shown

PARTS = {
    2007: {"train": "trainval", "test": "test"},
    2012: {"train": "train", "test": "val"},
}
LINE = re.compile(r"(\w+)\s+(-1|0|1)", re.ASCII)
PUBLISHED = {  # of multi-label papers, such as DualCoOp; 2012: VOC's development kit, 11,540 in all
    2007: {f"train: {LISTED}": 5_011, f"test: {LISTED}": 4_952},
    2012: {f"train: {LISTED}": 5_717, f"test: {LISTED}": 5_823},
}


class Voc(YearlySet):
    """The reader of this layout."""

    title = "PASCAL VOC"
    shipped = "voc"
    years = tuple(PARTS)

    def files(self, split: str) -> list[Path]:
        if split not in PARTS[self.year]:
            raise UserError(f"PASCAL VOC has no split {shown(split)}: choose 'splits=[train,test]'")
        part = PARTS[self.year][split]
        folder = self.root / "ImageSets/Main"
        return [
            require(folder / f"{name}_{part}.txt", f"VOC{self.year}'s {part}")
            for name in self.classes.mids
        ]

    def read(self, split: str) -> Images:
        found = [read_marks(path) for path in self.files(split)]
        first = self.files(split)[0]
        for marks, path in zip(found, self.files(split), strict=True):
            if marks.keys() != found[0].keys():
                odd = sorted(marks.keys() ^ found[0].keys())[0]
                raise UserError(
                    f"{path} and {first} do not list the same images ({odd} is in one of them):"
                    " they do not belong together, or one is cut off; download both again"
                )
        ids = sorted(found[0])
        values = np.array([[marks[name] for name in ids] for marks in found], np.int8).T
        if not (self.root / "JPEGImages").is_dir():
            raise UserError(
                f"{self.root / 'JPEGImages'} is not a folder: unpack VOC's images there"
            )
        frame = pl.DataFrame({"id": ids, "file": [f"JPEGImages/{name}.jpg" for name in ids]})
        hard = int((values == 0).sum())
        notes = [f"{hard:,} labels are of objects that are hard to see: unknown"] if hard else []
        return Images(frame, values > 0, values == 0, notes)

    def chosen(self, split: str, images: Images) -> np.ndarray:
        if split != "train":
            return super().chosen(split, images)
        return ~np.any(images.present[:, list(self.classes.unseen)], axis=1)

    def why_left_out(self, split: str) -> str:
        return "they have an unseen label"

    def published(self) -> dict[str, float]:
        return dict(PUBLISHED[self.year]) if self.data.classes == ALL else {}


def find(data: DataConfig) -> Voc:
    """What lies in `data.root`, or in VOCdevkit/VOC2007 and the like below it. Raises UserError
    where it is no folder, or a key is none.
    """
    root = local_root(data, "PASCAL VOC", "ImageSets/ and JPEGImages/, or VOCdevkit/")
    name = f"VOC{year_of(data, tuple(PARTS))}"
    below = [root / name, root / "VOCdevkit" / name]
    found = Voc(data, next((folder for folder in below if folder.is_dir()), root))
    assert found.classes.mids
    return found


def read_marks(path: Path) -> dict[str, int]:
    """Image → 1, 0 or −1. Raises UserError on a line that is none, or an image that comes twice."""
    marks: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not (found := LINE.fullmatch(line)):
            raise damaged(path, f"line {number:,} is '{shown(line)}', not an image and -1, 0 or 1")
        if marks.setdefault(found[1], int(found[2])) != int(found[2]):
            raise damaged(path, f"line {number:,}: image {shown(found[1])} is there twice")
    if not marks:
        raise damaged(path, "it is empty")
    return marks
