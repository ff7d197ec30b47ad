"""A shard folder of drawn pictures, as large as those that `c2srt shard` packs by default."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from c2srt.files import sha256_of_file
from c2srt.shards import BLOCK, Shard, ShardIndex
from c2srt.vocabulary import Vocabulary

SHARDS, SIDES, CATEGORIES, VERIFIED = 4, (256, 352), 600, 6


def draw_shards(folder: Path, pictures: int, seed: int) -> tuple[ShardIndex, Vocabulary]:
    """Four shards of split train with `pictures` in all, at least one each."""
    words = tuple(f"/m/{number}" for number in range(CATEGORIES))
    vocabulary, random = Vocabulary(words, words, CATEGORIES), np.random.default_rng(seed)
    counts = [max(1, -(-pictures // SHARDS))] * SHARDS
    shards = [
        draw_shard(folder, f"train-{number:06}", count, vocabulary, random)
        for number, count in enumerate(counts)
    ]
    return ShardIndex(folder, vocabulary.hash, "", {"train": tuple(shards)}), vocabulary


def draw_shard(
    folder: Path, name: str, count: int, vocabulary: Vocabulary, random: np.random.Generator
) -> Shard:
    """One tar and its sidecar."""
    path = folder / f"{name}.tar"
    rows: list[dict[str, Any]] = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in range(count):
            picture = f"{name[-6:]}{member:010}"
            row: dict[str, Any] = {
                "id": picture,
                "split": "train",
                "status": "ok",
                "reason": "",
                "member": member,
            }
            row |= {"height": SIDES[0], "width": SIDES[1]}
            text = json.dumps(draw_labels(picture, vocabulary, random)).encode()
            for suffix, content in (("jpg", draw_picture(random)), ("json", text)):
                row |= {f"{suffix}_offset": tar.offset + BLOCK, f"{suffix}_bytes": len(content)}
                header = tarfile.TarInfo(f"{picture}.{suffix}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
    size, digest = path.stat().st_size, sha256_of_file(path)
    return Shard(name, size, digest, count, count, rows[0]["id"], rows[-1]["id"])


def draw_picture(random: np.random.Generator) -> bytes:
    """A JPEG of some 30 KB: smooth, with some grain."""
    coarse = random.integers(0, 256, (8, 11, 3), np.uint8)
    fine = coarse.repeat(SIDES[0] // 8, 0).repeat(SIDES[1] // 11, 1)
    grain = random.integers(-9, 10, fine.shape)
    return simplejpeg.encode_jpeg(np.clip(fine + grain, 0, 255).astype(np.uint8), quality=88)


def draw_labels(picture: str, vocabulary: Vocabulary, random: np.random.Generator) -> dict:
    chosen = [vocabulary.mids[column] for column in random.choice(len(vocabulary), VERIFIED, False)]
    return {
        "id": picture,
        "positive": chosen[: VERIFIED // 2],
        "negative": chosen[VERIFIED // 2 :],
        "width": SIDES[1],
        "height": SIDES[0],
        "source": {"from": "drawn", "url": f"https://example.org/{picture}.jpg"},
        "attribution": {"author": "", "license": "", "landing_url": "", "title": ""},
    }
