"""Views: a pure function of (seed, id, view), inside the image, as distributed as promised; pixels
as Pillow would make them.
"""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, functional as pillow_transforms

from c2srt import views
from c2srt.errors import UserError
from c2srt.view_config import ViewConfig
from c2srt.views import View, centre_pixels, decode, view_box, view_pixels


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth structure with an edge, as photographs have."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 20, 20), (width // 3, height // 3, width // 2, height // 2))
    return image


def encoded(image: Image.Image, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **({"quality": 95} if form == "JPEG" else {}))
    return buffer.getvalue()


def assert_alike(found: torch.Tensor, expected: np.ndarray) -> None:
    """[3, S, S] and [S, S, 3] uint8 differ by rounding only: 1 or, in a pixel of ten thousand,
    2.
    """
    off = np.abs(found.numpy().transpose(1, 2, 0).astype(int) - expected.astype(int))
    assert off.max() <= 2 and (off > 1).mean() < 1e-3 and (off > 0).mean() < 0.05


def test_a_view_is_fixed_for_ever():
    """Golden values: a cache made by an older version must still fit."""
    assert view_box(ViewConfig(), 0, "000a1249af2bc5f0", 0, 341, 256) == View(53, 0, 277, 244, True)
    assert view_box(ViewConfig(), 0, "000a1249af2bc5f0", 1, 341, 256) == View(5, 4, 328, 252, True)
    assert view_box(ViewConfig(), 1, "000a1249af2bc5f0", 0, 341, 256) == View(
        98, 35, 240, 209, False
    )


def test_count_does_not_change_a_view():
    assert view_box(ViewConfig(count=2), 0, "a", 1, 300, 200) == view_box(
        ViewConfig(count=9), 0, "a", 1, 300, 200
    )


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.integers(0, 2**40),
    st.text(max_size=20),
    st.integers(0, 50),
)
def test_the_box_lies_in_the_image(width, height, seed, image_id, view):
    box = view_box(ViewConfig(), seed, image_id, view, width, height)
    assert box.left >= 0 and box.left + box.width <= width and box.width >= 1
    assert box.top >= 0 and box.top + box.height <= height and box.height >= 1


def test_areas_ratios_and_flips_are_spread_as_configured():
    config = ViewConfig(scale_min=0.3, scale_max=0.6)
    boxes = [view_box(config, 0, f"{number:016x}", 0, 1000, 1000) for number in range(4000)]
    areas = np.array([box.width * box.height / 1e6 for box in boxes])
    ratios = np.array([box.width / box.height for box in boxes])
    assert areas.min() > 0.298 and areas.max() < 0.602
    np.testing.assert_allclose(
        np.quantile(areas, [0.25, 0.5, 0.75]), [0.375, 0.45, 0.525], atol=0.01
    )
    assert ratios.min() > 0.745 and ratios.max() < 1.34
    assert abs(np.log(ratios).mean()) < 0.01
    assert abs(np.mean([box.flip for box in boxes]) - 0.5) < 0.03
    corners = np.array(
        [(box.left / (1000 - box.width), box.top / (1000 - box.height)) for box in boxes]
    )
    assert np.abs(corners.mean(0) - 0.5).max() < 0.03
    assert not any(
        view_box(ViewConfig(flip=False), 0, str(number), 0, 99, 99).flip for number in range(50)
    )


def test_whole_image_views_are_the_resized_image():
    image = np.array(photo(80, 80))
    config = ViewConfig(scale_min=1, scale_max=1, ratio_min=1, ratio_max=1, flip=False)
    assert torch.equal(view_pixels(image, config, 0, "a", 0, 32), views.resize(image, 32, 32))


def test_view_pixels_are_pillows_crop_resize_and_flip():
    image = photo(300, 200)
    for number in range(8):
        box = view_box(ViewConfig(), 0, "id", number, 300, 200)
        right, bottom = box.left + box.width, box.top + box.height
        expected = image.crop((box.left, box.top, right, bottom)).resize(
            (64, 64), Image.Resampling.BICUBIC
        )
        if box.flip:
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found = view_pixels(np.array(image), ViewConfig(), 0, "id", number, 64)
        assert found.dtype == torch.uint8 and found.shape == (3, 64, 64)
        assert_alike(found, np.array(expected))


@pytest.mark.parametrize(
    "size", [(341, 256), (256, 341), (256, 256), (700, 256), (97, 61), (224, 224), (20, 31)]
)
def test_the_centre_view_is_clips_preprocessing(size):
    image = photo(*size)
    expected = pillow_transforms.resize(image, 224, InterpolationMode.BICUBIC)
    expected = np.array(pillow_transforms.center_crop(expected, 224))
    found = centre_pixels(np.array(image), 224)
    assert found.shape == (3, 224, 224)
    assert_alike(found, expected)


@pytest.mark.parametrize(
    "size", [(340, 20), (20, 340), (1999, 100), (100, 2001), (3000, 120), (300, 1), (1, 300)]
)
def test_the_centre_of_thin_images_is_the_same(size):
    """Cut before it is enlarged, where others are enlarged and cut."""
    expected = pillow_transforms.resize(photo(*size), 64, InterpolationMode.BICUBIC)
    expected = np.array(pillow_transforms.center_crop(expected, 64)).astype(int)
    found = centre_pixels(np.array(photo(*size)), 64)
    assert found.dtype == torch.uint8 and found.shape == (3, 64, 64)
    off = np.abs(found.numpy().transpose(1, 2, 0) - expected)
    assert (
        off.max() <= 3 and (off > 1).mean() < 1e-3
    )  # Pillow rounds between the two directions, we at the end


@pytest.mark.parametrize("size", [(1, 340), (7, 300), (20, 400)])
def test_a_view_of_a_thin_image_is_pillows(size):
    image, config = photo(*size), ViewConfig(scale_min=1, scale_max=1, flip=False)
    assert_alike(
        view_pixels(np.array(image), config, 0, "a", 0, 64),
        np.array(image.resize((64, 64), Image.Resampling.BICUBIC)),
    )


def test_a_thin_image_takes_no_more_memory_than_a_square_one():
    """A million pixels in one row or column, measured in a process of its own as the growth of its
    highest resident size.
    """
    code = """
import resource
import numpy as np
from c2srt.views import centre_pixels, view_pixels
from c2srt.view_config import ViewConfig
def highest(*shapes):
    for shape in shapes:
        image = np.full((*shape, 3), 7, np.uint8)
        assert (centre_pixels(image, 336) == 7).all()
        assert (view_pixels(image, ViewConfig(), 0, "a", 0, 336) == 7).all()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
extreme = [(1, 1_000_000), (1_000_000, 1), (2, 500_000), (500_000, 2), (20, 50_000), (50_000, 20)]
print(-highest((1000, 1000)) + highest(*extreme))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000  # KiB; enlarged first it was 3 GB and more at each


def test_no_views_means_the_centre_view():
    image = np.array(photo(100, 60))
    assert torch.equal(
        view_pixels(image, ViewConfig(count=0), 0, "a", 0, 32), centre_pixels(image, 32)
    )


def test_decode_agrees_with_pillow():
    jpeg = encoded(photo(123, 77))
    assert np.array_equal(decode(jpeg), np.array(Image.open(io.BytesIO(jpeg))))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_spaces_become_rgb(mode):
    jpeg = encoded(photo(40, 30).convert(mode))
    expected = np.array(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)
    assert np.abs(decode(jpeg).astype(int) - expected).max() <= 1


def test_png_is_decoded():
    assert np.array_equal(decode(encoded(photo(40, 30), "PNG")), np.array(photo(40, 30)))


def test_broken_and_oversized_images_have_a_reason(monkeypatch):
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(b"not an image")
    jpeg = encoded(photo(200, 200))
    with pytest.raises(ValueError):
        decode(jpeg[: len(jpeg) // 2])
    monkeypatch.setattr(views, "MAX_PIXELS", 39_999)
    with pytest.raises(ValueError, match="200 x 200 pixels, more than"):
        decode(jpeg)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": -1},
        {"scale_min": 0},
        {"scale_max": 1.5},
        {"scale_min": 0.9, "scale_max": 0.5},
        {"ratio_min": 0},
        {"ratio_min": 2, "ratio_max": 1},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="views"):
        ViewConfig(**wrong)
