"""`c2srt predict` and `c2srt.load`: any photo, any words."""

import io
import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import c2srt
from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.export.read import load_export
from c2srt.isolation import Isolated
from c2srt.predict.finding import find_images, printable
from c2srt.predict.inputs import LIMITS, Encoded, read_image
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
        Image.fromarray(random.integers(0, 256, (50, 40 + 20 * number, 3), np.uint8)).save(
            folder / f"{number}.png"
        )
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
        assert (
            prediction.image == str(path)
            and prediction.error is None
            and len(prediction.labels) == 8
        )
        np.testing.assert_allclose(
            [score for _, score in prediction.labels], np.sort(row)[::-1], atol=1e-5
        )
        assert (
            prediction.labels[0][0] == load_export(export / "model").vocabulary.titles[row.argmax()]
        )


def test_own_words_known_and_new(export, photos):
    """A known word scores as in the vocabulary; a new one gets a score of its own, in whatever
    company it is asked.
    """
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
    assert [Path(line["image"]).name for line in lines] == [
        "red.JPG",
        "broken.jpg",
        "gone.jpg",
        "0.png",
        "1.png",
        "2.png",
    ]
    assert (
        lines[1]["error"].startswith("cannot be read as an image: ")
        and lines[2]["error"] == "no such file"
    )
    for line in (lines[0], *lines[3:]):
        assert {entry["label"] for entry in line["labels"]} == {"dog", "red car"}
        assert line["labels"][0]["score"] >= line["labels"][1]["score"]


def test_table_and_single_values(export, photos, capsys):
    assert predict(export, f"images={photos}/0.png", "labels=dog") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{photos}/0.png" and lines[1].split()[0] == "dog" and len(lines) == 2
    assert predict(export, f"images=[{photos}]", "topk=2") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4 * 3


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["images=[]"], "names no image"),
        (["images=[/nowhere/*.png]"], "has no image"),
        (["images=[x.jpg]", "labels=[]"], "at least one word"),
        (["images=[x.jpg]", "labels=[dog,' ']"], "at least one word"),
        (["images=[x.jpg]", "labels=words.txt"], "words.txt cannot be read as a list of words"),
        (["images=[x.jpg]", "labels=[dog,words.txt]"], "No such file"),
        (["images={a: b}"], "names no image"),
        (["images=[x.jpg]", "topk=0"], "at least 1"),
        (["images=[x.jpg]", "checkpoint=/nowhere"], "is not an exported model"),
    ],
)
def test_bad_input_gets_one_sentence(export, capsys, arguments, sentence):
    assert predict(export, *arguments) == 2
    assert sentence in capsys.readouterr().err


def test_images_are_found_once_and_in_order(photos):
    found, passed_over = find_images([str(photos / "1.png"), str(photos), str(photos / "**/*.JPG")])
    assert [path.name for path in found] == ["1.png", "0.png", "2.png", "red.JPG"]
    assert [path.name for path in passed_over] == ["notes.txt"]


@pytest.fixture
def album(tmp_path, photos):
    """Folders that lead into each other by links, each twice, beside what is no picture."""
    for name in ("real/deep", "linked", "hidden"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("real/a.jpg", "real/deep/b.jpg", "linked/top.jpg"):
        (tmp_path / name).write_bytes((photos / "below/red.JPG").read_bytes())
    for number in range(
        30
    ):  # two ways down at each of thirty levels: a walk that follows a folder twice never ends
        (tmp_path / f"real/deep/loop{number}").symlink_to(tmp_path / "real")
    (tmp_path / "linked/2019").symlink_to("../real")
    (tmp_path / "linked/2020").symlink_to("../real")
    (tmp_path / "linked/again.jpg").symlink_to("../real/a.jpg")
    (tmp_path / "linked/gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "linked/IMG_1.HEIC").write_bytes(b"heic")
    os.mkfifo(tmp_path / "linked/pipe.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "images", "others"),
    [
        (
            "linked",
            ["2019/a.jpg", "2019/deep/b.jpg", "gone.jpg", "top.jpg"],
            ["IMG_1.HEIC", "pipe.jpg"],
        ),
        ("linked/2019", ["2019/a.jpg", "2019/deep/b.jpg"], []),
        ("linked/**/*.jpg", ["2019/a.jpg", "2019/deep/b.jpg", "gone.jpg", "top.jpg"], ["pipe.jpg"]),
        ("linked/20*", ["2019/a.jpg", "2019/deep/b.jpg"], []),
        ("linked/*.[jH]*", ["IMG_1.HEIC", "again.jpg", "gone.jpg", "top.jpg"], ["pipe.jpg"]),
        ("linked/pipe.jpg", ["pipe.jpg"], []),
    ],
)
def test_linked_folders_are_folders_and_the_rest_is_named(album, pattern, images, others):
    """Each real file once, loops end; pipes, which could block for ever, and other names are passed
    over, not forgotten.
    """
    found, passed_over = find_images([str(album / pattern)])
    assert [str(path.relative_to(album / "linked")) for path in found] == images
    assert sorted(path.name for path in passed_over) == others


def test_a_folder_is_a_link_to_one_listed_beside_it(album):
    assert len(find_images([str(album / "linked"), str(album / "real")])[0]) == 4
    twice = [str(album / "real/a.jpg"), str(album / "linked/again.jpg"), str(album / "real/a.jpg")]
    assert [str(path) for path in find_images(twice)[0]] == twice[
        :2
    ]  # asked for by name, each gets its row


def test_what_was_not_looked_at_is_counted(export, photos, album, capsys):
    (album / "real/notes").touch()
    assert predict(export, f"images=[{album}/linked]", "topk=1") == 1  # gone.jpg
    printed = capsys.readouterr()
    assert (
        "\n3 files were not looked at (1 without suffix, 1 .heic, 1 .jpg): " in printed.err
        and "IMG_1.HEIC" in printed.err
    )
    assert len(printed.out.splitlines()) == 3 * 2 + 1 and "gone.jpg: no such file" in printed.out
    assert predict(export, f"images={photos}/notes.txt") == 1
    assert (
        predict(export, f"images={album}/hidden") == 2
        and "hidden has no image (.jpg" in capsys.readouterr().err
    )
    (album / "hidden/IMG_2.heic").touch()
    assert predict(export, f"images={album}/hidden") == 2
    assert "has no image: 1 file was not looked at (1 .heic): " in capsys.readouterr().err


def test_names_on_the_command_line(export, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "photo (1).jpg",
        "a,b.jpg",
        "it's.jpg",
        "a=b.jpg",
        "1e5.jpg",
        "[1].jpg",
        "x {y}.jpg",
        "c.jpg",
        "d.jpg",
    ):
        Path(name).write_bytes((photos / "below/red.JPG").read_bytes())
        typed = f"images='{name}'" if name == "[1].jpg" else f"images={name}"
        assert (
            predict(export, typed, "labels=dog") == 0
            and capsys.readouterr().out.splitlines()[0] == name
        )
    assert predict(export, "images=c.jpg, d.jpg", "labels=dog, red car") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if not line.startswith(" ")] == ["c.jpg", "d.jpg"] and len(
        printed
    ) == 6


def test_words_of_a_file(export, photos, tmp_path, capsys, monkeypatch):
    """One word a line, as an editor on any system leaves them; a word twice is ranked once."""
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_bytes("\ufeffdog\r\n\r\n red car \r\nDog\nnull\n1e5\n".encode())
    assert predict(export, f"images={photos}/0.png", "labels=labels.txt", "json=true") == 0
    printed = capsys.readouterr()
    assert {entry["label"] for entry in json.loads(printed.out)["labels"]} == {
        "dog",
        "red car",
        "null",
        "1e5",
    }
    assert "1 of 5 words are there already" in printed.err
    Path("words.csv").write_text("dog")
    assert (
        predict(export, f"images={photos}/0.png", "labels=[words.csv]") == 2
        and "one word a line" in capsys.readouterr().err
    )
    for content, sentence in ((b"caf\xe9", "not text in UTF-8"), (b"\n", "has no word")):
        Path("labels.txt").write_bytes(content)
        assert (
            predict(export, f"images={photos}/0.png", "labels=labels.txt") == 2
            and sentence in capsys.readouterr().err
        )


def test_a_word_is_ranked_once(export, photos):
    predictor = c2srt.load(export)
    for labels in (["Dog", "dog", "red  car", "Red car", "dog"], ["Dog", "red  car"]):
        assert {label for label, _ in predictor.predict(photos / "0.png", labels)[0].labels} == {
            "Dog",
            "red  car",
        }


def test_categories_of_one_name_are_told_apart(export, photos):
    """Both "Dog" of the vocabulary have their MID, and are found by it."""
    predictor = c2srt.load(export)
    everything = dict(predictor.predict(photos / "0.png", topk=None)[0].labels)
    assert set(everything) == {"Dog (/m/0)", "Dog (/m/7)", *NAMES[1:7]}
    some = dict(predictor.predict(photos / "0.png", ["dog (/m/7)", "dog", "Cat"])[0].labels)
    assert some == {
        "dog (/m/7)": pytest.approx(everything["Dog (/m/7)"]),
        "dog": pytest.approx(everything["Dog (/m/0)"]),
        "Cat": pytest.approx(everything["Cat"]),
    }


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((8, 8), np.uint8),
        torch.zeros(5, 8, 8),
        np.zeros((8, 8, 3), np.int16),
        torch.full((3, 8, 8), 1.5),
        np.full((8, 8, 3), np.nan),
        torch.zeros(3, 0, 8),
        io.StringIO("a.jpg"),
        {"a.jpg": 1},
        None,
        7,
    ],
)
def test_what_is_no_picture_is_a_type_error(export, given):
    """Not one prediction a row, byte or line."""
    predictor = c2srt.load(export)
    for images in (given, [given], (image for image in [given])):
        with pytest.raises(TypeError, match="a path or a PIL image"):
            predictor.predict(images, ["dog"])


def test_arrays_and_generators_of_paths_are_several(export, photos):
    paths = sorted(str(path) for path in photos.glob("*.png"))
    for images in (np.array(paths), (path for path in paths), tuple(paths)):
        assert [found.image for found in c2srt.load(export).predict(images, ["dog"])] == paths


def test_names_that_are_no_utf8(export, photos, tmp_path, capfdbinary):
    """Ranked, and printed so that `printf %b` gives the file's bytes back."""
    name = os.fsdecode(b"caf\xe9\n.jpg")
    (tmp_path / name).write_bytes((photos / "below/red.JPG").read_bytes())
    (tmp_path / "é.jpg").write_bytes((photos / "below/red.JPG").read_bytes())
    assert printable(name) == "caf\\xe9\\n.jpg"
    for option in ("json=false", "json=true"):
        assert (
            predict(export, f"images=[{tmp_path},{tmp_path}/{name}]", "labels=[dog]", option) == 0
        )
    printed = capfdbinary.readouterr().out.decode().splitlines()
    assert printed[0] == f"{tmp_path}/caf\\xe9\\n.jpg" and printed[2] == f"{tmp_path}/é.jpg"
    assert [json.loads(line)["image"] for line in printed[4:]] == [
        f"{tmp_path}/caf\\xe9\\n.jpg",
        f"{tmp_path}/é.jpg",
    ]
    assert c2srt.load(export).predict(tmp_path / name, ["dog"])[0].image == str(tmp_path / name)
    assert predict(export, f"images={tmp_path}/é.jpg", f"labels=[{name}]") == 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255
    upright = Image.fromarray(pixels)
    turn = Image.Transpose
    inverse = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    stored = upright.transpose(inverse[orientation]) if orientation in inverse else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), pixels)


@pytest.mark.parametrize(
    "mode, colour, expected",
    [
        ("L", 100, (100,) * 3),
        ("RGBA", (255, 0, 0, 0), (255,) * 3),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("1", 1, (255,) * 3),
        ("I;16", 25700, (100,) * 3),
        ("LA", (9, 255), (9,) * 3),
    ],
)
def test_modes_become_rgb(tmp_path, mode, colour, expected):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new(mode, (8, 8), colour).save(path)
    pixels = read_image(path)
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[0, 0], expected)


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path):
    """By our limit, whatever Pillow's process-wide one says."""
    Image.new("1", (20000, LIMITS.max_pixels // 20000 + 1)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="pixels, more than"):
        read_image(tmp_path / "bomb.png")
    with (
        Image.open(tmp_path / "bomb.png") as image,
        pytest.raises(ValueError, match="pixels, more than"),
    ):
        read_image(image)


def test_thin_pictures_and_float_samples_are_rows_like_others(export, tmp_path, capsys):
    Image.new("RGB", (1, 1_000_000), "red").save(tmp_path / "thin.png")
    for name, pixels in (
        ("f.tif", np.ones((8, 8), np.float32)),
        ("i.tif", np.full((8, 8), 7, np.int32)),
    ):
        Image.fromarray(pixels).save(tmp_path / name)
    assert predict(export, f"images=[{tmp_path}]", "labels=[dog]") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("cannot be read as an image: ")[2] for line in lines[:2]] == [
        "32-bit samples (mode F) have no defined white",
        "32-bit samples (mode I) have no defined white",
    ]
    assert lines[2].endswith("thin.png") and lines[3].split()[0] == "dog"


def test_pictures_from_paths_pillow_and_memory_are_one(photos, tmp_path):
    """A profile is obeyed wherever the picture comes from."""
    from tests.test_decode import swapped_profile

    Image.new("RGB", (16, 16), (220, 30, 30)).save(
        tmp_path / "wide.png", icc_profile=swapped_profile()
    )
    path = tmp_path / "wide.png"
    with Image.open(path) as image:
        found = [
            read_image(path),
            read_image(str(path)),
            read_image(image),
            read_image(Encoded(path.read_bytes())),
        ]
    assert abs(found[0][0, 0].astype(int) - (30, 220, 30)).max() < 40
    assert all(np.array_equal(found[0], other) for other in found)


def test_only_formats_that_shard_takes_are_opened(tmp_path):
    """EPS would start Ghostscript."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.eps")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.eps").read_bytes())
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.ppm")
    for name in ("a.jpg", "a.ppm"):
        with pytest.raises(ValueError, match="no image format starts with the bytes"):
            read_image(tmp_path / name)


def test_threads_decode_beside_each_other_and_change_nothing_of_the_process(photos):
    """Neither Pillow's limit of pixels, low here, nor a warnings filter is touched or asked."""
    filters, limit, path = list(warnings.filters), Image.MAX_IMAGE_PIXELS, photos / "0.png"
    expected = read_image(path)
    Image.MAX_IMAGE_PIXELS = 10
    try:
        found = []
        threads = [
            threading.Thread(target=lambda: found.extend(read_image(path) for _ in range(20)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Image.MAX_IMAGE_PIXELS == 10
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    assert len(found) == 80 and all(np.array_equal(expected, pixels) for pixels in found)
    assert warnings.filters == filters


def test_a_model_that_is_not_there_names_those_that_are(export, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    target = Path("runs/miniature/full/seed-0")
    target.mkdir(parents=True)
    (target / "model").symlink_to(export / "model")
    assert main(["predict", "images=x.jpg"]) == 2
    assert (
        "there is runs/miniature/full/seed-0/model: give one as checkpoint=…"
        in capsys.readouterr().err
    )


def test_hostile_files_never_end_the_others(export, capsys):
    folder = Path(__file__).parents[2] / "shared/data/hostile_images"
    if not folder.exists():
        pytest.skip("needs shared/data/hostile_images")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found = c2srt.load(export).predict(files, ["dog"])
    errors = sum(prediction.error is not None for prediction in found)
    assert len(found) == len(files) and 0 < errors < len(files)
    assert all(bool(prediction.error) != bool(prediction.labels) for prediction in found)


def test_a_picture_that_kills_its_decoder_is_a_row(export, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("c2srt.predict.inputs.DECODE", Isolated("tests.dying:decode"))
    for number, end in enumerate((b"", b"SEGV", b"")):
        (tmp_path / f"{number}.png").write_bytes((photos / "0.png").read_bytes() + end)
    assert predict(export, f"images=[{tmp_path}]", "labels=[dog]", "json=true") == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[1]["error"] == "cannot be read as an image: the decoder died of it, 3 times"
    assert rows[0]["labels"] == rows[2]["labels"] and rows[0]["labels"]


def test_labels_are_checked_in_python_too(export, photos):
    with pytest.raises(UserError, match="list of at least one word"):
        c2srt.load(export).predict(photos / "0.png", "dog")


def test_importing_the_package_stays_light():
    code = (
        "import sys, c2srt; assert callable(c2srt.load); print([name for name in ('torch', 'numpy')"
        " if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
