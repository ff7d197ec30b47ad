"""The one decoder of pictures: any file, in any state → upright sRGB pixels, or the reason why not.

`c2srt shard` packs what it gives, `c2srt predict` and the served model rank it, and the loader
falls back on it: a picture looks the same wherever it is seen. Nothing is judged by a file's name:
magic bytes say what it is, and only FORMATS are ever opened.

What happens to each kind:
- JPEG (RGB, gray): libjpeg-turbo in strict mode: any loss of data is `corrupt`. Harmless oddities
  (a few stray bytes between segments, a broken ICC chunk) and CMYK/YCCK go through Pillow, which
  refuses cut-off files as well. Only the DCT kinds that the world writes (SCALABLE) are ever
  decoded at a scale.
- HEIC (an extra): pillow_heif, which turns it upright.
- PNG, GIF, BMP, TIFF, WebP: Pillow. Several frames (GIF, TIFF, WebP, MPO): the first. Transparency:
  onto white. 16 bits a channel: the upper 8. Float or 32-bit integer samples have no defined white:
  `unsupported`.
- ICC profile: converted to sRGB; a profile that cannot be used is ignored. CMYK without profile:
  the naive formula of Pillow.
- Orientation: the EXIF tag (sharding knows another source of it).

The limits are arguments; Pillow's process-wide MAX_IMAGE_PIXELS is neither set nor needed, and no
warnings filter is touched, so that threads may decode beside each other. (Where a process leaves it
in place, Pillow still refuses some WebP, GIF and tiled TIFF files of more than twice that many
pixels.)
"""

import io
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import simplejpeg
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

ImageFile.LOAD_TRUNCATED_IMAGES = False


def heif(file: io.BytesIO) -> Image.Image:
    """Raises Rejected if the extra that reads it is not installed."""
    if not HEIF_IS_READ:
        from c2srt.extras import install  # half of this file's own import, for a sentence

        raise Rejected(
            "unsupported", f"a HEIC photograph, which needs `{install('heic')}` to be read"
        )
    from pillow_heif import HeifImageFile

    return HeifImageFile(file)


FORMATS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "HEIF": heif,
}
"""What reads each format's header. Pillow's `Image.open` would ask its process-wide limit of pixels
instead of ours.
"""
HEIF_LIBRARY = "pillow_heif"
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HEIF_IS_READ = find_spec(HEIF_LIBRARY) is not None
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".apng",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    *(HEIF_SUFFIXES if HEIF_IS_READ else ()),
)
"""Names that files of FORMATS usually have: what a folder is searched for."""
MAGIC = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SCALABLE = (0xC0, 0xC1, 0xC2)
"""Start-of-frame markers: baseline, extended and progressive, Huffman-coded. A lossless frame
(0xC3) has no DCT: libjpeg-turbo 3 writes it in full into the buffer of the scaled size.
Arithmetic-coded and hierarchical ones are too rare to be worth it.
"""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ALONE = frozenset(
    (0x00, 0x01, *range(0xD0, 0xD9))
)  # markers (and stuffed zeros) that no length follows
MAX_PIXELS = 2**28  # of a shard's image: decoded a larger one would take 0.8 GB and more
# a progressive JPEG has about ten; each extra one costs a pass over all pixels (libjpeg-turbo's
# advice is a cap)
MAX_SCANS = 100
STRAY_BYTES = (
    16  # this many between the image data and the end marker are padding, more are lost data
)
ORIENTATION = 274  # the EXIF tag
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation → what makes it upright
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")


class Rejected(Exception):
    """A picture that cannot be used: `status` is one word for tables, `reason` a sentence."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)  # both, so that it can be sent between processes
        self.status, self.reason = status, reason

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


@dataclass(frozen=True)
class Limits:
    """Caps checked before anything is decoded: `max_bytes` of the file, `max_pixels` of its
    header.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 100_000_000


def decode(data: bytes, limits: Limits = Limits()) -> np.ndarray:
    """A file's bytes -> [H, W, 3] uint8, upright sRGB. Raises Rejected (empty, too_large,
    not_image, placeholder, unsupported, corrupt).
    """
    with rejections():
        check_bytes(data, limits)
        image = open_image(data, limits)
        pixels = decode_jpeg(data, image)[0] if image.format in ("JPEG", "MPO") else flat(image)
        return np.array(
            upright(
                to_srgb(pixels, image.info.get("icc_profile")), image.getexif().get(ORIENTATION)
            )
        )


def decode_packed(encoded: bytes, most_pixels: int) -> np.ndarray:
    """A shard's image -> [H, W, 3] uint8 RGB: what the loader takes and the audit passes. Sound
    JPEGs, which is what shards hold, go straight through libjpeg-turbo. Raises ValueError with the
    reason if it is broken or has more than `most_pixels`.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
        if height * width <= most_pixels:
            return simplejpeg.decode_jpeg(encoded, "RGB")
    except ValueError:
        # no JPEG, an odd one, or of a colour space (CMYK) that libjpeg-turbo does not turn into RGB
        pass
    try:
        return decode(encoded, Limits(len(encoded), most_pixels))
    except Rejected as rejected:
        raise ValueError(f"the image cannot be decoded: {rejected.reason}") from rejected


def from_pillow(image: Image.Image, limits: Limits = Limits()) -> np.ndarray:
    """As `decode`, of a picture that somebody opened or made with Pillow; it is left as it is."""
    with rejections():
        check_size(image, limits)
        return np.array(
            upright(
                to_srgb(flat(image), image.info.get("icc_profile")),
                image.getexif().get(ORIENTATION),
            )
        )


@contextmanager
def rejections() -> Iterator[None]:
    """Everything that decoders raise as Rejected."""
    try:
        yield
    except Rejected:
        raise
    except Image.DecompressionBombError as error:
        raise Rejected("too_large", sentence(error)) from error
    except MemoryError as error:
        raise Rejected("too_large", "it does not fit into memory") from error
    except (
        Exception
    ) as error:  # what Pillow's parsers raise on hostile bytes is any of a dozen types
        raise Rejected("corrupt", sentence(error)) from error


def check_bytes(data: bytes, limits: Limits) -> None:
    """Raises Rejected on what the first bytes and the size alone tell."""
    if not data:
        raise Rejected("empty", "the file has 0 bytes")
    check_bytes_of(len(data), limits)
    if data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        raise Rejected(
            "placeholder",
            "an XML or HTML page instead of an image: "
            + data[:60].decode("ascii", "replace").strip(),
        )
    if data[:2] == b"\xff\xd8" and (scans := count_scans(data)) > MAX_SCANS:
        raise Rejected("too_large", f"a JPEG of {scans:,} scans (a decompression bomb)")


def check_bytes_of(size: int, limits: Limits) -> None:
    """Of a file of `size` bytes. Raises Rejected if it is too large."""
    if size > limits.max_bytes:
        raise Rejected("too_large", f"{size:,} bytes, more than max_bytes={limits.max_bytes:,}")


def count_scans(data: bytes) -> int:
    """How often 0xFF 0xDA stands there; `bytes.count` takes four times as long."""
    pairs = (np.frombuffer(data, "<u2", (len(data) - odd) // 2, odd) for odd in (0, 1))
    return sum(int(np.count_nonzero(each == 0xDAFF)) for each in pairs)


def open_image(data: bytes, limits: Limits) -> Image.Image:
    """Reads the header. Raises Rejected if it is no image, or one of more than `max_pixels`."""
    kind = magic(data)
    if kind is None:
        raise Rejected("not_image", f"no image format starts with the bytes {data[:8].hex(' ')}")
    try:
        image = FORMATS[kind](io.BytesIO(data))
    except (
        SyntaxError,
        IndexError,
        TypeError,
        struct.error,
    ):  # how Pillow's readers say "not mine"
        raise Rejected("corrupt", f"the {kind} header cannot be read") from None
    check_size(image, limits)
    return image


def check_size(image: Image.Image, limits: Limits) -> None:
    if image.width * image.height > limits.max_pixels:
        raise Rejected(
            "too_large",
            f"{image.width:,} x {image.height:,} pixels, more than"
            f" max_pixels={limits.max_pixels:,}",
        )


def magic(data: bytes) -> str | None:
    """The format that the first bytes claim."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        size = int.from_bytes(data[:4])
        return None if b"avif" in data[8:size] else "HEIF"
    return next((name for start, name in MAGIC.items() if data.startswith(start)), None)


def decode_jpeg(data: bytes, image: Image.Image, least: int = 0) -> tuple[Image.Image, bool]:
    """The pixels, reduced by libjpeg's DCT scaling to sides of no less than `least` (0, and what
    has no DCT: in full), and whether the file had no oddity at all.

    The whole file is read and checked at any scale. Raises Rejected if data are missing.
    """
    if image.mode == "CMYK":
        image.load()
        return image, False
    colorspace = "GRAY" if image.mode == "L" else "RGB"
    least = least if frame_of(data) in SCALABLE else 0
    try:
        pixels = simplejpeg.decode_jpeg(
            data, colorspace, fastdct=False, fastupsample=False, min_height=least, min_width=least
        )
    except ValueError as error:
        if not harmless(str(error)):
            raise Rejected("corrupt", sentence(error)) from error
        image.load()
        return image, False
    return Image.fromarray(pixels[:, :, 0] if colorspace == "GRAY" else pixels), True


def frame_of(data: bytes) -> int | None:
    """The first start-of-frame marker (0xC0 … 0xCF), found as libjpeg walks the segments; None if
    there is none.
    """
    place = 2
    while (place := data.find(b"\xff", place)) >= 0:
        while data[place : place + 1] == b"\xff":  # fill bytes
            place += 1
        marker = data[place] if place < len(data) else None
        if marker in FRAMES:
            return marker
        if marker in (None, 0xD9, 0xDA):  # the end, or the pixels
            return None
        place += 1 if marker in ALONE else 1 + max(2, int.from_bytes(data[place + 1 : place + 3]))
    return None


def harmless(warning: str) -> bool:
    """Whether a libjpeg warning leaves all pixels in place; what else is wrong then shows in
    Pillow's decode.
    """
    if stray := re.search(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})", warning):
        count, marker = int(stray[1]), int(stray[2], 16)
        return not 0xD0 <= marker <= 0xD9 or (marker == 0xD9 and count <= STRAY_BYTES)
    return "bad ICC marker" in warning or "Could not determine subsampling" in warning


def flat(image: Image.Image) -> Image.Image:
    """8-bit L, RGB, CMYK or LAB of any mode, transparency onto white. Raises Rejected for modes
    without a defined white.
    """
    if image.mode in ("I", "F"):
        raise Rejected("unsupported", f"32-bit samples (mode {image.mode}) have no defined white")
    if image.mode in DEEP:
        return deep_to_8_bit(image)
    if "A" in image.mode[1:] or "a" in image.mode or "transparency" in image.info:
        return onto_white(image)
    image.load()
    return image if image.mode in ("L", "RGB", "CMYK", "LAB") else image.convert("RGB")


def deep_to_8_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def onto_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, through the embedded profile if there is one; a broken one, or one of another colour
    space, is ignored.
    """
    if profile and not is_srgb(profile):
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), SRGB, outputMode="RGB"
            )
            assert converted is not None  # it is None only where an image is converted in place
            return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


def is_srgb(profile: bytes) -> bool:
    try:
        return "sRGB" in ImageCms.getProfileDescription(
            ImageCms.ImageCmsProfile(io.BytesIO(profile))
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False


def upright(image: Image.Image, orientation: int | None) -> Image.Image:
    """Turned or mirrored as an EXIF orientation (1–8) asks; what is none leaves it."""
    return image.transpose(TRANSPOSE[orientation]) if orientation in TRANSPOSE else image


def sentence(error: BaseException) -> str:
    """A decoder's message on one line."""
    return " ".join((str(error) or type(error).__name__).split())[:200]
