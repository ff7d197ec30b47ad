"""One image in any state → an upright sRGB JPEG, or the reason why not.

Decoders disagree on what is corrupt, so the verdict is made once, here, by a full strict decode, and recorded; whoever reads a
shard never meets a broken image. Nothing is judged by a file's name: magic bytes say what it is.

What happens to each kind:
- JPEG (RGB, gray): libjpeg-turbo in strict mode: any loss of data is `corrupt`. Harmless oddities (a few stray bytes between
  segments, a broken ICC chunk) and CMYK/YCCK go through Pillow, which refuses cut-off files as well.
- PNG, GIF, BMP, TIFF, WebP: Pillow. Several frames (GIF, TIFF, WebP, MPO): the first. Transparency: onto white.
  16 bits a channel: the upper 8. Float or 32-bit integer samples have no defined white: `unsupported`.
- ICC profile: converted to sRGB; a profile that cannot be used is ignored. CMYK without profile: the naive formula of Pillow.
- Orientation: exactly one of the CSV's rotation and the EXIF tag (`upright`).
"""

import io
import re
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

ImageFile.LOAD_TRUNCATED_IMAGES = False
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
MAX_SCANS = 100  # a progressive JPEG has about ten; each extra one costs a pass over all pixels (libjpeg-turbo's advice is a cap)
DETAIL = 1.5  # JPEGs are decoded at this multiple of the target or more: twice as fast as in full, and a median 42 dB from it
STRAY_BYTES = 16  # this many between the image data and the end marker are padding, more are lost data
TRANSPOSE = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
             5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
             8: Image.Transpose.ROTATE_90}  # EXIF orientation → what makes it upright
COUNTER_CLOCKWISE = {90: 8, 180: 3, 270: 6}  # the CSV's degrees as EXIF orientation
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")


class Rejected(Exception):
    """An image that cannot be packed: `status` is one word for the sidecar, `reason` a sentence."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Limits:
    """Caps checked before anything is decoded: `max_bytes` of the file, `max_pixels` of its header."""

    max_bytes: int = 64 << 20
    max_pixels: int = 100_000_000


@dataclass(frozen=True)
class Converted:
    """A JPEG of `width` × `height` pixels; `original` says what it was made of (format, mode, size, orientation applied)."""

    jpeg: bytes
    width: int
    height: int
    original: dict


def convert(data: bytes, rotation: int | None = None, resize: int | None = 256, quality: int = 90, limits: Limits = Limits(),
            exif_first: bool = False) -> Converted:
    """Makes an upright sRGB JPEG, 4:2:0, without metadata, its short side reduced to `resize` pixels (never enlarged).

    `rotation` is the CSV's (degrees counter-clockwise, None = unknown), `exif_first` as in `upright`. With `resize=None` a JPEG
    that is upright, sRGB, three-channel and single passes byte for byte after a full decode; any other is converted at full
    size. The same input gives the same bytes. One call at a time in a process: Pillow's bomb warnings become errors by a
    process-wide filter. Raises Rejected (empty, too_large, not_image, placeholder, unsupported, corrupt).
    """
    check_bytes(data, limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return converted(data, rotation, resize, quality, limits, exif_first)
        except Rejected:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            pixels = re.search(r"\((\d+) pixels\)", str(error))
            raise Rejected("too_large", f"{int(pixels[1]):,} pixels, more than max_pixels={limits.max_pixels:,}" if pixels else
                           sentence(error)) from error
        except MemoryError as error:
            raise Rejected("too_large", "it does not fit into memory") from error
        except Exception as error:  # what Pillow's parsers raise on hostile bytes is any of a dozen types
            raise Rejected("corrupt", sentence(error)) from error


def converted(data: bytes, rotation: int | None, resize: int | None, quality: int, limits: Limits, exif_first: bool) -> Converted:
    image = open_image(data, limits)
    orientation = upright(rotation, image.getexif().get(274), exif_first)
    original = {"format": image.format, "mode": image.mode, "width": image.width, "height": image.height,
                "orientation": orientation}
    if image.format == "PNG":
        refuse_placeholder(image)
    if image.format in ("JPEG", "MPO"):
        pixels, clean = decode_jpeg(data, image, resize)
        if resize is None and clean and passes_untouched(image, orientation):
            return Converted(data, image.width, image.height, original)
    else:
        pixels = flat(image)
    pixels = reduced(pixels, image.size, resize)
    pixels = to_srgb(pixels, image.info.get("icc_profile"))
    if orientation in TRANSPOSE:
        pixels = pixels.transpose(TRANSPOSE[orientation])
    return Converted(encode(pixels, quality), pixels.width, pixels.height, original)


def encode(image: Image.Image, quality: int) -> bytes:
    """The slow, exact DCT: its result does not depend on the processor."""
    pixels = np.ascontiguousarray(image)
    return simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420", fastdct=False)


def check_bytes(data: bytes, limits: Limits) -> None:
    """Raises Rejected on what the first bytes and the size alone tell."""
    if not data:
        raise Rejected("empty", "the file has 0 bytes")
    if len(data) > limits.max_bytes:
        raise Rejected("too_large", f"{len(data):,} bytes, more than max_bytes={limits.max_bytes:,}")
    if data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        raise Rejected("placeholder", "an XML or HTML page instead of an image: " + data[:60].decode("ascii", "replace").strip())
    if data[:2] == b"\xff\xd8" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise Rejected("too_large", f"a JPEG of {scans:,} scans (a decompression bomb)")


def open_image(data: bytes, limits: Limits) -> Image.Image:
    """Reads the header. Raises Rejected if it is no image, or one of more than `max_pixels`."""
    Image.MAX_IMAGE_PIXELS = limits.max_pixels  # Pillow's own check, for the frames that it finds later
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        kind = magic(data)
        raise Rejected(*(("corrupt", f"the {kind} header cannot be read") if kind else
                         ("not_image", f"no image format starts with the bytes {data[:8].hex(' ')}"))) from None
    if image.width * image.height > limits.max_pixels:
        raise Rejected("too_large", f"{image.width} x {image.height} pixels, more than max_pixels={limits.max_pixels:,}")
    return image


def magic(data: bytes) -> str | None:
    """The format that the first bytes claim."""
    starts = {b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
    webp = "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None
    return next((name for start, name in starts.items() if data.startswith(start)), webp)


def upright(rotation: int | None, exif: int | None, exif_first: bool) -> int:
    """The EXIF orientation (1–8) to apply: from exactly one of the CSV and the tag.

    Packs and folders: the CSV's rotation was made for these pixels and wins; the tag counts where the CSV is silent. Originals
    from their URL (`exif_first`): a tag that says turn or mirror wins, since it travels with these very bytes; Flickr's rotation
    (the CSV's) says the same of them in degrees, so applying both would turn twice. A tag of 1 is what cameras without a sensor
    write: the CSV counts.
    """
    tag = exif if exif in TRANSPOSE else 1
    if rotation is None or (exif_first and tag != 1):
        return tag
    return COUNTER_CLOCKWISE.get(rotation, 1)


def decode_jpeg(data: bytes, image: Image.Image, resize: int | None) -> tuple[Image.Image, bool]:
    """The pixels, reduced by libjpeg's DCT scaling to no less than DETAIL × `resize`, and whether the file had no oddity at all.

    The whole file is read and checked at any scale. Raises Rejected if data are missing.
    """
    if image.mode == "CMYK":
        image.load()
        return image, False
    least = 0 if resize is None else min(int(DETAIL * resize), image.width, image.height)
    colorspace = "GRAY" if image.mode == "L" else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace, fastdct=False, fastupsample=False, min_height=least, min_width=least)
    except ValueError as error:
        if not harmless(str(error)):
            raise Rejected("corrupt", sentence(error)) from error
        image.load()
        return image, False
    return Image.fromarray(pixels[:, :, 0] if colorspace == "GRAY" else pixels), True


def harmless(warning: str) -> bool:
    """Whether a libjpeg warning leaves all pixels in place; what else is wrong then shows in Pillow's decode."""
    if stray := re.search(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})", warning):
        count, marker = int(stray[1]), int(stray[2], 16)
        return not 0xD0 <= marker <= 0xD9 or (marker == 0xD9 and count <= STRAY_BYTES)
    return "bad ICC marker" in warning or "Could not determine subsampling" in warning


def passes_untouched(image: Image.Image, orientation: int) -> bool:
    """Whether a reader that ignores EXIF and profiles, and one that obeys them, both see these bytes as upright sRGB."""
    profile = image.info.get("icc_profile")
    return (image.format == "JPEG" and image.mode == "RGB" and orientation == 1 and image.getexif().get(274, 1) == 1
            and (not profile or is_srgb(profile)))


def is_srgb(profile: bytes) -> bool:
    try:
        return "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False


def flat(image: Image.Image) -> Image.Image:
    """8-bit L, RGB, CMYK or LAB of any mode, transparency onto white. Raises Rejected for modes without a defined white."""
    if image.mode in ("I", "F"):
        raise Rejected("unsupported", f"32-bit samples (mode {image.mode}) have no defined white")
    if image.mode in DEEP:
        return deep_to_8_bit(image)
    if "A" in image.mode[1:] or "a" in image.mode or "transparency" in image.info:
        return onto_white(image)
    image.load()
    return image if image.mode in ("L", "RGB", "CMYK", "LAB") else image.convert("RGB")


def target_size(width: int, height: int, resize: int | None) -> tuple[int, int]:
    """(width, height) with a short side of `resize`; unchanged if it is that small already."""
    short = min(width, height)
    if resize is None or short <= resize:
        return width, height
    return max(1, round(width * resize / short)), max(1, round(height * resize / short))


def reduced(pixels: Image.Image, size: tuple[int, int], resize: int | None) -> Image.Image:
    """Lanczos from `pixels`, which show an image of `size` (width, height) at n/8 of it, to the target size.

    The decoder rounds sides up, so at n/8 the image may end inside the last row and column; `box` leaves that rest out.
    """
    eighths = next(n for n in range(1, 9) if all(-(-side * n // 8) == now for side, now in zip(size, pixels.size, strict=True)))
    box = (0, 0, size[0] * eighths / 8, size[1] * eighths / 8)
    target = target_size(*size, resize)
    return pixels if pixels.size == target else pixels.resize(target, Image.Resampling.LANCZOS, box)


def deep_to_8_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def onto_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, through the embedded profile if there is one; a broken one, or one of another colour space, is ignored."""
    if profile and not is_srgb(profile):
        try:
            return ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), SRGB, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


def refuse_placeholder(image: Image.Image) -> None:
    """Raises Rejected on the grey PNG that Flickr answers for a removed photo: colourless, and mostly of one grey."""
    if image.mode not in ("L", "P", "RGB", "RGBA"):
        return
    small = np.asarray(onto_white(image).resize((64, 64), Image.Resampling.NEAREST)).astype(np.int16)
    greys = np.bincount(small[:, :, 1].ravel(), minlength=256)
    colourless = (small.max(2) - small.min(2)).max() <= 8
    if colourless and greys.max() > small.shape[0] * small.shape[1] / 2 and 32 < greys.argmax():
        raise Rejected("placeholder", "a grey PNG, as Flickr answers for a removed photo")


def sentence(error: BaseException) -> str:
    """A decoder's message on one line."""
    return " ".join((str(error) or type(error).__name__).split())[:200]
