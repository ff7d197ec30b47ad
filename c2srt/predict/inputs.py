"""What `predict` takes for a picture, made pixels: upright sRGB, [H, W, 3] uint8.

A picture is a path, a URL, a PIL image, the bytes of a file, an open file, an array (arrays.py), or
what has a `name` and `read`s (sources.py); several are a list of any, or an array of four axes.
"""

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from c2srt import pictures
from c2srt.download_config import DownloadConfig
from c2srt.isolation import Isolated
from c2srt.pictures import Limits, Rejected
from c2srt.predict.arrays import NotAnImage, pillow_of
from c2srt.predict.finding import is_url, read_most

LIMITS = Limits(
    max_bytes=1 << 30
)  # a TIFF as large as its pixels may be; as many pixels as `c2srt shard` takes
DECODE = Isolated("c2srt.pictures:decode")
ARRAYS = (np.ndarray, torch.Tensor)
FILE_BYTES = (bytes, bytearray, memoryview)
Read = tuple[str, torch.Tensor | str]
"""A picture's name, and its pixels uint8 [3, S, S] or why it cannot be read."""


@dataclass(frozen=True)
class Encoded:
    """An image's file in memory."""

    data: bytes
    name: str = "image"


class Urls:
    """Fetches pictures by their URLs; the client is made for the first. `workers` of a job share
    a site's rate.
    """

    def __init__(self, config: DownloadConfig | None = None, workers: int = 1) -> None:
        self.config, self.workers = config or DownloadConfig(), workers
        self.lock = threading.Lock()
        self.downloads: Any = None

    def __call__(self, url: str) -> bytes:
        """The file. Raises ValueError with the reason if it does not come."""
        from c2srt.downloads import Downloads, NotFetched  # half a second that few need
        from c2srt.sites import Sites

        with self.lock:
            self.downloads = self.downloads or Downloads(
                self.config, LIMITS.max_bytes, Sites(self.config, self.workers)
            )
        found = self.downloads.fetch(url)
        if isinstance(found, NotFetched):
            raise ValueError(f"cannot be fetched: {found.status} ({found.reason})")
        return found


FETCH = Urls()


def one_by_one(images: Any) -> Iterable[Any]:
    """The pictures, whether one or several are given. Raises TypeError on what is neither, and
    would be taken apart into rows or lines.
    """
    if isinstance(images, ARRAYS):
        names = isinstance(images, np.ndarray) and images.dtype.kind in "OU"
        return images if names or images.ndim == 4 else [images]
    single = isinstance(images, (str, os.PathLike, Image.Image, Encoded, *FILE_BYTES))
    if single or hasattr(images, "read"):
        return [images]
    if isinstance(images, dict) or not isinstance(images, Iterable):
        raise NotAnImage(images)
    return images


def name_of(image: object) -> str:
    """What a picture is called in its Prediction."""
    if isinstance(image, (str, os.PathLike)):
        return str(image)
    name = getattr(image, "filename" if isinstance(image, Image.Image) else "name", None)
    return str(name) if isinstance(name, (str, os.PathLike)) and str(name) else "image"


def decode_apart(data: bytes) -> np.ndarray:
    return DECODE(data, LIMITS)


def read_image(
    image: Any,
    decode: Callable[[bytes], np.ndarray] = decode_apart,
    fetch: Callable[[str], bytes] = FETCH,
) -> np.ndarray:
    """Any picture as c2srt/pictures.py decodes it: upright sRGB, [H, W, 3] uint8; files in a
    process of their own.

    Raises ValueError with the reason if it is missing, broken or too large, TypeError if it is of
    another kind.
    """
    try:
        if isinstance(image, (*ARRAYS, Image.Image)):
            return pictures.from_pillow(pillow_of(image), LIMITS)
        return decode(fetch(str(image)) if is_url(image) else file_of(image))
    except Rejected as rejected:
        raise ValueError(f"cannot be read as an image: {rejected.reason}") from rejected
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or type(error).__name__}") from error


def attempted(image: Any, pixels: Callable[[], torch.Tensor]) -> Read:
    """The picture's name, and what `pixels` makes of it, or why it cannot be read."""
    try:
        return name_of(image), pixels()
    except (ValueError, MemoryError) as error:
        return name_of(image), str(error) or "it does not fit into memory"


def file_of(image: Any) -> bytes:
    """The bytes of a picture's file, one more than LIMITS allow at most. Raises OSError, and
    TypeError if it is none.
    """
    if isinstance(image, Encoded):
        return image.data
    if isinstance(image, FILE_BYTES):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        with Path(image).open("rb") as file:
            return read_most(file, LIMITS.max_bytes + 1)
    data = image.read(LIMITS.max_bytes + 1) if hasattr(image, "read") else None
    if not isinstance(data, bytes):
        text = " that reads text: open it with 'rb'" if isinstance(data, str) else ""
        raise NotAnImage(image, text)
    return data
