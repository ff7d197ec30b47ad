"""sharding/decode.py: every kind of image file becomes an upright sRGB JPEG or a status with its
reason.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageOps

from c2srt.isolation import Isolated
from c2srt.pictures import decode_jpeg, frame_of
from c2srt.sharding.decode import convert, encode
from tests.coloured import (
    BLUE,
    GREEN,
    RED,
    SHARED,
    UPRIGHT,
    corners,
    encoded,
    pixels,
    quarters,
    rejected,
    with_exif,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on odd metadata


TURNED_LEFT = ["green", "white", "red", "blue"]  # 90 degrees counter-clockwise


@pytest.mark.parametrize(
    "rotation, expected, size",
    [
        (None, UPRIGHT, (96, 64)),
        (0, UPRIGHT, (96, 64)),
        (90, TURNED_LEFT, (64, 96)),
        (180, UPRIGHT[::-1], (96, 64)),
        (270, TURNED_LEFT[::-1], (64, 96)),
    ],
)
def test_the_csv_rotation_is_counter_clockwise(rotation, expected, size):
    made = convert(encoded(corners()), rotation)
    assert (
        quarters(made) == expected
        and (made.width, made.height) == size == Image.open(io.BytesIO(made.jpeg)).size
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_obeyed_and_then_gone(orientation):
    made = convert(with_exif(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(with_exif(orientation)))))
    assert abs(pixels(made) - expected).mean() < 3
    assert not Image.open(io.BytesIO(made.jpeg)).getexif()


@pytest.mark.parametrize(
    "rotation, tag, exif_first, applied",
    [
        (90, 6, False, 8),  # pixels of a pack or folder: the CSV speaks of them
        (0, 6, False, 1),  # even when it says "none"
        (None, 6, False, 6),  # the CSV is silent
        (270, 6, True, 6),  # an original from its URL: both say the same, applied once
        (90, 1, True, 8),  # a tag of 1 is what a camera without a sensor writes
        (90, None, True, 8),
        (None, 99, True, 1),  # nonsense
    ],
)
def test_exactly_one_of_csv_and_exif_is_applied(rotation, tag, exif_first, applied):
    data = encoded(corners()) if tag is None else with_exif(tag)
    made = convert(data, rotation, exif_first=exif_first)
    assert made.original["orientation"] == applied
    assert quarters(made) == quarters(convert(with_exif(applied)))


def test_short_side_is_reduced_and_never_enlarged():
    assert [
        (made.width, made.height)
        for made in (convert(encoded(corners(1024, 683))), convert(encoded(corners(683, 1024))))
    ] == [(384, 256), (256, 384)]
    assert (
        convert(encoded(corners(300, 100))).width,
        convert(encoded(corners(300, 100))).height,
    ) == (300, 100)
    assert convert(encoded(corners(3000, 2)), resize=1).height == 1


@pytest.mark.parametrize(
    "size", [(1024, 683), (1023, 767), (4000, 700), (513, 512), (1000, 682), (3000, 2048)]
)
def test_reduction_in_the_jpeg_decoder_equals_a_full_decode(size):
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (size[1] // 16, size[0] // 16, 3), np.uint8)
    data = encoded(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    made = convert(data, quality=100)
    full = Image.open(io.BytesIO(data)).resize((made.width, made.height), Image.Resampling.BICUBIC)
    same = np.asarray(Image.open(io.BytesIO(encode(full, 100)))).astype(int)
    assert np.sqrt(((pixels(made) - same) ** 2).mean()) < 2


def test_modes_become_srgb():
    photo = corners()
    for image in (photo.convert("CMYK"), photo.convert("P"), photo.convert("YCbCr")):
        kind = "GIF" if image.mode == "P" else "JPEG"
        assert quarters(convert(encoded(image, kind))) == UPRIGHT
    grey = convert(encoded(photo.convert("L")))
    assert pixels(grey).shape == (64, 96, 3) and np.ptp(pixels(grey), axis=2).max() <= 2


def test_16_bit_grey_keeps_its_upper_8_bits():
    ramp = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        assert (
            abs(
                pixels(convert(encoded(Image.fromarray(ramp), kind), quality=100))[:, :, 0]
                - (ramp >> 8)
            ).max()
            <= 3
        )


def test_16_bit_colour_png():
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            len(content).to_bytes(4, "big")
            + kind
            + content
            + zlib.crc32(kind + content).to_bytes(4, "big")
        )

    rows = b"".join(b"\0" + b"\xff\xff\x80\x00\x00\x00" * 32 for _ in range(32))
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", (32).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0]))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert abs(pixels(convert(data)) - [255, 128, 0]).max() <= 4


def test_float_samples_are_unsupported():
    assert (
        rejected(encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")).status
        == "unsupported"
    )


@pytest.mark.parametrize(
    "kind, mode", [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("WEBP", "RGBA"), ("GIF", "RGBA")]
)
def test_transparency_is_put_onto_white(kind, mode):
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((200, 200, 200, 255), (0, 0, 20, 40))
    options = {"lossless": True} if kind == "WEBP" else {}
    array = pixels(convert(encoded(image.convert(mode), kind, **options)))
    assert abs(array[20, 5] - 200).max() < 6 and array[20, 34].min() > 250


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "MPO", "PNG"])
def test_the_first_of_several_frames_is_taken(kind):
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    array = pixels(convert(encoded(frames[0], kind, save_all=True, append_images=frames[1:])))
    assert abs(array - RED).mean() < 25


def test_an_icc_profile_is_converted_to_srgb_and_dropped():
    wide = swapped_profile()
    made = convert(encoded(Image.new("RGB", (32, 32), RED), icc_profile=wide))
    assert "icc_profile" not in Image.open(io.BytesIO(made.jpeg)).info
    assert (
        abs(pixels(made)[16, 16] - (30, 220, 30)).max() < 40
    )  # the profile says that the first channel is green


def swapped_profile() -> bytes:
    """An sRGB profile whose red and green primaries are exchanged, so that obeying it is plain to
    see.
    """
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    table = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = table[b"rXYZ"], table[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile).replace(b"s\0R\0G\0B", b"t\0e\0s\0t").replace(b"sRGB", b"test")


def test_a_broken_profile_is_ignored():
    assert quarters(convert(encoded(corners(), icc_profile=b"not a profile"))) == UPRIGHT


def test_without_resize_a_conforming_jpeg_keeps_its_bytes():
    data = encoded(corners(700, 500))
    assert convert(data, resize=None).jpeg == data
    assert convert(with_exif(1), 0, resize=None).jpeg == with_exif(1)


@pytest.mark.parametrize(
    "what, data, rotation",
    [
        ("turned by the CSV", encoded(corners()), 90),
        ("EXIF that a reader might obey", with_exif(6), 0),
        ("gray", encoded(corners().convert("L")), 0),
        ("CMYK", encoded(corners().convert("CMYK")), 0),
        ("PNG", encoded(corners(), "PNG"), 0),
        ("profile", encoded(corners(), icc_profile=swapped_profile()), 0),
    ],
)
def test_without_resize_others_are_converted_at_full_size(what, data, rotation):
    made = convert(data, rotation, resize=None)
    again = Image.open(io.BytesIO(made.jpeg))
    assert (
        made.jpeg != data
        and again.mode == "RGB"
        and sorted(again.size) == [64, 96]
        and not again.getexif()
    )


def test_what_is_encoded_is_420_and_reproducible():
    first, second = (convert(encoded(corners(600, 400))) for _ in range(2))
    assert first.jpeg == second.jpeg
    assert simplejpeg.decode_jpeg_header(first.jpeg)[3] == "420"


def test_the_four_turned_hoppers_are_the_upright_one():
    folder = SHARED / "hostile_images"
    if not folder.is_dir():
        pytest.skip("needs shared/data/hostile_images")
    upright = pixels(convert((folder / "hopper.bmp").read_bytes()))
    for number in (5, 6, 7, 8):
        assert (
            abs(
                pixels(convert((folder / f"hopper_orientation_{number}.jpg").read_bytes()))
                - upright
            ).mean()
            < 8
        )


# --- frames that have no DCT


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def lossless(width: int, height: int, before: bytes = b"") -> bytes:
    """A grey lossless JPEG (SOF3, predictor 1), `before` its other segments."""
    codes = bytes([0, 1, 0, 0, 0, 8, *bytes(11), *range(9)])  # difference 0: one bit
    frame = segment(0xC3, struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0]))
    bits = width * height
    pixels = bytes(bits // 8) + (bytes([0xFF >> bits % 8]) if bits % 8 else b"")
    return (
        b"\xff\xd8"
        + before
        + segment(0xC4, codes)
        + frame
        + segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
        + pixels
        + b"\xff\xd9"
    )


HIDING = {
    "nothing": b"",
    "a comment with a baseline frame in it": segment(0xFE, b"\xff\xc0\x00\x0b" * 9),
    "a thumbnail": segment(0xE1, b"Exif\0\0" + encoded(Image.new("L", (16, 16)))),
    "fill bytes": b"\xff" * 9 + segment(0xFE, b"x"),
    "a short length": b"\xff\xfe\x00\x00",
    "stray bytes": b"abc",
    "a stuffed zero": b"\xff\x00",
    "a lone marker": b"\xff\x01\xff\xd0",
}


@pytest.mark.parametrize("before", HIDING)
def test_a_lossless_frame_is_found_whatever_stands_before_it(before):
    assert frame_of(lossless(8, 8, HIDING[before])) == 0xC3


@pytest.mark.parametrize("kind, frame", [({}, 0xC0), ({"progressive": True}, 0xC2)])
def test_frames_of_real_files(kind, frame):
    data = encoded(corners(), **kind)
    assert (
        frame_of(data) == frame
        and frame_of(data[:20]) is None
        and frame_of(b"\xff\xd8" + b"\xff" * 99) is None
    )
    for marker in (0xC1, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF):
        assert frame_of(data.replace(bytes([0xFF, frame]), bytes([0xFF, marker]), 1)) == marker


@pytest.mark.parametrize(
    "width, height", [(437, 437), (438, 438), (512, 512), (1024, 768), (439, 2000)]
)
def test_a_lossless_jpeg_is_decoded_in_full(width, height):
    """In a process of its own: at a scale it writes beyond its buffer."""
    isolated = Isolated("c2srt.sharding.decode:convert")
    for before in ("nothing", "a comment with a baseline frame in it"):
        made = isolated(lossless(width, height, HIDING[before]))
        assert min(made.width, made.height) == 256 and made.original["width"] == width
    isolated.end()


@pytest.mark.parametrize("marker, least", [(0xC0, 48), (0xC1, 48), (0xC9, 0), (0xC3, 0), (0xCB, 0)])
def test_only_a_dct_that_is_coded_as_usual_is_scaled(monkeypatch, marker, least):
    data, asked = encoded(corners()), []
    image = Image.open(io.BytesIO(data))

    def noted(*_: object, **options: int) -> np.ndarray:
        asked.append(options["min_width"])
        return np.array(image)

    monkeypatch.setattr("c2srt.pictures.simplejpeg.decode_jpeg", noted)
    decode_jpeg(data.replace(b"\xff\xc0", bytes([0xFF, marker]), 1), image, 48)
    assert asked == [least]
