"""Small shard folders in the format of c2srt/shards.py, for tests of everything that reads one."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from c2srt.files import hash_of, sha256_of_file
from c2srt.shards import Shard, ShardIndex
from c2srt.vocabulary import Vocabulary


def make_vocabulary(seen: int = 6, unseen: int = 2) -> Vocabulary:
    """Categories named by their column: /m/0 …"""
    count = seen + unseen
    return Vocabulary(
        tuple(f"/m/{column}" for column in range(count)),
        tuple(f"thing {column}" for column in range(count)),
        seen,
    )


def make_shards(
    folder: Path,
    splits: dict[str, int],
    images_per_shard: int,
    vocabulary: Vocabulary,
    seed: int = 0,
    short_side: int = 48,
) -> ShardIndex:
    """Writes `splits` = {split: number of images} of random but structured JPEGs with ternary
    labels; returns the index.

    Every shard also has one row for an image that failed, and samples carry MIDs that no vocabulary
    has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    shards = {
        split: tuple(
            make_shard(
                folder,
                f"{split}-{number:06}",
                split,
                range(start, min(start + images_per_shard, total)),
                vocabulary,
                random,
                short_side,
            )
            for number, start in enumerate(range(0, total, images_per_shard))
        )
        for split, total in splits.items()
    }
    index = ShardIndex(
        folder, vocabulary.hash, hash_of([splits, images_per_shard, seed, short_side]), shards
    )
    vocabulary.save(folder)
    index.save()
    return index


def make_shard(
    folder: Path,
    name: str,
    split: str,
    numbers: range,
    vocabulary: Vocabulary,
    random: np.random.Generator,
    short_side: int,
) -> Shard:
    """One tar with its sidecar."""
    offset = {"train": 0, "validation": 1, "test": 2}.get(split, 3)
    rows = [
        {
            "id": f"{'f' * 15}{split[0]}",
            "split": split,
            "status": "missing",
            "reason": "no such file",
            "width": 0,
            "height": 0,
            "member": -1,
            "jpg_offset": 0,
            "jpg_bytes": 0,
            "json_offset": 0,
            "json_bytes": 0,
        }
    ]
    with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, number in enumerate(numbers):
            image_id = f"{offset:02x}{number:014x}"
            image = draw(random, short_side)
            at = {
                "jpg": add(tar, f"{image_id}.jpg", encode(image)),
                "json": add(tar, f"{image_id}.json", metadata(image_id, image, vocabulary, random)),
            }
            rows.append(
                {
                    "id": image_id,
                    "split": split,
                    "status": "ok",
                    "reason": "",
                    "width": image.width,
                    "height": image.height,
                    "member": member,
                    "jpg_offset": at["jpg"][0],
                    "jpg_bytes": at["jpg"][1],
                    "json_offset": at["json"][0],
                    "json_bytes": at["json"][1],
                }
            )
    schema = {"width": pl.Int32, "height": pl.Int32, "member": pl.Int32}
    pl.DataFrame(rows, schema_overrides=schema).write_parquet(folder / f"{name}.parquet")
    tar_path = folder / f"{name}.tar"
    return Shard(
        name,
        tar_path.stat().st_size,
        sha256_of_file(tar_path),
        len(rows),
        len(numbers),
        rows[1]["id"],
        rows[-1]["id"],
    )


def draw(random: np.random.Generator, short_side: int) -> Image.Image:
    """A colour gradient with a rectangle, landscape or portrait."""
    long_side = short_side + int(random.integers(0, short_side))
    width, height = (long_side, short_side) if random.random() < 0.5 else (short_side, long_side)
    across, down = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
    pixels = 255 * (random.random(3) * across + random.random(3) * down) / 2
    left, top = int(random.integers(0, width // 2)), int(random.integers(0, height // 2))
    pixels[top : top + height // 3, left : left + width // 3] = 255 * random.random(3)
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def metadata(
    image_id: str, image: Image.Image, vocabulary: Vocabulary, random: np.random.Generator
) -> bytes:
    """The sample's JSON, with a few verified categories and one that is in no vocabulary."""
    labels = random.choice([-1, 0, 0, 1], len(vocabulary))
    positive = [mid for mid, label in zip(vocabulary.mids, labels, strict=True) if label == 1]
    negative = [mid for mid, label in zip(vocabulary.mids, labels, strict=True) if label == -1]
    return json.dumps(
        {
            "id": image_id,
            "positive": [*positive, "/m/outside"],
            "negative": negative,
            "width": image.width,
            "height": image.height,
            "source": {},
            "attribution": {},
        }
    ).encode()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> tuple[int, int]:
    """Appends a member; returns the offset and the size of its content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    start = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(content))
    return start, len(content)
