"""What the two thresholds are worth on the data set itself: its own pictures, copied as copies come
about, must lie above them, and pairs drawn at random, which are different pictures but for a
handful, below.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import simplejpeg
import torch
from PIL import Image

from c2srt.audit.candidates import Place, normal, splits_in_order
from c2srt.audit.duplicates import reader_of
from c2srt.audit.pictures import agreement, seen
from c2srt.backbone.clip import Clip, load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.shards import ShardIndex
from c2srt.view_config import ViewConfig
from c2srt.views import decode, view_pixels

PICTURES = 40
"""Of the data set that are copied, and pairs of different ones."""
AGREEMENTS = (0.5, 0.6, 0.7, 0.83, 0.9)


@dataclass(frozen=True)
class Kind:
    """Pairs of one kind: the cosines of their features, and how far their pictures agree."""

    name: str
    cosines: tuple[float, ...]
    agreements: tuple[float, ...]

    def json(self) -> dict:
        return asdict(self)


def recompressed(image: np.ndarray) -> np.ndarray:
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(image), 40, colorsubsampling="420")
    return decode(encoded)


def halved(image: np.ndarray) -> np.ndarray:
    height, width = (max(1, side // 2) for side in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def cropped(image: np.ndarray) -> np.ndarray:
    """Without a tenth of each side, two thirds of it at the top and at the left."""
    rows, columns = (round(side / 10) for side in image.shape[:2])
    top, left = 2 * rows // 3, 2 * columns // 3
    return image[top : image.shape[0] - rows + top, left : image.shape[1] - columns + left]


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "recompressed (JPEG 40)": recompressed,
    "half the size": halved,
    "cropped by 10 %": cropped,
}
DIFFERENT = "different pictures, drawn at random"


def controls(index: ShardIndex, config: ClipConfig, seed: int = 0) -> list[Kind]:
    """Each kind of copy, and the different ones, over up to PICTURES images of the last split."""
    clip, random = load_clip(config), np.random.default_rng(seed)
    own = drawn(index, splits_in_order(index)[-1], random)
    others = drawn(index, splits_in_order(index)[0], random)
    kinds = {
        DIFFERENT: others,
        **{name: [copy(each) for each in own] for name, copy in COPIES.items()},
    }
    found, features = [seen(each) for each in own], features_of(clip, own)
    result = []
    for name, pictures in kinds.items():
        pairs = list(zip(found, map(seen, pictures), strict=False))
        cosines = (features[: len(pairs)] * features_of(clip, pictures)[: len(pairs)]).sum(1)
        agrees = tuple(agreement(one, other) for one, other in pairs)
        result.append(Kind(name, tuple(map(float, cosines)), agrees))
    return result


def drawn(index: ShardIndex, split: str, random: np.random.Generator) -> list[np.ndarray]:
    """Up to PICTURES images of a split, in random order."""
    shards = index.splits[split]
    ends = np.cumsum([shard.count for shard in shards])
    chosen = random.permutation(int(ends[-1]))[:PICTURES]
    places = []
    for row in chosen.tolist():
        at = int(np.searchsorted(ends, row, "right"))
        places.append(Place(split, shards[at], row - int(ends[at]) + shards[at].count))
    return [decode(reader_of(index.folder, each.shard).jpeg(each.sample)) for each in places]


def features_of(clip: Clip, images: list[np.ndarray]) -> np.ndarray:
    """[n, D] of length 1, of the centre view, one at a time: they differ in size."""
    with torch.no_grad():
        rows = [
            clip.images.global_features(
                view_pixels(image, ViewConfig(count=0), 0, "", 0, clip.image_size)[None]
            )
            for image in images
        ]
    return normal(torch.cat(rows).float().numpy())
