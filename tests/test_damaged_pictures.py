"""sharding/decode.py: what is no picture, or no whole one, has its reason."""

import io

import numpy as np
import pytest
from PIL import Image

from c2srt.pictures import count_scans
from c2srt.sharding.decode import Limits, Rejected, convert
from tests.coloured import RED, SHARED, UPRIGHT, corners, encoded, quarters, rejected, with_exif

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on odd metadata


@pytest.mark.parametrize("resize", [256, None])
def test_cut_off_and_damaged_files_are_corrupt(resize):
    random = np.random.default_rng(1)
    noise = Image.fromarray(random.integers(0, 256, (400, 600, 3), np.uint8))
    jpeg, png = encoded(noise), encoded(noise, "PNG")
    for data in (
        jpeg[:-2],
        jpeg[: len(jpeg) // 2],
        jpeg[:300],
        png[: len(png) // 2],
        encoded(noise, "GIF")[:5000],
        encoded(noise, "BMP")[:5000],
        encoded(noise, "WEBP")[:3000],
        encoded(noise, "TIFF")[:5000],
    ):
        assert rejected(data, resize=resize).status == "corrupt"
    flipped = bytearray(jpeg)
    flipped[len(jpeg) // 2 : len(jpeg) // 2 + 2000] = bytes(2000)
    assert rejected(bytes(flipped), resize=resize).status == "corrupt"


def test_stray_bytes_that_lose_nothing_are_forgiven():
    data = encoded(corners())
    assert quarters(convert(data[:-2] + b"\0\0\0" + data[-2:])) == UPRIGHT
    assert quarters(convert(data + b"trailing")) == UPRIGHT


def test_empty_foreign_and_placeholder_files():
    assert rejected(b"").status == "empty"
    assert rejected(b"hello there, not an image").status == "not_image"
    assert rejected(b"%PDF-1.4 ...").status == "not_image"
    for page in (
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        b"\n<!DOCTYPE html><html>gone</html>",
        b"\xef\xbb\xbf<html>",
    ):
        assert rejected(page).status == "placeholder"


def test_the_grey_png_of_a_removed_photo_is_a_placeholder():
    grey = Image.new("RGB", (500, 374), (238, 238, 238))
    grey.paste((150, 150, 150), (150, 160, 350, 210))
    assert rejected(encoded(grey, "PNG")).status == "placeholder"
    assert rejected(encoded(grey.convert("P"), "PNG")).status == "placeholder"
    assert convert(encoded(corners(), "PNG")).width == 96
    assert convert(encoded(grey)).width == 342  # a real JPEG of a grey wall is a photo


def test_caps_are_checked_before_decoding():
    assert "pixels" in rejected(encoded(corners()), limits=Limits(max_pixels=96 * 64 - 1)).reason
    assert convert(encoded(corners()), limits=Limits(max_pixels=96 * 64)).width == 96
    assert rejected(encoded(corners()), limits=Limits(max_bytes=100)).status == "too_large"
    huge = bytearray(encoded(corners()))
    start = huge.index(b"\xff\xc0")
    huge[start + 5 : start + 9] = b"\xff\xff\xff\xff"
    assert (
        "65,535 x 65,535 pixels, more than max_pixels=100,000,000" in rejected(bytes(huge)).reason
    )


def test_the_limit_of_pixels_is_ours_alone(monkeypatch):
    """Pillow's process-wide one is neither asked nor set."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for kind in ("JPEG", "PNG", "BMP", "MPO"):
        assert convert(encoded(corners(), kind)).width == 96
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for kind in ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"):
        assert (
            rejected(encoded(corners(), kind), limits=Limits(max_pixels=96 * 64 - 1)).status
            == "too_large"
        )
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_side_too_long_for_a_jpeg_has_its_reason():
    error = rejected(encoded(Image.new("RGB", (70_000, 1), RED), "PNG"))
    assert (
        error.status == "unsupported"
        and error.reason == "70,000 x 1 pixels: a JPEG has at most 65,500 a side"
    )


def test_a_jpeg_of_too_many_scans_is_too_large():
    data = encoded(corners(), progressive=True)
    scan = data.index(b"\xff\xda")
    assert rejected(data[:scan] + data[scan:-2] * 200 + data[-2:]).status == "too_large"


def test_scans_are_counted_as_bytes_are():
    random = np.random.default_rng(0)
    for size in [*range(2, 40)] * 20:
        data = random.choice(np.array([0xFF, 0xDA, 0], np.uint8), size).tobytes()
        assert count_scans(data) == data.count(b"\xff\xda")


def test_mutated_files_never_raise_anything_else():
    """Random damage to each format: converted or Rejected, nothing else escapes."""
    random = np.random.default_rng(2)
    sources = [
        encoded(corners(), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
    ] + [
        encoded(corners(), progressive=True),
        with_exif(6),
    ]
    for number in range(400):
        data = bytearray(sources[number % len(sources)])
        for place in random.integers(0, len(data), random.integers(1, 20)):
            data[place] = random.integers(0, 256)
        try:
            assert convert(bytes(data), limits=Limits(max_pixels=1_000_000)).jpeg
        except Rejected as error:
            assert error.status and error.reason


HOSTILE = {  # everything else is packed
    "broken.png": "corrupt",
    "broken_data_stream.png": "corrupt",
    "corrupted.jpg": "corrupt",
    "dc-predictor-overflow.jpg": "corrupt",
    "decompression_bomb.gif": "too_large",
    "empty.jpg": "empty",
    "invalid-dimensions.jpg": "corrupt",
    "jpeg_lossless_sel1.jpg": "corrupt",
    "max_size.jpg": "too_large",
    "missing-sof.jpg": "corrupt",
    "null_height.jpg": "corrupt",
    "partial_progressive.jpg": "corrupt",
    "truncated_image.png": "corrupt",
    "truncated_jpeg.jpg": "corrupt",
    "ultrahdr.jpg": "corrupt",
}


@pytest.mark.parametrize("resize", [256, None])
def test_each_hostile_image_is_packed_right_or_has_its_reason(resize):
    folder = SHARED / "hostile_images"
    if not folder.is_dir():
        pytest.skip("needs shared/data/hostile_images")
    verdicts = {}
    for path in sorted(folder.iterdir()):
        try:
            made = convert(path.read_bytes(), resize=resize)
        except Rejected as error:
            verdicts[path.name] = error.status
            continue
        with Image.open(path) as original:
            turned = original.getexif().get(274, 1) >= 5
            width, height = original.size[::-1] if turned else original.size
        short = min(width, height, resize or 10**9)
        again = Image.open(io.BytesIO(made.jpeg))
        again.load()
        assert (again.format, again.mode, min(again.size)) == ("JPEG", "RGB", short), path.name
        assert (again.width > again.height) == (width > height), path.name
    assert verdicts == HOSTILE
