"""HEIC photographs: with the extra they are pictures like others, in shard as in predict; without
it a sentence names the command that installs it.
"""

import importlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from c2srt import pictures
from c2srt.extras import is_there
from c2srt.pictures import Rejected, decode, magic
from c2srt.predict.finding import find_images, summary
from c2srt.sharding.decode import convert

HEAD = (24).to_bytes(4) + b"ftypheic\0\0\0\0mif1heic"
without = pytest.mark.skipif(is_there("pillow_heif"), reason="the extra heic is installed here")


@without
def test_without_the_extra_a_sentence_names_it(tmp_path):
    for read in (decode, convert):
        with pytest.raises(Rejected, match=r"a HEIC photograph, which needs `.*heic.*` to be read"):
            read(HEAD + bytes(100))
    (tmp_path / "a.heic").write_bytes(HEAD)
    (tmp_path / "b.jpg").write_bytes(b"")
    found, passed_over = find_images([str(tmp_path)])
    assert [path.name for path in found] == ["b.jpg"]
    assert "1 .heic" in summary(passed_over) and "HEIC needs `" in summary(passed_over)
    assert "HEIC" not in summary([Path("a.txt")])


def test_avif_and_other_boxes_are_none():
    """They begin as HEIC does."""
    assert magic(HEAD) == "HEIF"
    assert magic((24).to_bytes(4) + b"ftypmif1\0\0\0\0mif1avif") is None
    assert magic((24).to_bytes(4) + b"ftypmp42\0\0\0\0mp42mp41") is None


@pytest.mark.parametrize("orientation", [1, 6])
def test_with_the_extra_it_is_a_picture_like_others(orientation):
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48] = (250, 20, 20)
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    file = io.BytesIO()
    image = heif.from_pillow(Image.fromarray(pixels))
    image.save(file, quality=95, exif=exif.tobytes())
    upright = pixels if orientation == 1 else np.rot90(pixels, -1)
    found = decode(file.getvalue())
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 6
    packed = convert(file.getvalue(), resize=None)
    assert (packed.height, packed.width) == upright.shape[:2] and packed.original[
        "format"
    ] == "HEIF"
    assert ".heic" in pictures.SUFFIXES
    for end in (20, 200, len(file.getvalue()) // 2):
        with pytest.raises(Rejected):
            decode(file.getvalue()[:end])


def test_nothing_is_imported_for_it():
    code = "import c2srt.pictures, sys; print('pillow_heif' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False" and importlib.util.find_spec("c2srt.pictures")
