"""Writes the miniature to disk exactly as Open Images V4 lies there, so that `c2srt shard` reads it
as it reads the real one.

<root>/2018_04/class-descriptions.csv, classes-trainable.txt (= seen), classes-seen.txt,
               classes-unseen.txt
<root>/2018_04/train/train-images-boxable-with-rotation.csv,
                     train-annotations-human-imagelabels.csv (and so on)
<root>/images/<split>/<16 hex>.jpg
<root>/relations.jsonl            the `llm` graph, an oracle (c2srt/demo/knowledge.py)
<root>/groups.csv                 mid, group of each unseen category: its words explain it ("words")
                                  or not ("opaque")
<root>/truth.npz                  ids and every true label of each split: what real data never have;
                                  evaluation only
<root>/miniature.json             written last: what the folder was made from
"""

import base64
import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from c2srt.demo.draw import random_picture, render
from c2srt.demo.labels import truth, verified
from c2srt.demo.noise import known_lines
from c2srt.demo.words import FIRST, World
from c2srt.executor import open_local
from c2srt.files import hash_of, whole_file, write_json, write_text
from c2srt.progress import Progress

MARK = "miniature.json"
CHUNK = 250
QUALITY = 92
IMAGE_FILES = {
    "train": "train-images-boxable-with-rotation.csv",
    "validation": "validation-images-with-rotation.csv",
    "test": "test-images-with-rotation.csv",
}
IMAGE_COLUMNS = (
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
)
LABEL_COLUMNS = ("ImageID", "Source", "LabelName", "Confidence")
GROUPS = {"pair": "words", "event": "opaque"}
"""The groups of unseen categories by kind."""
LICENSE = "https://creativecommons.org/publicdomain/zero/1.0/"


def raw_key(seed: int, images: dict[str, int], world: World = FIRST) -> str:
    """Identity of a miniature: seed, images a split, and the world's categories and relations."""
    return hash_of(
        [
            seed,
            images,
            [(c.name, c.kind, c.words, c.seen) for c in world.categories],
            list(known_lines(world)[1:]),
            QUALITY,
            GROUPS,
        ]
    )


def image_id(seed: int, split: str, number: int) -> str:
    """16 hex digits, as Open Images' ids."""
    return hashlib.sha256(f"{seed}/{split}/{number}".encode()).hexdigest()[:16]


def write_raw(
    root: Path, seed: int, images: dict[str, int], workers: int, world: World = FIRST
) -> None:
    """Draws `images[split]` pictures of each split with `workers` processes and writes all files;
    the mark comes last.
    """
    (root / MARK).unlink(missing_ok=True)
    write_lists(root, world)
    progress = Progress("drawing the miniature", sum(images.values()))
    truths: dict[str, Any] = {}
    for split, count in images.items():
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        rows: list[tuple] = []
        for chunk in in_processes(
            partial(draw_chunk, world, root / "images" / split, seed, split),
            chunks(count),
            workers,
        ):
            rows += chunk
            progress.update(len(chunk))
        write_tables(world, root / "2018_04" / split, split, rows)
        truths |= {
            f"{split}_ids": np.array([row[0] for row in rows]),
            f"{split}_labels": np.stack([row[4] for row in rows]),
        }
    progress.close()
    with whole_file(root / "truth.npz") as path, path.open("wb") as file:
        np.savez_compressed(
            file, mids=np.array([category.mid for category in world.categories]), **truths
        )
    about = {"seed": seed, "images": images, "world": world.number}
    write_json(root / MARK, {"key": raw_key(seed, images, world), **about})


def chunks(count: int) -> list[range]:
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def in_processes(
    function: Callable[[range], Any], items: list[range], workers: int
) -> Iterator[Any]:
    """Results in the order of `items`, the numbers of images."""
    waiting: dict[range, Any] = {}
    wanted = iter(items)
    with open_local(workers, len(items), sum(map(len, items))) as executor:
        item = next(wanted, None)
        for found, result in executor.map(function, items):
            waiting[found] = result
            while item in waiting:
                yield waiting.pop(item)
                item = next(wanted, None)


def draw_chunk(world: World, folder: Path, seed: int, split: str, numbers: range) -> list[tuple]:
    """Draws and stores images; returns (id, bytes, MD5, {column: present}, truth [C]) for each."""
    rows = []
    for number in numbers:
        picture = random_picture(world, seed, split, number)
        name = image_id(seed, split, number)
        jpeg = simplejpeg.encode_jpeg(
            np.ascontiguousarray(render(picture)), quality=QUALITY, colorsubsampling="444"
        )
        (folder / f"{name}.jpg").write_bytes(jpeg)
        digest = base64.b64encode(hashlib.md5(jpeg).digest()).decode()
        rows.append(
            (
                name,
                len(jpeg),
                digest,
                verified(world, picture, seed, split == "train"),
                truth(world, picture),
            )
        )
    return rows


def write_tables(world: World, folder: Path, split: str, rows: list[tuple]) -> None:
    """The image list and the human-verified labels of one split."""
    mids = [category.mid for category in world.categories]
    images = (
        (name, split, "", "", LICENSE, "", "c2srt demo", "", size, digest, "", "0.0")
        for name, size, digest, _, _ in rows
    )
    labels = (
        (row[0], "verification", mids[column], int(present))
        for row in rows
        for column, present in row[3].items()
    )
    write_csv(folder / IMAGE_FILES[split], IMAGE_COLUMNS, images)
    write_csv(folder / f"{split}-annotations-human-imagelabels.csv", LABEL_COLUMNS, labels)


def write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if header:
            writer.writerow(header)
        writer.writerows(rows)


def write_lists(root: Path, world: World) -> None:
    """Names, the seen and unseen lists, and the relations."""
    folder, every = root / "2018_04", world.categories
    write_csv(
        folder / "class-descriptions.csv",
        (),
        ((category.mid, category.name.capitalize()) for category in every),
    )
    for name, members in (
        ("classes-trainable", True),
        ("classes-seen", True),
        ("classes-unseen", False),
    ):
        write_text(
            folder / f"{name}.txt",
            "".join(f"{category.mid}\n" for category in every if category.seen == members),
        )
    write_csv(
        root / "groups.csv",
        ("mid", "group"),
        ((category.mid, GROUPS[category.kind]) for category in every if not category.seen),
    )
    write_text(root / "relations.jsonl", "".join(f"{line}\n" for line in known_lines(world)))
