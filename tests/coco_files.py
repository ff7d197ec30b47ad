"""A small MS-COCO as it is unpacked: the real 80 categories with their numbers and gaps, outlines,
crowds, images without an annotation, real JPEGs.
"""

import json
from pathlib import Path

from c2srt.sharding.standard_set import ALL, shipped_classes
from tests.raw_images import jpeg

NAMES = shipped_classes("coco", ALL).names
GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
NUMBERS = dict(zip(NAMES, (n for n in range(1, 91) if n not in GAPS), strict=True))

IMAGES: dict[str, dict[int, set[str]]] = {
    "train": {
        9: {"person", "dog"},
        25: {"giraffe"},
        30: {"cat", "traffic light"},
        34: set(),
        36: {"person", "umbrella", "train"},
        49: {"horse", "person"},
        61: {"stop sign"},
        64: {"clock", "boat"},
        71: {"boat", "bench"},
    },
    "test": {
        42: {"dog"},
        73: {"person"},
        74: {"dog", "bicycle", "toilet"},
        133: set(),
        136: {"giraffe", "cat", "cup"},
        139: {"traffic light", "hair drier"},
        164: {"boat", "train"},
    },
}
"""The categories of each image by its number."""
CROWD = (36, "person")


def file_of(split: str, number: int, year: int = 2014) -> str:
    part = {"train": "train", "test": "val"}[split]
    prefix = f"COCO_{part}{year}_" if year == 2014 else ""
    return f"{part}{year}/{prefix}{number:012}.jpg"


def write_coco(root: Path, year: int = 2014, images=IMAGES, pictures: bool = True) -> None:
    """The tree. Annotations stand in another order than the images, one twice."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, of in images.items():
        part = Path(file_of(split, 0, year)).parent
        (root / part).mkdir(exist_ok=True)
        for number in of if pictures else ():
            (root / file_of(split, number, year)).write_bytes(jpeg(number))
        path = root / f"annotations/instances_{part}.json"
        path.write_text(json.dumps(content(split, of, year)))


def content(split: str, images: dict[int, set[str]], year: int) -> dict:
    """As the file of instances has it."""
    pairs = [(number, name) for number in reversed(images) for name in sorted(images[number])]
    return {
        "info": {"description": f"COCO {year} Dataset", "year": year},
        "images": [
            {
                "license": 5,
                "file_name": Path(file_of(split, number, year)).name,
                "height": 64,
                "width": 96,
                "date_captured": "2013-11-14 16:28:13",
                "id": number,
            }
            for number in images
        ],
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "BY"}],
        "annotations": [
            annotation(at, number, name) for at, (number, name) in enumerate([*pairs, pairs[0]])
        ],
        "categories": [
            {"supercategory": "thing", "id": number, "name": name}
            for name, number in NUMBERS.items()
        ],
    }


def annotation(at: int, image: int, name: str) -> dict:
    crowd = (image, name) == CROWD
    outline = {"counts": [272, 2, 4], "size": [64, 96]} if crowd else [[1.5, 2.0, 9.5, 2.0, 9.0, 8]]
    return {
        "segmentation": outline,
        "area": 48.5,
        "iscrowd": int(crowd),
        "image_id": image,
        "bbox": [1.5, 2.0, 8.0, 6.0],
        "category_id": NUMBERS[name],
        "id": 900_100 + at,
    }
