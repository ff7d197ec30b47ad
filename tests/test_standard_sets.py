"""PASCAL VOC, VG-256 and Open Images V7: their files → tables → shards and verbs, on small trees;
MS-COCO is in tests/test_coco.py.
"""

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from c2srt.cluster.cli import main
from c2srt.sharding.openimages_v7 import LISTS, labels_of
from c2srt.sharding.standard_set import ALL, shipped_classes
from c2srt.sharding.visual_genome import object_of
from tests.raw_images import name
from tests.set_files import (
    V7,
    VG_LABELS,
    VG_WORDS,
    VOC,
    VOC_NAMES,
    vg_file,
    write_v7,
    write_vg,
    write_voc,
)
from tests.standard_sets import cut_in_half, sentence_of, set_reader, tables
from tests.tiny import tiny_clip_config

# PASCAL VOC
# --------------------------------------------------------------------------------------------------


def of_voc(split: str, columns: set[str], but: tuple[str, ...] = ()) -> dict:
    return {
        f"JPEGImages/{image}.jpg": (there & columns, columns - there - hard)
        for image, (there, hard) in VOC[split].items()
        if image not in but
    }


def test_voc_s_labels_are_present_absent_or_hard_to_see(tmp_path):
    found = shipped_classes("voc", "16/4").vocabulary
    assert found.seen_count == 16 and found.mids[16:] == ("car", "dog", "sofa", "train")
    assert {"potted plant", "dining table", "tv monitor"} < {*found.names} and len(VOC_NAMES) == 20
    for year in (2007, 2012):
        write_voc(tmp_path / str(year), year, pictures=False)
        every = set_reader(tmp_path / str(year), "voc", classes=ALL, year=year)
        made = tables(every, tmp_path)
        assert made == {split: of_voc(split, set(VOC_NAMES)) for split in VOC}
    divided = set_reader(tmp_path / "2007/VOCdevkit", "voc", classes="16/4")
    made = tables(divided, tmp_path)
    seen = set(found.mids[:16])
    assert made["train"] == of_voc("train", seen, but=("000007", "000012"))
    assert made["test"] == of_voc("test", set(VOC_NAMES))
    paths = {split: tmp_path / f"{split}.parquet" for split in VOC}
    lines = every.acceptance(every.vocabulary({}), paths, {"train": 3, "test": 4}).lines()
    assert lines[:4] == [
        "train: images listed: 3 DIFFERS from the published 5,717",
        "train: images packed: 3 DIFFERS from the published 5,717",
        "test: images listed: 4 DIFFERS from the published 5,823",
        "test: images packed: 4 DIFFERS from the published 5,823",
    ]
    said = divided.write_inputs("train", paths["train"]).lines()
    assert "train: 2 images of train are left out: they have an unseen label" in said
    assert "train: 2 labels are of objects that are hard to see: unknown" in said


def test_voc_damaged_cut_off_and_reordered(tmp_path):
    folder = write_voc(tmp_path, pictures=False)
    found = set_reader(tmp_path, "voc", classes=ALL)
    before, path = tables(found, tmp_path), folder / "ImageSets/Main/cat_test.txt"
    for each in (folder / "ImageSets/Main").glob("*_*.txt"):
        each.write_text("\r\n".join(reversed(each.read_text().splitlines())))
    assert tables(found, tmp_path) == before
    text = path.read_text()
    for damage, sentence in {
        text.replace("-1", "2", 1): "line 1 is '000004 2', not an image and -1, 0 or 1",
        text + "\n000001 1": "image 000001 is there twice",
        text.rpartition("\n")[0]: "do not list the same images (000001 is in one of them)",
        "": "it is empty",
    }.items():
        path.write_text(damage)
        said = sentence_of(lambda: tables(found, tmp_path))
        assert said.startswith(str(path)) and sentence in said
    path.write_bytes(b"\xff\xfe0\x00")
    assert "is not UTF-8" in sentence_of(lambda: tables(found, tmp_path))
    path.unlink()
    assert "cat_test.txt does not exist: download VOC2007's test" in sentence_of(
        lambda: tables(found, tmp_path)
    )
    assert "data.classes=15/5 is none of 16/4, all" in sentence_of(
        lambda: set_reader(tmp_path, "voc", classes="15/5")
    )


# VG-256
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said, meant",
    [
        ("Clock.", "clock"),
        ("small white dog", "dog"),
        ("white", "white"),
        ("fire hydrant", "fire hydrant"),
        ("old red car", "old red car"),
        ("", ""),
    ],
)
def test_an_object_s_name_loses_its_attributes(said, meant):
    assert object_of(said) == meant


def test_vg_256_has_the_images_of_the_published_draw(tmp_path):
    """Of the labelled images in the order of their numbers, the draw of NumPy's RandomState(1)."""
    write_vg(tmp_path / "raw", pictures=False)
    found = set_reader(tmp_path / "raw", "vg256")
    made = tables(found, tmp_path)
    drawn = np.random.RandomState(1).permutation(7).tolist()
    numbers = {"train": drawn[:5], "test": drawn[5:]}
    every = set(VG_WORDS)
    for split, places in numbers.items():
        labels = {
            number: VG_LABELS[number] for number in (sorted(VG_LABELS)[place] for place in places)
        }
        assert made[split] == {vg_file(n): (of, every - of) for n, of in labels.items()}
    vocabulary = found.vocabulary({})
    assert vocabulary.names == tuple(VG_WORDS) and vocabulary.unseen_count == 0
    paths = {split: tmp_path / f"{split}.parquet" for split in made}
    lines = found.acceptance(vocabulary, paths, {"train": 5, "test": 2}).lines()
    assert "test: images listed: 2 DIFFERS from the published 32,011" in lines
    assert "train: images listed: 5 DIFFERS from the published 74,691" in lines


def test_vg_256_damaged_cut_off_and_reordered(tmp_path):
    root = tmp_path / "raw"
    write_vg(root, pictures=False)
    before, path = tables(set_reader(root, "vg256"), tmp_path), root / "objects.json"
    images = json.loads(path.read_text())
    for image in images:
        image["objects"].reverse()
    path.write_text(json.dumps([dict(reversed(image.items())) for image in reversed(images)]))
    assert tables(set_reader(root, "vg256"), tmp_path) == before
    for value, sentence in (
        ({}, "has no list of objects images"),
        ([*images, images[0]], "has an image twice"),
        ([{"image_id": "1", "objects": []}], "has no number as image_id in 1 of images"),
        ([{"image_id": 1, "objects": [{"names": []}]}], "objects without a name in image 1"),
        ([{"image_id": 1}], "objects without a name in image 1"),
        ([], "no image is left for train"),
    ):
        path.write_text(json.dumps(value))
        assert sentence in sentence_of(lambda: tables(set_reader(root, "vg256"), tmp_path))
    path.write_text(json.dumps(images))
    cut_in_half(path)
    assert "cannot be read as JSON" in sentence_of(
        lambda: tables(set_reader(root, "vg256"), tmp_path)
    )
    path.write_text(json.dumps(images))
    words = root / "vg256.json"
    for text, sentence in {
        '{"a": ["b"]': "is not valid JSON",
        '{"a": "b"}': "is no list of categories (a: input should be a valid array)",
        '{"a": [], "b": ["b"]}': "has a category without a name or words",
    }.items():
        words.write_text(text)
        assert sentence in sentence_of(lambda: tables(set_reader(root, "vg256"), tmp_path))
    words.unlink()
    said = sentence_of(lambda: set_reader(root, "vg256"))
    assert "download data/vg256/vg256.json of github.com/xiemk/MLC-PAT" in said


# Open Images V7
# --------------------------------------------------------------------------------------------------


def v7(root: Path, **keys):
    return set_reader(root, "openimages_v7", **{"seen_min_images": 1, "unseen_count": 5} | keys)


def v7_tables(root: Path, folder: Path) -> dict[str, dict]:
    made = {}
    for split in V7:
        v7(root).write_inputs(split, folder / f"{split}.parquet")
        rows = pl.read_parquet(folder / f"{split}.parquet").iter_rows(named=True)
        made[split] = {row["id"]: (set(row["positive"]), set(row["negative"])) for row in rows}
    return made


def test_open_images_v7_has_v4_s_columns_under_other_names(tmp_path):
    write_v7(tmp_path / "raw", pictures=False)
    assert v7_tables(tmp_path / "raw", tmp_path) == {
        split: {
            name(number): tuple(
                {mid for mid, there in of.items() if there == said} for said in (1, 0)
            )
            for number, of in images.items()
        }
        for split, images in V7.items()
    }
    found = v7(tmp_path / "raw")
    paths = {split: tmp_path / f"{split}.parquet" for split in V7}
    vocabulary = found.vocabulary(paths)
    assert (vocabulary.mids, vocabulary.seen_count) == (("/m/01", "/m/02", "/g/03"), 2)
    assert vocabulary.names[2] == "Snow, fresh"
    lines = found.acceptance(vocabulary, paths, {"train": 3, "validation": 1, "test": 2}).lines()
    for line in (
        "train: images listed: 3 DIFFERS from the published 9,011,219",
        "validation: images packed: 1 DIFFERS from the published 41,620",
        "test: images listed: 2 DIFFERS from the published 125,436",
        "labels of all splits: 11 DIFFERS from the published 61,404,966",
    ):
        assert line in lines


def test_open_images_v7_damaged_cut_off_and_reordered(tmp_path):
    root = tmp_path / "raw"
    write_v7(root, pictures=False)
    before = v7_tables(root, tmp_path)
    for path in root.glob("*.csv"):
        header, *rows = csv.reader(path.read_text().splitlines())
        order = sorted(range(len(header)), key=header.__getitem__)
        if path.name != "oidv7-class-descriptions.csv":
            rows = [[row[at] for at in order] for row in rows]
            header = [header[at] for at in order]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *reversed(rows)])
    assert v7_tables(root, tmp_path) == before
    labels = root / labels_of("train")
    text = labels.read_bytes()
    for damage, sentence in {
        text.rstrip().rpartition(b",")[0]: "damaged or cut off",
        text.replace(b"Confidence", b"Trust"): "has no column Confidence",
        b"": "it is empty",
    }.items():
        labels.write_bytes(damage)
        assert sentence in sentence_of(lambda: v7_tables(root, tmp_path))
    labels.unlink()
    assert f"{labels.name} does not exist: download it" in sentence_of(
        lambda: v7_tables(root, tmp_path)
    )
    (root / LISTS["train"]).unlink()
    assert LISTS["train"] in sentence_of(lambda: v7_tables(root, tmp_path))
    assert "has no split val" in sentence_of(lambda: v7(root).made_from("val"))
    (root / "oidv7-class-descriptions.csv").unlink()
    assert "has no oidv7-class-descriptions.csv" in sentence_of(lambda: v7(root))


# The road
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "data, write, keys, images",
    [
        ("voc", write_voc, ["data.classes=16/4"], 4),
        ("vg256", write_vg, [], 2),
        ("openimages_v7", write_v7, ["data.seen_min_images=1"], 2),
    ],
)
def test_the_road_to_clip_s_own_score(tmp_path, data, write, keys, images):
    write(tmp_path / "raw")
    common = [f"data={data}", f"data.root={tmp_path}/raw", f"work={tmp_path}/work", *keys]
    clip = [f"clip.name={tiny_clip_config(tmp_path).name}", "clip.pretrained=random"]
    assert main(["shard", *common, "resize=32", "workers=1"]) == 0
    assert main(["text", *common, *clip]) == 0
    assert main(["relations", *common]) == 0
    assert main(["teacher", *common, *clip, "views.count=1", "workers=1"]) == 0
    few = ["checkpoint=clip", "bootstrap=0", "workers=1", "topk=[1]"]
    assert main(["evaluate", *common, *clip, *few]) == 0
    found = json.loads((tmp_path / "work/evaluation/results.json").read_text())
    assert found["images"] == images and "F1@1" in found["gzsl"]
