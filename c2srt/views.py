"""Augmented views of an image, as a pure function of (seed, image id, view number).

The teacher cache and the loader both call `view_pixels`, so student and teacher see the same pixels
without anything but the view number being stored. The randomness is counter-based: one BLAKE2b
digest of (seed, view, image id) gives all the numbers a view needs, so no generator state exists,
and no library update can change a stream.

S is the side of the model's square input, in pixels.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt import pictures
from c2srt.pictures import MAX_PIXELS
from c2srt.view_config import ViewConfig

THIN = 16  # an image this many times longer than wide is cut before it is enlarged


@dataclass(frozen=True)
class View:
    """A crop box in pixels of the packed image, and whether it is mirrored afterwards."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


def uniforms(seed: int, image_id: str, view: int) -> list[float]:
    """Eight numbers in [0, 1), with 53 random bits each, from the BLAKE2b digest of the
    arguments.
    """
    digest = hashlib.blake2b(f"{seed}/{view}/{image_id}".encode(), digest_size=64).digest()
    return [
        (int.from_bytes(digest[start : start + 8], "little") >> 11) * 2.0**-53
        for start in range(0, 64, 8)
    ]


def view_box(
    config: ViewConfig, seed: int, image_id: str, view: int, width: int, height: int
) -> View:
    """The crop of view `view` in an image of `width` × `height` pixels.

    The distribution is Inception's random resized crop (area uniform, aspect ratio log-uniform),
    but the ratio is drawn among those that fit the image at this area, so nothing is rejected and
    redrawn.
    """
    area_at, ratio_at, left_at, top_at, flip_at = uniforms(seed, image_id, view)[:5]
    area = width * height * (config.scale_min + area_at * (config.scale_max - config.scale_min))
    narrowest, widest = (
        area / height**2,
        width**2 / area,
    )  # the ratios at which the crop is as high, as wide as the image
    low = min(max(config.ratio_min, narrowest), widest)
    high = max(min(config.ratio_max, widest), low)
    ratio = math.exp(math.log(low) + ratio_at * (math.log(high) - math.log(low)))
    crop_width = min(max(round(math.sqrt(area * ratio)), 1), width)
    crop_height = min(max(round(math.sqrt(area / ratio)), 1), height)
    left = int(left_at * (width - crop_width + 1))
    top = int(top_at * (height - crop_height + 1))
    return View(left, top, crop_width, crop_height, config.flip and flip_at < 0.5)


def view_pixels(
    image: np.ndarray, config: ViewConfig, seed: int, image_id: str, view: int, size: int
) -> Tensor:
    """[H, W, 3] uint8 (from `decode`) -> view `view` as [3, S, S] uint8; the centre view when
    `config.count` is 0.
    """
    if config.count == 0:
        return centre_pixels(image, size)
    box = view_box(config, seed, image_id, view, image.shape[1], image.shape[0])
    crop = image[box.top : box.top + box.height, box.left : box.left + box.width]
    pixels = resize(crop, size, size)
    return pixels.flip(2) if box.flip else pixels


def centre_pixels(image: np.ndarray, size: int) -> Tensor:
    """[H, W, 3] uint8 -> [3, S, S] uint8: CLIP's evaluation preprocessing (short side to S,
    bicubic, then centre crop).
    """
    height, width = image.shape[:2]
    short = min(height, width)
    tall, wide = (
        int(size * height / short),
        int(size * width / short),
    )  # truncated, as torchvision's Resize does
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    if (
        max(height, width) > THIN * short
    ):  # 1 × 1,000,000 pixels would become 224 × 224,000,000 before the cut
        return centre_of_thin(image, (tall, wide), (top, left), size)
    return resize(image, tall, wide)[:, top : top + size, left : left + size]


def centre_of_thin(
    image: np.ndarray, resized: tuple[int, int], corner: tuple[int, int], size: int
) -> Tensor:
    """The S × S pixels at `corner` (top, left) of [H, W, 3] uint8 resized to `resized` (height,
    width), made from no more of the image than they show: what `resize` and a cut give, but for
    rounding (by 1).
    """
    (first_row, rows), (first_column, columns) = (
        taps(length, now, start, size)
        for length, now, start in zip(image.shape, resized, corner, strict=False)
    )
    cut = image[
        first_row : first_row + rows.shape[1], first_column : first_column + columns.shape[1]
    ]
    pixels = torch.einsum("yh,hwc,xw->cyx", rows, torch.from_numpy(cut).float(), columns)
    return pixels.round().clamp(0, 255).to(torch.uint8)


def taps(length: int, resized: int, start: int, count: int) -> tuple[int, Tensor]:
    """How `count` pixels from `start` on, of `length` pixels resized to `resized`, are made: (first
    source pixel, weights [count, n] of it and its successors). Bicubic, a = −1/2, with
    antialiasing, as Pillow and torch do it.
    """
    scale = length / resized
    wide = max(scale, 1.0)
    centres = (torch.arange(start, start + count, dtype=torch.float64) + 0.5) * scale
    first = max(0, int(centres[0] - 2 * wide))
    source = torch.arange(
        first, min(length, math.ceil(centres[-1] + 2 * wide)), dtype=torch.float64
    )
    away = ((source + 0.5 - centres[:, None]) / wide).abs()
    near = (1.5 * away - 2.5) * away**2 + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = torch.where(away < 1, near, torch.where(away < 2, far, 0.0))
    return first, (weights / weights.sum(1, keepdim=True)).float()


def resize(image: np.ndarray, height: int, width: int) -> Tensor:
    """[H, W, 3] uint8 -> [3, height, width] uint8, bicubic with antialiasing.

    torch's uint8 kernel agrees with Pillow's to ±1 (±2 in a pixel of ten thousand) and takes a
    quarter of its time.
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if pixels.shape[1:] == (height, width):
        return pixels
    if (
        image.shape[0] > THIN * image.shape[1]
    ):  # the kernel widens all rows first: a long, narrow image has millions
        return resize(image.transpose(1, 0, 2), width, height).transpose(1, 2)
    return F.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True)[0]


def decode(encoded: bytes) -> np.ndarray:
    """A shard's image -> [H, W, 3] uint8 RGB. Raises ValueError with the reason when the image is
    broken or has more than `MAX_PIXELS` pixels.
    """
    return pictures.decode_packed(encoded, MAX_PIXELS)
