"""A small Open Images tree on disk, for tests of sharding."""

import base64
import csv
import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = [
    "ImageID",
    "Subset",
    "OriginalURL",
    "OriginalLandingURL",
    "License",
    "AuthorProfileURL",
    "Author",
    "Title",
    "OriginalSize",
    "OriginalMD5",
    "Thumbnail300KURL",
    "Rotation",
]
CLASSES = {"/m/01": "Cat", "/m/02": "Dog", "/g/03": "Snow, fresh"}


def jpeg(number: int, width: int = 96, height: int = 64) -> bytes:
    """A picture of its own for each number."""
    random = np.random.default_rng(number)
    small = Image.fromarray(random.integers(0, 256, (8, 12, 3), np.uint8))
    file = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def name(number: int) -> str:
    """Ids far apart, the upper half above the largest signed 64-bit number, in an order unlike the
    numbers'.
    """
    return hashlib.sha256(str(number).encode()).hexdigest()[:16]


def write_csvs(root: Path, splits: dict[str, list[dict]]) -> None:
    """`splits`: split → images, each {"id"} and what differs of url, size, md5, rotation, labels
    [(MID, 0 or 1)…], listed.
    """
    base = root / "2018_04"
    base.mkdir(parents=True, exist_ok=True)
    write_rows(base / "class-descriptions.csv", CLASSES.items())
    (base / "classes-seen.txt").write_text("/m/01\n/m/02\n")
    (base / "classes-unseen.txt").write_text("/g/03\n")
    for split, images in splits.items():
        (base / split).mkdir(exist_ok=True)
        listed = [image for image in images if image.get("listed", True)]
        rows = [
            [
                image["id"],
                split,
                image.get("url", ""),
                "",
                "https://creativecommons.org/licenses/by/2.0/",
                "",
                'Ann "A", B',
                "two\nlines",
                image.get("size", ""),
                image.get("md5", ""),
                "",
                image.get("rotation", ""),
            ]
            for image in listed
        ]
        write_rows(base / split / "images.csv", [HEADER, *rows])
        labels = [
            [image["id"], "verification", mid, value]
            for image in images
            for mid, value in image.get("labels", [("/m/01", 1), ("/m/02", 0)])
        ]
        write_rows(
            base / split / f"{split}-annotations-human-imagelabels.csv",
            [["ImageID", "Source", "LabelName", "Confidence"], *labels],
        )


def write_rows(path: Path, rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_folder(root: Path, split: str, files: dict[str, bytes]) -> None:
    """images/<split>/<id>.jpg"""
    folder = root / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    for image_id, data in files.items():
        (folder / f"{image_id}.jpg").write_bytes(data)


def write_pack(
    path: Path, members: list[tuple[str, bytes]], extra: list[tarfile.TarInfo] = ()
) -> None:
    """A tar.gz of (member name, content), `extra` headers without content before them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        gzip.GzipFile(path, "wb", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w|") as tar,
    ):
        for info in extra:
            tar.addfile(info)
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def digests(folder: Path) -> dict[str, str]:
    """File name → SHA-256 of everything that a shard job leaves, but for times of CSVs."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "inputs"
    ]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
