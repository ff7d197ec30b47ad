"""What `predict` takes for a picture, made pixels: upright sRGB, [H, W, 3] uint8."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from c2srt import pictures
from c2srt.apart import Apart
from c2srt.pictures import Limits, Rejected

LIMITS = Limits(
    max_bytes=1 << 30
)  # a TIFF as large as its pixels may be; as many pixels as `c2srt shard` takes
DECODE = Apart("c2srt.pictures:decode")


@dataclass(frozen=True)
class Encoded:
    """An image's file in memory."""

    data: bytes
    name: str = "image"


def check_images(images: object) -> None:
    """Raises TypeError on what would be taken apart into rows, bytes or lines."""
    paths = isinstance(images, np.ndarray) and images.dtype.kind in "OU"
    apart = isinstance(
        images, (bytes, bytearray, memoryview, np.ndarray, torch.Tensor, dict)
    ) or hasattr(images, "read")
    if (apart and not paths) or not isinstance(images, Iterable):
        raise TypeError(not_an_image(images))


def not_an_image(given: object) -> str:
    return (
        f"an image is a path or a PIL image, not {type(given).__name__}: an array [H, W, 3] of"
        " uint8 becomes one with PIL.Image.fromarray(array), the bytes of a file with"
        " PIL.Image.open(io.BytesIO(data))"
    )


def decode_apart(data: bytes) -> np.ndarray:
    return DECODE(data, LIMITS)


def read_image(
    image: "str | Path | Image.Image | Encoded",
    decode: Callable[[bytes], np.ndarray] = decode_apart,
) -> np.ndarray:
    """Any picture as c2srt/pictures.py decodes it: upright sRGB, [H, W, 3] uint8; files in a
    process of their own.

    Raises ValueError with the reason if it is missing, broken or too large, TypeError if it is of
    another kind.
    """
    try:
        if isinstance(image, Image.Image):
            return pictures.from_pillow(image, LIMITS)
        if isinstance(image, Encoded):
            return decode(image.data)
        if not isinstance(image, (str, os.PathLike)):
            raise TypeError(not_an_image(image))
        with open(image, "rb") as file:
            data = file.read(LIMITS.max_bytes + 1)
        return decode(data)
    except Rejected as rejected:
        raise ValueError(f"cannot be read as an image: {rejected.reason}") from rejected
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or type(error).__name__}") from error
