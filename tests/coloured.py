"""Pictures of four coloured quarters, as files."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from c2srt.sharding.decode import Converted, Rejected, convert

SHARED = Path(__file__).parents[2] / "shared/data"


RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (255, 255, 255)


def corners(width: int = 96, height: int = 64) -> Image.Image:
    """Red, green / blue, white quarters, clockwise from the top left: red, green, white, blue."""
    image = Image.new("RGB", (width, height), WHITE)
    for colour, box in ((RED, (0, 0)), (GREEN, (width // 2, 0)), (BLUE, (0, height // 2))):
        image.paste(colour, (*box, box[0] + width // 2, box[1] + height // 2))
    return image


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(
        file, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}) | options
    )
    return file.getvalue()


def pixels(made: Converted) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(made.jpeg))).astype(int)


def quarters(made: Converted) -> list[str]:
    """Names of the corner colours: top left, top right, bottom left, bottom right."""
    array, names = pixels(made), {"red": RED, "green": GREEN, "blue": BLUE, "white": WHITE}
    height, width = array.shape[:2]
    spots = [array[height * y // 4, width * x // 4] for y, x in ((1, 1), (1, 3), (3, 1), (3, 3))]
    return [min(names, key=lambda name: abs(spot - names[name]).sum()) for spot in spots]


def rejected(data: bytes, **options) -> Rejected:
    with pytest.raises(Rejected) as caught:
        convert(data, **options)
    assert caught.value.reason and "\n" not in caught.value.reason
    return caught.value


def with_exif(orientation: int, image: Image.Image | None = None) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(image or corners(), exif=exif)


UPRIGHT = ["red", "green", "blue", "white"]
