"""One image in any state → an upright sRGB JPEG, or the reason why not.

Decoders disagree on what is corrupt, so the verdict is made once, by a full strict decode
(c2srt/pictures.py says what happens to each kind of file), and recorded; whoever reads a shard
never meets a broken image. What is added here: the CSV's rotation beside the EXIF tag
(`orientation_of`), the reduction to a short side, and the grey PNG of a removed photo.
"""

import os
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

from c2srt.pictures import (
    ORIENTATION,
    TRANSPOSE,
    Limits,
    Rejected,
    check_bytes,
    check_bytes_of,
    decode_jpeg,
    flat,
    is_srgb,
    onto_white,
    open_image,
    rejections,
    to_srgb,
    upright,
)

LONGEST = 65_500  # pixels of a side: libjpeg's limit
COUNTER_CLOCKWISE = {90: 8, 180: 3, 270: 6}  # the CSV's degrees as EXIF orientation


@dataclass(frozen=True)
class Converted:
    """A JPEG of `width` × `height` pixels; `original` says what it was made of (format, mode, size,
    orientation applied).
    """

    jpeg: bytes
    width: int
    height: int
    original: dict


LIMITS = Limits()


def convert(
    data: bytes,
    rotation: int | None = None,
    resize: int | None = 256,
    quality: int = 90,
    limits: Limits = LIMITS,
    exif_first: bool = False,
) -> Converted:
    """Makes an upright sRGB JPEG, 4:2:0, without metadata, its short side reduced to `resize`
    pixels (never enlarged).

    `rotation` is the CSV's (degrees counter-clockwise, None = unknown), `exif_first` as in
    `orientation_of`. With `resize=None` a JPEG that is upright, sRGB, three-channel and single
    passes byte for byte after a full decode; any other is converted at full size. The same input
    gives the same bytes. Raises Rejected (empty, too_large, not_image, placeholder, unsupported,
    corrupt).
    """
    with rejections():
        check_bytes(data, limits)
        return converted(data, rotation, resize, quality, limits, exif_first)


def convert_sent(
    data: bytes | memoryview | str,
    rotation: int | None,
    resize: int | None,
    quality: int,
    limits: Limits,
    exif_first: bool,
) -> Converted:
    """`convert` in a process of its own, one call at a time: Pillow's remarks on odd metadata are
    silenced by a process-wide filter. A text is the path of a file, whose bytes need not go through
    a pipe then.
    """
    with warnings.catch_warnings(action="ignore"):
        content = content_of(data, limits) if isinstance(data, str) else bytes(data)
        return convert(content, rotation, resize, quality, limits, exif_first)


def content_of(path: str, limits: Limits) -> bytes:
    """A file's bytes; its size is checked before it is read. Raises Rejected (missing, unreadable,
    too_large).
    """
    name = os.path.basename(path)
    try:
        with open(path, "rb", buffering=0) as file:
            check_bytes_of(os.fstat(file.fileno()).st_size, limits)
            return file.read()
    except FileNotFoundError:
        raise Rejected("missing", f"there is no file {name}") from None
    except OSError as error:
        raise Rejected("unreadable", f"{name}: {error.strerror}") from None


def converted(
    data: bytes,
    rotation: int | None,
    resize: int | None,
    quality: int,
    limits: Limits,
    exif_first: bool,
) -> Converted:
    image = open_image(data, limits)
    orientation = orientation_of(rotation, image.getexif().get(ORIENTATION), exif_first)
    original = {
        "format": image.format,
        "mode": image.mode,
        "width": image.width,
        "height": image.height,
        "orientation": orientation,
    }
    if image.format == "PNG":
        refuse_placeholder(image)
    if image.format in ("JPEG", "MPO"):
        least = 0 if resize is None else min(resize, image.width, image.height)
        pixels, clean = decode_jpeg(data, image, least)
        if resize is None and clean and passes_untouched(image, orientation):
            return Converted(data, image.width, image.height, original)
    else:
        pixels = flat(image)
    pixels = reduced(pixels, image.size, resize)
    pixels = upright(to_srgb(pixels, image.info.get("icc_profile")), orientation)
    return Converted(encode(pixels, quality), pixels.width, pixels.height, original)


def encode(image: Image.Image, quality: int) -> bytes:
    """The slow, exact DCT: its result does not depend on the processor. Raises Rejected if a side
    is too long for a JPEG.
    """
    if max(image.size) > LONGEST:
        raise Rejected(
            "unsupported",
            f"{image.width:,} x {image.height:,} pixels: a JPEG has at most {LONGEST:,} a side",
        )
    pixels = np.ascontiguousarray(image)
    return simplejpeg.encode_jpeg(
        pixels, quality=quality, colorspace="RGB", colorsubsampling="420", fastdct=False
    )


def orientation_of(rotation: int | None, exif: int | None, exif_first: bool) -> int:
    """The EXIF orientation (1–8) to apply: from exactly one of the CSV and the tag.

    Packs and folders: the CSV's rotation was made for these pixels and wins; the tag counts where
    the CSV is silent. Originals from their URL (`exif_first`): a tag that says turn or mirror wins,
    since it travels with these very bytes; Flickr's rotation (the CSV's) says the same of them in
    degrees, so applying both would turn twice. A tag of 1 is what cameras without a sensor write:
    the CSV counts.
    """
    tag = exif if exif in TRANSPOSE else 1
    if rotation is None or (exif_first and tag != 1):
        return tag
    return COUNTER_CLOCKWISE.get(rotation, 1)


def passes_untouched(image: Image.Image, orientation: int) -> bool:
    """Whether a reader that ignores EXIF and profiles, and one that obeys them, both see these
    bytes as upright sRGB.
    """
    profile = image.info.get("icc_profile")
    return (
        image.format == "JPEG"
        and image.mode == "RGB"
        and orientation == 1
        and image.getexif().get(ORIENTATION, 1) == 1
        and (not profile or is_srgb(profile))
    )


def target_size(width: int, height: int, resize: int | None) -> tuple[int, int]:
    """(width, height) with a short side of `resize`; unchanged if it is that small already."""
    short = min(width, height)
    if resize is None or short <= resize:
        return width, height
    return max(1, round(width * resize / short)), max(1, round(height * resize / short))


def reduced(pixels: Image.Image, size: tuple[int, int], resize: int | None) -> Image.Image:
    """Bicubic with antialiasing from `pixels`, which show an image of `size` (width, height) at n/8
    of it, to the target size.

    The decoder rounds sides up, so at n/8 the image may end inside the last row and column; `box`
    leaves that rest out. The decoder's scaling is the better part of the reduction and costs
    nothing, so the smallest n will do: c2srt/BENCHMARKS.md has what that loses. Pillow computes in
    integers, the same on every processor.
    """
    eighths = next(
        n
        for n in range(1, 9)
        if all(-(-side * n // 8) == now for side, now in zip(size, pixels.size, strict=True))
    )
    box = (0, 0, size[0] * eighths / 8, size[1] * eighths / 8)
    target = target_size(*size, resize)
    if box == (0, 0, *target):
        return pixels
    return pixels.resize(target, Image.Resampling.BICUBIC, box)


def refuse_placeholder(image: Image.Image) -> None:
    """Raises Rejected on the grey PNG that Flickr answers for a removed photo: colourless, and
    mostly of one grey.
    """
    if image.mode not in ("L", "P", "RGB", "RGBA"):
        return
    small = np.asarray(onto_white(image).resize((64, 64), Image.Resampling.NEAREST)).astype(
        np.int16
    )
    greys = np.bincount(small[:, :, 1].ravel(), minlength=256)
    colourless = (small.max(2) - small.min(2)).max() <= 8
    if colourless and greys.max() > small.shape[0] * small.shape[1] / 2 and greys.argmax() > 32:
        raise Rejected("placeholder", "a grey PNG, as Flickr answers for a removed photo")
