"""NUS-WIDE: its original layout → shards → every verb, on a small tree with the real category
names.
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from c2srt.cluster.cli import main
from c2srt.datasets import published_of
from c2srt.errors import UserError
from c2srt.relations.answers import shipped_answers
from c2srt.relations.table import load_relations
from c2srt.samples import Samples
from c2srt.sharding.config import DataConfig
from c2srt.sharding.counts import Count
from c2srt.sharding.nuswide import find
from c2srt.sharding.nuswide_files import read_bits
from c2srt.shards import load_index
from c2srt.vocabulary import Vocabulary, load_vocabulary
from tests.nus_wide_files import (
    CONCEPTS,
    FOLDERS,
    IMAGES,
    NAMES,
    SEEN,
    TAGS,
    UNTAGGED,
    file_of,
    id_of,
    write_lines,
    write_nus_wide,
)
from tests.tiny import tiny_clip_config

SHARED = Path(__file__).parents[2] / "shared/data/nuswide"
TRAIN = IMAGES["train"]
MISSING, BROKEN, BROKEN_TEST = 4, 5, TRAIN + 2


@pytest.fixture(scope="module")
def world(shared_ray, tmp_path_factory):
    """(work folder with raw/ and shards/, labels by split, what `c2srt shard` printed); one picture
    is gone, two are broken.
    """
    work = tmp_path_factory.mktemp("nuswide")
    labels = write_nus_wide(work / "raw")
    (work / "raw/Flickr" / file_of(MISSING)).unlink()
    for number in (BROKEN, BROKEN_TEST):
        path = work / "raw/Flickr" / file_of(number)
        path.write_bytes(path.read_bytes()[:300])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["shard", *common(work), "images_per_shard=10", "resize=32"]) == 0
    return work, labels, printed.getvalue()


def common(work: Path) -> list[str]:
    return ["data=nuswide", f"data.root={work}/raw", f"work={work}"]


def expected_labels(bits: np.ndarray) -> np.ndarray:
    """y = 2t − 1 [n, 1006]; the 81 concepts are unknown where the files' columns end at the 925."""
    return np.hstack(
        [2 * bits.astype(np.int8) - 1, np.zeros((len(bits), len(NAMES) - bits.shape[1]), np.int8)]
    )


def test_the_published_vocabulary_is_tags_without_concepts_then_concepts():
    assert Vocabulary(NAMES, NAMES, 925).hash == published_of("nuswide").vocabulary and [
        c for c in CONCEPTS if c not in TAGS
    ] == list(UNTAGGED)
    assert (len(SEEN), len(CONCEPTS), len(TAGS)) == (925, 81, 1000)
    if not SHARED.is_dir():
        pytest.skip("needs shared/data to compare with the original lists")
    tags, concepts = (
        (SHARED / f"{name}.txt").read_text().split() for name in ("TagList1k", "Concepts81")
    )
    assert (
        tuple(tag for tag in tags if tag not in concepts) == SEEN
        and tuple(concepts) == CONCEPTS
        and set(tags) == set(TAGS)
    )


def test_shards_hold_every_image_with_its_labels_in_the_columns_of_the_vocabulary(world):
    work, labels, _ = world
    index, vocabulary = load_index(work / "shards"), load_vocabulary(work / "shards")
    assert set(index.splits) == {"train", "test"}
    assert (vocabulary.mids, vocabulary.names, vocabulary.seen_count) == (NAMES, NAMES, 925)
    first = {"train": 0, "test": TRAIN}
    for split, bits in labels.items():
        expected = {
            id_of(first[split] + row): labelled
            for row, labelled in enumerate(expected_labels(bits))
        }
        shards = index.split(split)
        samples = Samples(work / "shards", shards, vocabulary, len(vocabulary), 4)
        found = [
            samples.read(shard, sample)
            for shard in range(len(shards))
            for sample in range(shards[shard].count)
        ]
        gone = {id_of(number) for number in (MISSING, BROKEN, BROKEN_TEST)}
        assert [sample.id for sample in found] == sorted(set(expected) - gone)
        assert all(
            (sample.labels == expected[sample.id]).all() and sample.image.shape[0] == 32
            for sample in found
        )


def test_images_that_fail_are_rows_with_a_reason_and_a_photo_in_two_folders_is_two_images(world):
    work, _, printed = world
    rows = pl.concat(pl.read_parquet(path) for path in sorted((work / "shards").glob("t*.parquet")))
    assert sorted(rows["id"]) == sorted(id_of(number) for number in range(sum(IMAGES.values())))
    failed = {
        row["id"]: (row["status"], row["reason"])
        for row in rows.filter(pl.col("status") != "ok").iter_rows(named=True)
    }
    assert failed[id_of(MISSING)] == (
        "missing",
        f"there is no file {file_of(MISSING).rpartition('/')[2]}",
    )
    assert {failed.pop(id_of(number))[0] for number in (BROKEN, BROKEN_TEST)} == {
        "corrupt"
    } and len(failed) == 1
    twice = rows.filter(pl.col("id").str.ends_with("_2124494179"))
    assert twice["id"].to_list() == [
        f"{FOLDERS[0]}_0001_2124494179",
        f"{FOLDERS[1]}_0002_2124494179",
    ]
    assert "train: 1 Flickr photos lie in several folders" in printed and set(twice["status"]) == {
        "ok"
    }


def test_counts_stand_beside_the_published_constants(world):
    work, labels, printed = world
    zsl, gzsl = (
        labels["test"][:, 925:].sum() / IMAGES["test"],
        labels["test"].sum() / IMAGES["test"],
    )
    for line in (
        "train: images listed: 24 DIFFERS from the published 161,789",
        "test: images packed: 11 DIFFERS from the published 107,859",
        (
            f"test: ZSL positives per image, over all images: {zsl:.3f} DIFFERS from the published"
            " 1.875"
        ),
        (
            f"test: GZSL positives per image, over all images: {gzsl:.2f} DIFFERS from the"
            " published 6.80"
        ),
        "vocabulary: 925 seen + 81 unseen",
        f"6 concepts are no tags: {', '.join(UNTAGGED)}",
        "30 unseen categories differ from a seen one only by the plural (animal/animals, ",
    ):
        assert line in printed
    assert len(json.loads((work / "shards/acceptance.json").read_text())["counts"]) == 8
    assert (
        Count("", 202_233 / 107_859, (1.875,), 3).agrees
        and not Count("", 1.8756, (1.875,), 3).agrees
    )


def test_audit_agrees_and_a_changed_label_file_is_noticed(world, capsys):
    work, _, _ = world
    assert main(["audit", *common(work)]) == 0
    assert (
        "5 shards, 33 packed of 36 images" in (printed := capsys.readouterr().out)
        and "all agree" in printed
    )
    path = work / "raw/Groundtruth/TrainTestLabels/Labels_zebra_Test.txt"
    before = path.read_bytes()
    path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
    try:
        assert main(["audit", *common(work), f"out={work}/audit"]) == 1
        assert (
            f"{id_of(TRAIN)}: positive labels differ from the CSVs' (zebra only in the"
            in capsys.readouterr().out
        )
    finally:
        path.write_bytes(before)


def test_every_verb_takes_nus_wides_own_defaults(capsys):
    def composed(verb: str) -> dict:
        assert main([verb, "data=nuswide", "data.root=/x", "--cfg", "job"]) == 0
        return yaml.safe_load(capsys.readouterr().out)

    assert composed("shard")["splits"] == ["train", "test"] and composed("evaluate")["topk"] == [
        3,
        5,
    ]
    assert (
        composed("relations")["neighbours"] == 16
        and composed("evaluate")["shards"] == "runs/nuswide/shards"
    )
    train = composed("train")
    assert (train["schedule"]["epochs"], train["schedule"]["batch"]) == (20, 64)
    assert train["model"]["neighbours"] == 16
    assert main(["relations", "data=openimages", "--cfg", "job", "data.root=/x"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["neighbours"] == 8
    assert main(["shard", "data=nuswide", "data.root=/x", "data.images=packs"]) == 2
    assert "unknown key 'data.images'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_road(world):
    """Relations from the shipped file, 16 neighbours, two steps of training, F1@3 and F1@5."""
    work, labels, _ = world
    where = [*common(work), f"clip.name={tiny_clip_config(work).name}", "clip.pretrained=random"]
    assert main(["text", *where, "templates=simple"]) == 0
    assert main(["relations", *common(work), "graph=llm"]) == 0
    table = load_relations(work / "relations/llm", load_vocabulary(work / "shards"), 16)
    assert table.shape == (1006, 16) and table.min() >= 0 and table.max() < 925
    related = [
        answer.key for answer in shipped_answers("relations_nuswide.jsonl.gz").related["zebra"]
    ]
    assert {NAMES[column] for column in table[NAMES.index("zebra")]} <= set(related)
    assert main(["teacher", *where, "workers=1", "views.count=1"]) == 0
    assert (
        main(
            [
                "train",
                *where,
                "workers=1",
                "views.count=1",
                "steps=2",
                "batch=8",
                "micro_batch=8",
                "loader_workers=0",
                "model.layers=1",
                "model.heads=2",
                "tracking.model=false",
            ]
        )
        == 0
    )
    assert main(["evaluate", *where, "workers=1", "loader_workers=0"]) == 0
    found = json.loads((work / "evaluation/results.json").read_text())
    bits = np.delete(labels["test"], BROKEN_TEST - TRAIN, axis=0)
    assert found["images"] == len(bits) == 11
    for label_set, categories in (("zsl", 81), ("gzsl", 1006)):
        values = found[label_set]
        assert values["all_images"]["positives_per_image"] == pytest.approx(
            bits[:, -categories:].sum() / len(bits)
        )
        assert set(values["all_images"]) == {"F1@3", "F1@5", "positives_per_image"}
        assert values["categories"]["all"] == values["categories"]["verified"] == categories
        assert values["mAP"]["dense"] >= 0 and values["mAP"]["per_class"] > 0
    settings = json.loads((work / "train/model/config.json").read_text())
    assert settings["vocabulary"]["seen_count"] == 925 and settings["model"]["neighbours"] == 16


# Bad input
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    write_nus_wide(tmp_path, {"train": 3, "test": 3})
    return tmp_path


def edit(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


TAG_LIST, TAG_BITS, CONCEPT_LIST = (
    "NUS_WID_Tags/TagList1k.txt",
    "NUS_WID_Tags/Test_Tags1k.dat",
    "ConceptsList/Concepts81.txt",
)
IMAGE_LIST, DOGS = "ImageList/TestImagelist.txt", "Groundtruth/TrainTestLabels/Labels_dog_Test.txt"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda root: (root / IMAGE_LIST).unlink(),
            "ImageList/TestImagelist.txt does not exist: download",
        ),
        (
            lambda root: (root / TAG_LIST).unlink(),
            "TagList1k.txt does not exist: download NUS-WIDE's NUS_WID_Tags",
        ),
        (lambda root: (root / CONCEPT_LIST).write_bytes(b"\r\n"), "gives no unseen category"),
        (
            lambda root: edit(root / CONCEPT_LIST, b"zebra", b"unicorn"),
            "concept 'unicorn' of Concepts81.txt has no labels: ",
        ),
        (lambda root: edit(root / CONCEPT_LIST, b"zebra", b"whales"), "'whales' is there twice"),
        (
            lambda root: edit(root / TAG_BITS, b"0\t", b"2\t"),
            "Test_Tags1k.dat, line 1: '2' is no label; labels are 0 or 1",
        ),
        (
            lambda root: edit(root / TAG_BITS, b"0\t", b""),
            "line 1: 999 labels, where 1,000 are expected",
        ),
        (
            lambda root: edit(root / TAG_BITS, b"\t\n", b"\t"),
            "Test_Tags1k.dat, line 1: 2,000 labels",
        ),
        (
            lambda root: write_lines(root / DOGS, "01-"),
            "Labels_dog_Test.txt, line 3: '-' is no label",
        ),
        (
            lambda root: write_lines(root / DOGS, "01"),
            (
                "Labels_dog_Test.txt has 2 lines, but {root}/ImageList/TestImagelist.txt lists 3"
                " images"
            ),
        ),
        (lambda root: write_lines(root / DOGS, "0110"), "has 4 lines"),
        (lambda root: (root / DOGS).write_bytes(b""), "has 0 lines"),
        (
            lambda root: write_lines(root / IMAGE_LIST, ["a\\1_2.jpg", "a.jpg"]),
            r"image 2 is 'a.jpg', not folder\0001_",
        ),
        (
            lambda root: write_lines(root / IMAGE_LIST, [r"..\1_2.jpg"]),
            r"image 1 is '..\1_2.jpg', not",
        ),
        (
            lambda root: write_lines(root / IMAGE_LIST, [r"a\1_2.jpg"] * 3),
            "image a/1_2.jpg is there twice",
        ),
        (lambda root: write_lines(root / IMAGE_LIST, []), "it is empty"),
        (
            lambda root: (root / IMAGE_LIST).write_bytes(b"caf\xe9\\1_2.jpg\n"),
            r"TestImagelist.txt is not UTF-8 (line 1: caf\xe9\1_2.jpg)",
        ),
        (
            lambda root: (root / "Flickr").rename(root / "photos"),
            "Flickr is not a folder: put NUS-WIDE's image folders there",
        ),
    ],
)
def test_bad_files_get_one_sentence(small, capsys, change, sentence):
    change(small)
    assert main(["shard", "data=nuswide", f"data.root={small}", f"work={small}/work"]) == 2
    message = capsys.readouterr().err
    assert sentence.format(root=small) in message and len(message.splitlines()) == 1
    assert (
        not list((small / "work/shards").glob("*.tar"))
        and not (small / "work/shards/inputs/test.parquet").exists()
    )


def test_bad_settings_get_one_sentence(small, tmp_path, capsys):
    for arguments, sentence in (
        (
            ["splits=[train,validation]"],
            "NUS-WIDE has no split 'validation': choose 'splits=[train,test]'",
        ),
        (["data.layout=lvis"], "data.layout=lvis is none of openimages, nuswide"),
        ([f"data.root={tmp_path}/none"], "is not a folder: name the one that holds NUS-WIDE's"),
    ):
        assert (
            main(["shard", "data=nuswide", f"data.root={small}", f"work={small}/work", *arguments])
            == 2
        )
        assert sentence in capsys.readouterr().err


def test_labels_are_read_across_blocks(tmp_path, monkeypatch):
    bits = np.random.default_rng(1).integers(0, 2, (700, 9), np.uint8)
    path = tmp_path / "bits.dat"
    write_lines(path, [" ".join(map(str, row)) for row in bits])
    monkeypatch.setattr("c2srt.sharding.nuswide_files.BLOCK_LINES", 55)
    assert (read_bits(path, 9, 700, path) == bits).all()
    edit(
        path,
        b"\r\n".join(path.read_bytes().split(b"\r\n")[650:652]),
        b"1 0 9 0 0 0 0 0 0\r\n" + b"1 " * 9,
    )
    with pytest.raises(UserError, match="line 651: '9' is no label"):
        read_bits(path, 9, 700, path)


def test_tables_are_made_again_when_a_list_of_categories_changes(small):
    write_lines(small / TAG_LIST, TAGS[::-1])
    before = find(DataConfig(root=str(small))).made_from("train")
    write_lines(small / TAG_LIST, TAGS)
    write_lines(small / CONCEPT_LIST, CONCEPTS)
    after = find(DataConfig(root=str(small))).made_from("train")
    assert (
        {Path(path).name for path in before["csvs"] if before["csvs"][path] != after["csvs"][path]}
        == {"TagList1k.txt", "Concepts81.txt"}
        and set(before["csvs"]) == set(after["csvs"])
        and len(after["csvs"]) == 4
    )


def test_odd_folder_names_give_keys_that_a_tar_of_samples_can_hold(tmp_path):
    write_nus_wide(tmp_path, {"train": 2})
    write_lines(
        tmp_path / "ImageList/TrainImagelist.txt", ["st. john's/0001_5.jpg", "b\\0002_6.jpg"]
    )
    find(DataConfig(root=str(tmp_path))).write_inputs("train", tmp_path / "train.parquet")
    rows = pl.read_parquet(tmp_path / "train.parquet")
    assert rows.select("id", "file").rows() == [
        ("b_0002_6", "b/0002_6.jpg"),
        ("st--john-s_0001_5", "st. john's/0001_5.jpg"),
    ]
