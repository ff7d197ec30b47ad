"""Which categories are seen and unseen, and how the counts stand beside those published."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest

from c2srt.errors import UserError
from c2srt.sharding.annotations import write_inputs
from c2srt.sharding.categories import build_vocabulary
from c2srt.sharding.counts import acceptance
from c2srt.sharding.raw_files import find_root
from c2srt.vocabulary import Vocabulary, open_images_v4
from tests.csv_lists import A, B, C, D, image_row, text_of, write_root

SHARED = Path(__file__).parents[2] / "shared" / "data"


# ---- vocabulary


def derivable(tmp_path: Path) -> dict[str, Path]:
    """cat in 3 training images (absent from one), dog in 2; only in test: wolf twice, fox and owl
    once, a nameless one twice.
    """
    labels_of = {
        "train": [
            (A, "/m/cat", 1),
            (B, "/m/cat", 1),
            (C, "/m/cat", 1),
            (D, "/m/cat", 0),
            (A, "/m/dog", 1),
            (B, "/m/dog", 1),
        ],
        "test": [
            (A, "/g/11fox", 1),
            (B, "/m/owl", 1),
            (A, "/m/dog", 1),
            (A, "/m/nameless", 1),
            (B, "/m/nameless", 1),
            (C, "/m/wolf", 1),
            (D, "/m/wolf", 1),
        ],
    }
    for split, labels in labels_of.items():
        write_root(
            tmp_path, [image_row(image_id, split) for image_id in (A, B, C, D)], labels, split
        )
    with (tmp_path / "2018_04/class-descriptions.csv").open("a") as file:
        file.write("/m/owl,Owl\n/m/wolf,Wolf\n")
    inputs = {split: tmp_path / f"{split}.parquet" for split in labels_of}
    for split, path in inputs.items():
        write_inputs(find_root(tmp_path), split, path)
    return inputs


def test_derived_vocabulary(tmp_path, capsys):
    inputs, raw = derivable(tmp_path), find_root(tmp_path)
    vocabulary = build_vocabulary(raw, "derive", inputs, seen_min_images=2)
    assert (
        vocabulary.mids == ("/m/cat", "/m/wolf", "/g/11fox", "/m/owl")
        and vocabulary.seen_count == 1
    )
    assert vocabulary.names == ("Cat", "Wolf", "Fox", "Owl")
    smaller = build_vocabulary(raw, "derive", inputs, seen_min_images=1, unseen_count=2)
    assert smaller.mids == ("/m/cat", "/m/dog", "/m/wolf", "/g/11fox")
    assert "2 seen + 2 unseen" in capsys.readouterr().out
    with pytest.raises(UserError, match="more than 3 training images"):
        build_vocabulary(raw, "derive", inputs, seen_min_images=3)
    with pytest.raises(UserError, match="without the split 'test'"):
        build_vocabulary(raw, "derive", {"train": inputs["train"]})
    with pytest.raises(UserError, match="choose one of auto, derive, files"):
        build_vocabulary(raw, "guess", inputs)


def test_listed_vocabulary(tmp_path, capsys):
    inputs, folder = derivable(tmp_path), tmp_path / "2018_04"
    with pytest.raises(UserError, match="lacks classes-seen.txt"):
        build_vocabulary(find_root(tmp_path), "files", inputs)
    (folder / "classes-seen.txt").write_bytes(b"\xef\xbb\xbf/m/dog\r\n/m/cat\r\n")
    (folder / "classes-unseen.txt").write_text("/m/owl")
    for mode in ("files", "auto"):
        vocabulary = build_vocabulary(find_root(tmp_path), mode, {})
        assert (vocabulary.mids, vocabulary.seen_count) == (("/m/dog", "/m/cat", "/m/owl"), 2)
    (folder / "classes-unseen.txt").write_text("/m/owl\n/m/nameless\n")
    with pytest.raises(UserError, match="/m/nameless of the class lists is not in"):
        build_vocabulary(find_root(tmp_path), "files", inputs)
    (folder / "classes-unseen.txt").write_text("owl")
    with pytest.raises(UserError, match="'owl' is not a MID"):
        build_vocabulary(find_root(tmp_path), "files", inputs)


def test_auto_takes_the_shipped_lists_for_open_images_only(tmp_path, capsys):
    inputs, folder = derivable(tmp_path), tmp_path / "2018_04"
    shipped = open_images_v4()
    (folder / "class-descriptions.csv").write_text(
        text_of([*zip(shipped.mids, shipped.names, strict=True)])
    )
    (folder / "classes-trainable.txt").write_text(
        "".join(f"{mid}\n" for mid in sorted(shipped.mids[: shipped.seen_count]))
    )
    assert build_vocabulary(find_root(tmp_path), "auto", inputs) == shipped
    assert (shipped.seen_count, shipped.unseen_count) == (7186, 400)
    capsys.readouterr()
    with (folder / "class-descriptions.csv").open("a") as file:
        file.write("/m/cat,Cat\n")
    (folder / "classes-trainable.txt").write_text("/m/cat\n")
    assert build_vocabulary(find_root(tmp_path), "auto", inputs, seen_min_images=2).mids[:1] == (
        "/m/cat",
    )
    (line,) = capsys.readouterr().out.splitlines()
    assert "not those of Open Images V4" in line


# ---- acceptance counts


def test_acceptance_by_hand(tmp_path):
    """ZSL: A has 1 unseen positive, B has 2 → 1.5. GZSL: A 2, B 2, C 1 → 5/3. D has a negative
    only.
    """
    labels = [
        (A, "/m/cat", 1),
        (A, "/g/11fox", 1),
        (B, "/g/11fox", 1),
        (B, "/m/owl", 1),
        (C, "/m/cat", 1),
        (D, "/m/dog", 0),
        (A, "/m/outside", 1),
    ]
    root = write_root(
        tmp_path, [image_row(image_id, "test") for image_id in (A, B, C)], labels, "test"
    )
    write_inputs(find_root(root), "test", tmp_path / "test.parquet")
    vocabulary = Vocabulary(
        ("/m/cat", "/m/dog", "/g/11fox", "/m/owl", "/m/wolf"), ("c", "d", "f", "o", "w"), 2
    )
    result = acceptance(vocabulary, {"test": tmp_path / "test.parquet"}, {"test": 2})
    values = [count.value for count in result.counts]
    assert values == pytest.approx([3, 7, 6, 2, 1.5, 5 / 3, 2, 1, 2, 2])
    assert not any("publish" in line for line in result.lines())
    result.save(tmp_path / "acceptance.json")
    saved = json.loads((tmp_path / "acceptance.json").read_text())
    assert (
        saved["vocabulary"] == vocabulary.hash
        and [count["value"] for count in saved["counts"]] == values
    )


def test_acceptance_says_what_differs_from_the_published(tmp_path):
    """100 images with an unseen positive, 28 of them with two: 1.28 as published; everything else
    differs.
    """
    vocabulary = open_images_v4()
    ids, first, second = [f"{n:016x}" for n in range(100)], *vocabulary.mids[7186:7188]
    labels = [(image_id, first, 1) for image_id in ids] + [
        (image_id, second, 1) for image_id in ids[:28]
    ]
    root = write_root(tmp_path, [image_row(image_id, "test") for image_id in ids], labels, "test")
    write_inputs(find_root(root), "test", tmp_path / "test.parquet")
    lines = acceptance(vocabulary, {"test": tmp_path / "test.parquet"}).lines()
    assert "test: ZSL positives per image that has one: 1.28 (published: 1.28)" in lines
    assert (
        "test: GZSL positives per image that has one: 1.28 DIFFERS from the published 8.68" in lines
    )
    assert lines[0] == "test: images listed: 100 DIFFERS from the published 125,436"
    assert lines[-1].startswith("6 of these counts differ")


def test_training_images_with_a_seen_label(tmp_path):
    """A has a positive, B a negative one of a seen category; C only an unseen one, D none."""
    labels = [(A, "/m/cat", 1), (B, "/m/cat", 0), (C, "/m/dog", 1)]
    root = write_root(tmp_path, [image_row(image_id) for image_id in (A, B, C, D)], labels)
    write_inputs(find_root(root), "train", tmp_path / "train.parquet")
    result = acceptance(
        Vocabulary(("/m/cat", "/m/dog"), ("c", "d"), 1), {"train": tmp_path / "train.parquet"}
    )
    assert (
        result.counts[-1].what == "train: images with a label of a seen category"
        and result.counts[-1].value == 2
    )


def test_unusable_output_folder_is_a_sentence(tmp_path):
    root = write_root(tmp_path, [image_row(A)], [])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        write_inputs(find_root(root), "train", tmp_path / "file" / "rows.parquet")


def test_real_photographs(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("needs shared/data (389 photographs with Open Images' labels)")
    raw = find_root(SHARED / "photos")
    inputs = {split: tmp_path / f"{split}.parquet" for split in raw.splits}
    reports = {split: write_inputs(raw, split, path) for split, path in inputs.items()}
    assert {split: (report.images, report.label_rows) for split, report in reports.items()} == {
        "train": (266, 1413),
        "validation": (30, 161),
        "test": (93, 540),
    }
    with (SHARED / "photos/2018_04/test/test-annotations-human-imagelabels.csv").open() as file:
        positive = {
            (row["ImageID"], row["LabelName"])
            for row in csv.DictReader(file)
            if row["Confidence"] == "1"
        }
    rows = pl.read_parquet(inputs["test"]).select("id", "positive").explode("positive").drop_nulls()
    assert set(rows.rows()) == positive
    assert build_vocabulary(raw, "auto", inputs) == open_images_v4()
