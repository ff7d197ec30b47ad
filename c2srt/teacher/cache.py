"""The teacher cache: the frozen CLIP's raw global feature of every image and view, so that training
need not run it.

    <teacher>/<shard>.npy    float16 [V', count, D], V' = max(views.count, 1), aligned to the
                             shard's samples
    <teacher>/<shard>.json   {"key": hash, "sha256": of the shard, "bytes": of the .npy}; written
                             after the .npy, so it marks a finished shard
    <teacher>/teacher.json   what the cache was made from; written last, so its presence means
                             "complete"

A feature is a pure function of (CLIP weights and preprocessing, view settings, seed, the shard's
bytes): those are the key, and a cache of another key is refused. D is the joint width.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from c2srt.artefact import kept
from c2srt.backbone.clip import Clip
from c2srt.errors import UserError
from c2srt.files import hash_of, whole_file, write_json
from c2srt.hints import Command
from c2srt.opened import read_json
from c2srt.shard_reader import ShardReader
from c2srt.shards import Shard, ShardIndex
from c2srt.shown import shown
from c2srt.storage import mirror
from c2srt.storage.ranges import KeptOpen, start
from c2srt.teacher.config import FILE
from c2srt.teacher.features import FeatureFile, FeatureReads
from c2srt.view_config import ViewConfig
from c2srt.views import decode, view_pixels

MADE_BY, AUDIT, SHARD = Command("teacher"), Command("audit"), Command("shard")


def feature_key(clip: Clip, views: ViewConfig, seed: int) -> dict:
    """What decides the feature of an image, the image itself left out. The centre view depends on
    no seed or crop setting.
    """
    chance = (
        {"views": asdict(views), "seed": seed}
        if views.count
        else {"views": {"count": 0}, "seed": None}
    )
    preprocessing = {"size": clip.image_size, "mean": list(clip.mean), "std": list(clip.std)}
    return {"clip": clip.hash, "width": clip.width, **chance, **preprocessing}


def cache_key(
    clip: Clip, views: ViewConfig, seed: int, index: ShardIndex, splits: list[str]
) -> dict:
    """What decides a whole cache: the feature's key, and the shards' names and bytes by split.

    Raises UserError if a split has no image.
    """
    shards = {
        split: hash_of([(shard.name, shard.sha256) for shard in index.split(split)])
        for split in splits
    }
    return feature_key(clip, views, seed) | {"shards": shards}


class TeacherCache:
    """A complete cache, of which the rows that are wanted are read; `width` is D. Open it with
    `TeacherCache.open`.
    """

    OPEN = 64  # files open at a time

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self._open = KeptOpen(self.opened, self.OPEN)

    @classmethod
    def open(cls, folder: Path, expected: dict) -> "TeacherCache":
        """Checks the cache against `expected` (from `cache_key`); it may hold more views and splits
        than that.

        Raises UserError naming the first field that differs, and the command that rebuilds the
        cache.
        """
        if unlike := difference(read_json(folder / FILE, MADE_BY), expected):
            raise UserError(
                f"{folder} was made with {unlike}: rebuild it with `{MADE_BY}`, with the same clip,"
                " views, seed and shards as here"
            )
        return cls(folder, expected["width"])

    def features(self, shards: list[str], samples: np.ndarray, view: int) -> np.ndarray:
        """[b] shard names, [b] samples within them -> [b, D] float16 of view `view`."""
        return self.start(shards, samples, view).wait()

    def start(self, shards: list[str], samples: np.ndarray, view: int) -> FeatureReads:
        """Begins to read the same."""
        self.open_shards(shards)
        pairs = zip(shards, samples.tolist(), strict=True)
        spans = [self.file(shard).span(view, sample) for shard, sample in pairs]
        return FeatureReads(start(spans), self.width)

    def open_shards(self, names: list[str]) -> None:
        """Begins to open the files of shards that are not open, and lets go of those longest
        unused.
        """
        self._open.begin(names)

    def file(self, name: str) -> FeatureFile:
        """The open file of a shard. Raises UserError if it is none of this cache."""
        return self._open.get(name)

    def opened(self, name: str) -> FeatureFile:
        return FeatureFile(self.path(name), self.width)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def difference(found: dict, expected: dict) -> str | None:
    """The first field in which a cache's key `found` does not do for `expected`, as "name=value,
    not value"; None if it does.

    A cache may hold more views and more splits than expected.
    """
    have = flatten(found)
    for name, value in flatten(expected).items():
        count = have.get("views.count")
        enough_views = name == "views.count" and isinstance(count, int) and 0 < value <= count
        if have.get(name) != value and not enough_views:
            return f"{name}={shown(have.get(name))}, not {shown(value)}"
    return None


def flatten(content: dict, prefix: str = "") -> dict:
    """Nested dicts as {"a.b": value}."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return flat


# Writing, called by c2srt/teacher/job.py.


def write_shard(
    clip: Clip,
    views: ViewConfig,
    seed: int,
    index: ShardIndex,
    shard: Shard,
    out: Path,
    batch: int,
    device: str,
) -> None:
    """Computes one shard's features and writes its two files. `batch` is in views.

    Raises UserError if an image is damaged or a feature does not fit float16.
    """
    marker = out / f"{shard.name}.json"
    mirror.remove(marker)  # features are about to be replaced: no marker may vouch for them
    reader = ShardReader(index.folder, shard)
    count = max(views.count, 1)
    features = np.empty((count, shard.count, clip.width), np.float16)
    step = max(batch // count, 1)
    for first in range(0, shard.count, step):
        samples = range(first, min(first + step, shard.count))
        pixels = torch.stack(
            [
                pixels
                for sample in samples
                for pixels in all_views(reader, sample, views, seed, clip.image_size)
            ]
        )
        found = clip.images.global_features(pixels.to(device)).cpu()
        check_half(found, reader, samples, count)
        by_image = found.half().numpy().reshape(len(samples), count, clip.width)
        features[:, samples.start : samples.stop] = by_image.transpose(1, 0, 2)
    with whole_file(out / f"{shard.name}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, features)
    size = mirror.size_of(out / f"{shard.name}.npy")
    write_json(
        marker, shard_marker(hash_of(feature_key(clip, views, seed)), shard) | {"bytes": size}
    )


def all_views(
    reader: ShardReader, sample: int, views: ViewConfig, seed: int, size: int
) -> list[Tensor]:
    """V' views of one image, [3, S, S] each, from one decoding."""
    image_id = reader.ids[sample]
    try:
        image = decode(reader.jpeg(sample))
    except ValueError as error:
        raise UserError(
            f"{reader.path}: image {image_id} is damaged ({error}): run `{AUDIT}`, then "
            f"`{SHARD}` again"
        ) from error
    return [
        view_pixels(image, views, seed, image_id, view, size) for view in range(max(views.count, 1))
    ]


def check_half(features: Tensor, reader: ShardReader, samples: range, count: int) -> None:
    """Refuses a feature that float16 would turn into infinity, or that is not a number already."""
    bad = (~features.half().isfinite()).any(1).nonzero()
    if len(bad):
        image_id = reader.ids[samples[int(bad[0]) // count]]
        raise UserError(
            f"the teacher's feature of image {image_id} in {reader.path} is beyond half precision"
            " (±65,504) or not a number: check the weights that clip.pretrained names"
        )


def shard_marker(key: str, shard: Shard) -> dict:
    """What a finished shard's marker file says, besides the size of its features; `key` is the hash
    of `feature_key`.
    """
    return {"key": key, "sha256": shard.sha256}


def is_done(out: Path, shard: Shard, marker: dict) -> bool:
    """Whether `out` holds this shard's features whole, computed from the same bytes with the same
    key.
    """
    features = out / f"{shard.name}.npy"
    read = partial(read_json, out / f"{shard.name}.json", MADE_BY)
    return kept(features, read, marker, hashed=False) is not None
