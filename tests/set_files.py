"""Small PASCAL VOC, Visual Genome and Open Images V7 trees in the structure of the real ones, with
real JPEGs where they are asked for.
"""

import json
from pathlib import Path

from c2srt.sharding.openimages_v7 import LISTS, labels_of
from c2srt.sharding.standard_set import ALL, shipped_classes
from tests.raw_images import CLASSES, HEADER, jpeg, name, write_rows

VOC_NAMES = shipped_classes("voc", ALL).mids
VOC: dict[str, dict[str, tuple[set[str], set[str]]]] = {
    "train": {
        "000005": ({"chair"}, {"diningtable"}),
        "000007": ({"car"}, set()),
        "000009": ({"horse", "person"}, {"car"}),
        "000012": ({"car", "person"}, set()),
        "000016": ({"bicycle"}, set()),
    },
    "test": {
        "000001": ({"dog", "person"}, set()),
        "000002": ({"train"}, set()),
        "000003": ({"sofa", "chair"}, set()),
        "000004": (set(), {"car"}),
    },
}
"""Of each image what is there, and what is only there hard to see."""
VG: dict[int, list[str]] = {
    1: ["Clock.", "small white dog", "sidewalk"],
    2: ["man", "tall tree"],
    3: ["dogs", "red"],
    4: ["sidewalk"],
    498335: ["men", "white"],
    2343730: ["dog", "clock"],
    2343731: ["trees"],
    2343732: ["clock"],
}
"""The names of each image's objects."""
VG_WORDS = {
    "person": ["man", "men"],
    "dog": ["dog", "dogs"],
    "clock": ["clock"],
    "tree": ["tree", "trees"],
}
VG_LABELS = {
    1: {"clock", "dog"},
    2: {"person", "tree"},
    3: {"dog"},
    498335: {"person"},
    2343730: {"dog", "clock"},
    2343731: {"tree"},
    2343732: {"clock"},
}


def write_voc(root: Path, year: int = 2007, pictures: bool = True) -> Path:
    """VOCdevkit/VOC<year>; returns it."""
    folder = root / f"VOCdevkit/VOC{year}"
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    for split, images in VOC.items():
        part = {2007: {"train": "trainval"}, 2012: {"test": "val"}}[year].get(split, split)
        for category in VOC_NAMES:
            marks = {
                image: " 1" if category in there else " 0" if category in hard else "-1"
                for image, (there, hard) in images.items()
            }
            text = "".join(f"{image} {mark}\n" for image, mark in marks.items())
            (folder / f"ImageSets/Main/{category}_{part}.txt").write_text(text)
        (folder / f"ImageSets/Main/{part}.txt").write_text("\n".join(images))
        for image in images if pictures else ():
            (folder / f"JPEGImages/{image}.jpg").write_bytes(jpeg(int(image)))
    return folder


def write_vg(root: Path, pictures: bool = True) -> None:
    """Images above 2,000,000 lie in the second folder."""
    for folder in ("VG_100K", "VG_100K_2"):
        (root / folder).mkdir(parents=True)
    images = [
        {
            "image_id": number,
            "objects": [
                {
                    "synsets": [],
                    "object_id": 100 * number + at,
                    "merged_object_ids": [],
                    "names": [name, "thing"] if at else [name],
                    **{"x": 1, "y": 2, "w": 30, "h": 40},
                }
                for at, name in enumerate(names)
            ],
            "image_url": f"https://cs.stanford.edu/people/rak248/VG_100K_2/{number}.jpg",
        }
        for number, names in VG.items()
    ]
    (root / "objects.json").write_text(json.dumps(images))
    (root / "vg256.json").write_text(json.dumps(VG_WORDS))
    for number in VG:
        content = jpeg(number) if pictures else b""
        (root / vg_file(number)).write_bytes(content)


def vg_file(number: int) -> str:
    return f"VG_100K{'_2' * (number > 2_000_000)}/{number}.jpg"


V7 = {
    "train": {
        0: {"/m/01": 1, "/m/02": 0},
        1: {"/m/02": 1},
        2: {"/m/01": 1, "/m/02": 1, "/g/03": 0},
    },
    "validation": {3: {"/m/01": 1}},
    "test": {4: {"/g/03": 1, "/m/01": 0}, 5: {"/g/03": 1, "/m/02": 1}},
}
"""The labels that people verified, by the number of each image."""


def write_v7(root: Path, pictures: bool = True) -> None:
    """The CSVs in one folder, and images/<split>/<id>.jpg."""
    root.mkdir(parents=True, exist_ok=True)
    columns = ["LabelName", "DisplayName"]
    write_rows(root / "oidv7-class-descriptions.csv", [columns, *CLASSES.items()])
    for split, images in V7.items():
        blank = ["", "", "https://creativecommons.org/licenses/by/2.0/", "", "A", "t", "", "", ""]
        rows = [[name(number), split, *blank, "0.0"] for number in images]
        write_rows(root / LISTS[split], [HEADER, *rows])
        labels = [
            [name(number), "verification", mid, value]
            for number, of in images.items()
            for mid, value in of.items()
        ]
        columns = ["ImageID", "Source", "LabelName", "Confidence"]
        write_rows(root / labels_of(split), [columns, *labels])
        folder = root / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        for number in images if pictures else ():
            (folder / f"{name(number)}.jpg").write_bytes(jpeg(number))
