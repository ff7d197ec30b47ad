"""`c2srt predict` and `c2srt.load`: any photo, any words."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import c2srt
from c2srt.cli import main
from c2srt.errors import UserError
from c2srt.model.export import load_export
from c2srt.predict import MAX_PIXELS, find_images, read_image
from tests.tiny import tiny_export

NAMES = ("Dog", "Cat", "Tree", "Car", "Cloud", "Boat", "Zebra", "Dog")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    tiny_export(folder / "run/model", folder, NAMES, ["a {}."])
    return folder / "run"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (50, 40 + 20 * number, 3), np.uint8)).save(folder / f"{number}.png")
    (folder / "below").mkdir()
    Image.new("RGB", (64, 32), "red").save(folder / "below/red.JPG")
    (folder / "notes.txt").write_text("no image")
    return folder


def predict(export, *arguments) -> int:
    return main(["predict", f"checkpoint={export}", *map(str, arguments)])


def test_vocabulary_scores_are_the_models(export, photos):
    predictor, exported = c2srt.load(export), load_export(export / "model")
    paths = sorted(photos.glob("*.png"))
    found = predictor.predict(paths, topk=None, batch=2)
    pixels = torch.stack([predictor.read(path)[1] for path in paths])
    scores = exported.scores(pixels)[0].numpy()
    for prediction, row, path in zip(found, scores, paths, strict=True):
        assert prediction.image == str(path) and prediction.error is None and len(prediction.labels) == 8
        np.testing.assert_allclose([score for _, score in prediction.labels], np.sort(row)[::-1], atol=1e-5)
        assert prediction.labels[0][0] == NAMES[row.argmax()]


def test_own_words_known_and_new(export, photos):
    """A known word scores as in the vocabulary; a new one gets a score of its own, in whatever company it is asked."""
    predictor, path = c2srt.load(str(export / "model")), photos / "0.png"
    everything = dict(reversed(predictor.predict(path, topk=None)[0].labels))
    some = dict(predictor.predict(path, ["zebra", "red car", "tree"], topk=None)[0].labels)
    for name in ("Zebra", "Tree"):
        assert some[name.lower()] == pytest.approx(everything[name], abs=1e-5)
    alone = predictor.predict(path, ["red car"])[0].labels
    assert alone == (("red car", pytest.approx(some["red car"], abs=1e-5)),)
    assert all(abs(some["red car"] - score) > 1e-4 for score in everything.values())


def test_topk_and_threshold(export, photos):
    predictor, path = c2srt.load(export), photos / "1.png"
    whole = predictor.predict(path, topk=None)[0].labels
    assert predictor.predict(path, topk=3)[0].labels == whole[:3]
    assert predictor.predict(path, topk=None, threshold=whole[4][1])[0].labels == whole[:5]
    assert predictor.predict(path, threshold=1e9)[0].labels == ()


def test_pil_images_and_paths_agree(export, photos):
    predictor = c2srt.load(export)
    with Image.open(photos / "2.png") as image:
        assert predictor.predict(image)[0].labels == predictor.predict(photos / "2.png")[0].labels


def test_json_lines_with_a_broken_image(export, photos, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes((photos / "below/red.JPG").read_bytes()[:100])
    images = f"images=[{photos}/below,{tmp_path}/broken.jpg,{tmp_path}/gone.jpg,{photos}/*.png]"
    status = predict(export, images, "labels=[dog,'red car']", "json=true", "batch=2")
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert status == 1 and "2 of 6 images could not be read" in printed.err
    assert [Path(line["image"]).name for line in lines] == ["red.JPG", "broken.jpg", "gone.jpg", "0.png", "1.png", "2.png"]
    assert "cannot be read as an image" in lines[1]["error"] and lines[2]["error"] == "no such file"
    for line in (lines[0], *lines[3:]):
        assert {entry["label"] for entry in line["labels"]} == {"dog", "red car"}
        assert line["labels"][0]["score"] >= line["labels"][1]["score"]


def test_table_and_single_values(export, photos, capsys):
    assert predict(export, f"images={photos}/0.png", "labels=dog") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{photos}/0.png" and lines[1].split()[0] == "dog" and len(lines) == 2
    assert predict(export, f"images=[{photos}]", "topk=2") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4 * 3


@pytest.mark.parametrize("arguments, sentence", [
    (["images=[]"], "names no image"),
    (["images=[/nowhere/*.png]"], "has no image"),
    (["images=[x.jpg]", "labels=[]"], "at least one word"),
    (["images=[x.jpg]", "labels=[dog,' ']"], "at least one word"),
    (["images=[x.jpg]", "labels=[dog,cat,dog]"], "'dog' is given twice"),
    (["images=[x.jpg]", "topk=0"], "at least 1"),
    (["images=[x.jpg]", "checkpoint=/nowhere"], "is not an exported model"),
])
def test_bad_input_gets_one_sentence(export, capsys, arguments, sentence):
    assert predict(export, *arguments) == 2
    assert sentence in capsys.readouterr().err


def test_images_are_found_once_and_in_order(photos):
    found = find_images([str(photos / "1.png"), str(photos), str(photos / "**/*.JPG")])
    assert [path.name for path in found] == ["1.png", "0.png", "2.png", "red.JPG"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255
    upright = Image.fromarray(pixels)
    turn = Image.Transpose
    inverse = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE, 6: turn.ROTATE_90,
               7: turn.TRANSVERSE, 8: turn.ROTATE_270}
    stored = upright.transpose(inverse[orientation]) if orientation in inverse else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), pixels)


@pytest.mark.parametrize("mode, colour, expected", [
    ("L", 100, (100,) * 3), ("RGBA", (255, 0, 0, 0), (255,) * 3), ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    ("1", 1, (255,) * 3), ("I;16", 25700, (100,) * 3), ("LA", (9, 255), (9,) * 3)])
def test_modes_become_rgb(tmp_path, mode, colour, expected):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new(mode, (8, 8), colour).save(path)
    pixels = read_image(path)
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[0, 0], expected)


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path):
    Image.new("1", (20000, MAX_PIXELS // 20000 + 1)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="pixels"):
        read_image(tmp_path / "bomb.png")


def test_hostile_files_never_end_the_others(export, capsys):
    folder = Path(__file__).parents[2] / "shared/data/hostile_images"
    if not folder.exists():
        pytest.skip("needs shared/data/hostile_images")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found = c2srt.load(export).predict(files, ["dog"])
    errors = sum(prediction.error is not None for prediction in found)
    assert len(found) == len(files) and 0 < errors < len(files)
    assert all(bool(prediction.error) != bool(prediction.labels) for prediction in found)


def test_labels_are_checked_in_python_too(export, photos):
    with pytest.raises(UserError, match="list of at least one word"):
        c2srt.load(export).predict(photos / "0.png", "dog")


def test_importing_the_package_stays_light():
    code = "import sys, c2srt; assert callable(c2srt.load); print([name for name in ('torch', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
