"""MS-COCO: its files → tables of three divisions → shards and verbs, on a small tree."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.sharding.standard_set import ALL, shipped_classes
from c2srt.vocabulary import load_vocabulary
from tests.coco_files import IMAGES, NAMES, content, file_of, write_coco
from tests.standard_sets import cut_in_half, sentence_of, set_reader, tables
from tests.tiny import tiny_clip_config


@pytest.fixture
def root(tmp_path) -> Path:
    write_coco(tmp_path / "raw", pictures=False)
    return tmp_path / "raw"


def expected(split: str, numbers: tuple[int, ...], columns: set[str], year: int = 2014) -> dict:
    found = {number: IMAGES[split][number] & columns for number in numbers}
    return {
        file_of(split, number, year): (present, columns - present)
        for number, present in found.items()
    }


def test_the_published_divisions_are_of_48_and_17_65_and_15_of_the_80():
    sizes = {ALL: (80, 0), "48/17": (48, 17), "65/15": (65, 15)}
    for division, counts in sizes.items():
        found = shipped_classes("coco", division)
        assert (len(found.seen), len(found.unseen)) == counts
        assert not set(found.seen) & set(found.unseen)
        assert found.mids == found.names == NAMES and len(set(NAMES)) == 80
    held = shipped_classes("coco", "48/17").vocabulary
    assert held.names[48:] == (
        *("airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard"),
        *("skateboard", "cup", "knife", "cake", "couch", "keyboard", "sink", "scissors"),
    )
    assert Counter(held.names)["traffic light"] == 0
    with pytest.raises(UserError, match="data.classes=48-17 is none of 48/17, 65/15, all"):
        shipped_classes("coco", "48-17")


@pytest.mark.parametrize(
    "division, year, train, test",
    [
        (ALL, 2014, (9, 25, 30, 36, 49, 61, 64, 71), (42, 73, 74, 136, 139, 164)),
        ("48/17", 2014, (9, 25, 36, 49, 64, 71), (42, 73, 74, 136, 164)),
        ("65/15", 2014, (9, 25, 49, 61, 64, 71), (74, 136, 139, 164)),
        ("48/17", 2017, (9, 25, 36, 49, 64, 71), (42, 73, 74, 136, 164)),
    ],
)
def test_every_division_has_its_images_and_labels(tmp_path, division, year, train, test):
    """Seen labels only in training; a crowd is a label; what is twice counts once."""
    write_coco(tmp_path / "raw", year, pictures=False)
    found = set_reader(
        tmp_path / "raw", "coco", classes=division, year=None if year == 2014 else year
    )
    vocabulary = found.vocabulary({})
    seen, every = set(vocabulary.names[: vocabulary.seen_count]), set(vocabulary.names)
    made = tables(found, tmp_path)
    assert made["train"] == expected("train", train, seen, year)
    assert made["test"] == expected("test", test, every, year)


def test_a_list_names_the_test_images(root, tmp_path):
    """As the published one of 48/17 does, or a file a line."""
    rows = [[f"/data/COCO/val2014/{Path(file_of('test', n)).name}", ["dog"]] for n in (74, 42)]
    named = tmp_path / "test_65_filtered.json"
    named.write_text(json.dumps({"images": rows, "classes": ["dog"]}))
    lines = tmp_path / "list.txt"
    lines.write_text("".join(f"{row[0]}\r\n" for row in rows))
    for path in (named, lines):
        found = set_reader(root, "coco", classes="48/17", test_images=str(path))
        assert set(tables(found, tmp_path)["test"]) == {file_of("test", n) for n in (42, 74)}
    without = set_reader(root, "coco", classes="48/17").write_inputs("test", tmp_path / "t.parquet")
    assert "are a list of 6,392" in "\n".join(without.lines())
    lines.write_text("COCO_val2014_000000000042.jpg\nCOCO_val2014_0000000000\n")
    assert "list.txt, line 2 names no image" in sentence_of(lambda: tables(found, tmp_path))
    lines.write_text("COCO_val2014_000000000043.jpg\n")
    assert "image 000000000043, which is not in" in sentence_of(lambda: tables(found, tmp_path))
    cut_in_half(named)
    broken = set_reader(root, "coco", classes="48/17", test_images=str(named))
    assert "is not valid JSON" in sentence_of(lambda: tables(broken, tmp_path))


def test_counts_stand_beside_the_published_ones_and_each_difference_is_named(root, tmp_path):
    found = set_reader(root, "coco", classes="65/15")
    tables(found, tmp_path)
    paths = {split: tmp_path / f"{split}.parquet" for split in ("train", "test")}
    counts = found.acceptance(found.vocabulary({}), paths, {"train": 6, "test": 4})
    assert counts.lines() == [
        "train: images listed: 6",
        "train: images packed: 6",
        "test: images listed: 4 DIFFERS from the published 10,098",
        "test: images packed: 4 DIFFERS from the published 10,098",
        "test: ZSL positives per image that has one: 1.00 DIFFERS from the published 1.07",
        "test: GZSL positives per image that has one: 2.50 DIFFERS from the published 3.26",
        "test: seen categories (of 65) with a positive: 6",
        "test: unseen categories (of 15) with a positive: 4",
        "4 of these counts differ from the published ones: so will results",
    ]


# Bad input
# --------------------------------------------------------------------------------------------------


def test_a_reordered_copy_gives_the_same_tables(root, tmp_path):
    found = set_reader(root, "coco", classes="48/17")
    before = tables(found, tmp_path)
    for path in (root / "annotations").iterdir():
        value = json.loads(path.read_text())
        turned = {
            name: [dict(reversed(row.items())) for row in reversed(rows)] if name in KINDS else rows
            for name, rows in reversed(value.items())
        }
        path.write_text(json.dumps(turned, indent=1))
    assert tables(found, tmp_path) == before


KINDS = ("images", "annotations", "categories")


def changed(kind: str, change) -> dict:
    value = content("test", IMAGES["test"], 2014)
    change(value[kind])
    return value


@pytest.mark.parametrize(
    "value, sentence",
    [
        ({}, "has no list of objects images"),
        ([1], "has no list of objects images"),
        ({"images": [3]}, "has no list of objects images"),
        (
            changed("images", lambda rows: rows[1].pop("file_name")),
            "has no text as file_name in 2 of images",
        ),
        (
            changed("images", lambda rows: rows[0].update(file_name="../a.jpg")),
            "has an image '../a.jpg', which is no file's name",
        ),
        (changed("images", lambda rows: rows[0].update(id=73)), "has image 73 twice"),
        (changed("images", lambda rows: rows[0].update(id=2**70)), "as a list of images"),
        (changed("images", lambda rows: rows.pop()), "an annotation of image_id 164, unknown"),
        (
            changed("annotations", lambda rows: rows[0].update(category_id=12)),
            "an annotation of category_id 12, unknown",
        ),
        (
            changed("annotations", lambda rows: rows[0].update(category_id=True)),
            "has no number as category_id in 1 of annotations",
        ),
        (changed("categories", lambda rows: rows.pop()), "80 categories ('toothbrush' is not in"),
        (
            changed("categories", lambda rows: rows[0].update(name="human")),
            "80 categories ('human' is not in both)",
        ),
    ],
)
def test_damage_is_a_sentence(root, tmp_path, value, sentence):
    path = root / "annotations/instances_val2014.json"
    path.write_text(json.dumps(value))
    found = set_reader(root, "coco", classes="48/17")
    said = sentence_of(lambda: found.write_inputs("test", tmp_path / "test.parquet"))
    assert said.startswith(f"{path} ") and sentence in said
    assert not list(tmp_path.glob("test*"))


def test_what_is_cut_off_or_absent_is_a_sentence(root, tmp_path):
    path = root / "annotations/instances_train2014.json"
    found = set_reader(root, "coco", classes=ALL)
    for damage in (lambda: cut_in_half(path), lambda: path.write_bytes(b"[" * 100_000)):
        damage()
        assert "cannot be read as JSON" in sentence_of(lambda: tables(found, tmp_path))
    path.unlink()
    assert "download COCO's annotations_trainval2014.zip" in sentence_of(
        lambda: found.made_from("train")
    )
    (root / "val2014").rmdir()
    assert "unpack COCO's val2014.zip there" in sentence_of(
        lambda: found.write_inputs("test", tmp_path / "test.parquet")
    )
    assert "choose 'splits=[train,test]'" in sentence_of(lambda: found.made_from("validation"))
    assert "is none of 2014, 2017" in sentence_of(lambda: set_reader(root, "coco", year=2015))
    assert "is not a folder" in sentence_of(lambda: set_reader(root / "no", "coco"))


# The road
# --------------------------------------------------------------------------------------------------


def test_the_road_to_clip_s_own_score(tmp_path, capsys):
    write_coco(tmp_path / "raw")
    (tmp_path / "raw" / file_of("train", 25)).unlink()
    common = ["data=coco", f"data.root={tmp_path}/raw", f"work={tmp_path}/work", "workers=1"]
    clip = [f"clip.name={tiny_clip_config(tmp_path).name}", "clip.pretrained=random"]
    assert main(["shard", *common, "resize=32"]) == 0
    said = capsys.readouterr().out
    assert "48 seen + 17 unseen categories of MS-COCO (data.classes=48/17)" in said
    assert "test: images packed: 5 DIFFERS from the published 6,392" in said
    assert load_vocabulary(tmp_path / "work/shards").seen_count == 48
    assert main(["text", *common[:3], *clip]) == 0
    assert main(["relations", *common[:3]]) == 0
    assert main(["teacher", *common, *clip, "views.count=1"]) == 0
    assert main(["evaluate", *common, *clip, "checkpoint=clip", "bootstrap=0"]) == 0
    found = json.loads((tmp_path / "work/evaluation/results.json").read_text())
    assert found["images"] == 5 and {"F1@3"} <= found["zsl"].keys() & found["gzsl"].keys()


def test_the_division_is_typed_as_papers_write_it(capsys):
    typed = ["shard", "data=coco", "data.root=/x", "data.classes=65/15", "--cfg", "job"]
    assert main(typed) == 0
    composed = yaml.safe_load(capsys.readouterr().out)
    assert composed["data"]["classes"] == "65/15" and composed["splits"] == ["train", "test"]
