"""`c2srt audit` beyond the bytes: what is planted in a small data set is found, in clean pictures
nothing is; and the version of a data set is in every result.
"""

import csv
import json
import re
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from c2srt.audit.control import COPIES, DIFFERENT
from c2srt.audit.spelling import BLANKS, CAPITALS, PLURAL, SAME, twins
from c2srt.cluster.cli import main
from c2srt.demo.shipped import unpack
from c2srt.evaluation.known import given_away
from c2srt.shards import load_index
from c2srt.vocabulary import Vocabulary
from tests.own_pictures import write_pictures, write_table

PLURALS = {
    **{"dog": "dogs", "bus": "buses", "berry": "berries", "leaf": "leaves", "knife": "knives"},
    **{"box": "boxes", "tomato": "tomatoes", "bird of prey": "birds of prey"},
    **{"red car": "red cars", "church": "churches"},
}
CLIP = (("name", "json"), ("pretrained", "safetensors"))
NUS_WIDE = Path(__file__).parents[2] / "shared/data/nuswide"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def sharded(folder: Path, tables: dict[str, list[list[str]]], *more: str) -> list[str]:
    """Packs tables of images (name, labels …) by their splits' keys; returns the arguments that
    verbs take for them.
    """
    for key, rows in tables.items():
        write_table(folder / f"{key}.csv", rows)
    keys = [f"work={folder}/run", *(f"data.{key}={folder}/{key}.csv" for key in tables)]
    assert main(["shard", "data=csv", *keys, "workers=1", *more]) == 0
    return keys


@pytest.fixture
def tables(tmp_path) -> dict[str, list[list[str]]]:
    """Forty pictures each to train on, to validate and to test."""
    found = {}
    for key in ("train", "val", "test"):
        rows = write_pictures(tmp_path / key, 40, split=key)
        found[key] = [[f"{key}/{name}", *labels] for name, *labels in rows]
    return found


def test_names_that_differ_by_nothing_but_a_form_are_found():
    names = [*PLURALS, "glass", "Ball", "sea side", *PLURALS.values(), "ball", "sea-side", "glass"]
    found = {(names[pair.first], names[pair.second]): pair.kind for pair in twins(names)}
    others = {("Ball", "ball"): CAPITALS, ("sea side", "sea-side"): BLANKS}
    assert found == {
        **dict.fromkeys(PLURALS.items(), PLURAL),
        **others,
        ("glass", "glass"): SAME,
    }


def test_names_of_other_things_are_left_alone():
    assert not twins(["man", "men", "grass", "gras", "car", "cart", "new york", "york", "sees"])


@pytest.mark.skipif(not NUS_WIDE.is_dir(), reason="the class lists of NUS-WIDE are not here")
def test_the_twins_that_nus_wide_is_known_for_are_among_those_found():
    seen, unseen = (
        (NUS_WIDE / name).read_text(encoding="utf-8").split()
        for name in ("nuswide_seen_925.txt", "nuswide_unseen_81.txt")
    )
    vocabulary = Vocabulary((*seen, *unseen), (*seen, *unseen), len(seen))
    found = {(pair.second, pair.first) for pair in twins(vocabulary.names)}
    known = given_away(vocabulary)
    assert len(known) == 30 and found >= set(known)


def test_labels_are_looked_through_before_training(tmp_path, tables, capsys):
    """Ten plurals, and a label that validation alone lacks."""
    for (one, more), row, other in zip(
        PLURALS.items(), tables["train"], tables["train"][20:], strict=False
    ):
        row.append(one)
        other.append(more)
    for row in (*tables["train"][:2], *tables["test"][:2]):
        row.append("rare thing")
    tables["val"][0] += [*PLURALS, *PLURALS.values()]
    tables["test"][0] += [*PLURALS, *PLURALS.values()]
    keys = sharded(tmp_path, tables)
    capsys.readouterr()
    assert main(["audit", "data=csv", *keys, "workers=1"]) == 0
    said, out = capsys.readouterr().out, tmp_path / "run/shards/audit"
    assert "all agree" in said
    assert {(row["name"], row["other name"]) for row in rows_of(out / "names.csv")} == {
        tuple(sorted(pair)) for pair in PLURALS.items()
    }
    counts = {row["name"]: row for row in rows_of(out / "categories.csv")}
    assert [counts["rare thing"][f"{split} positives"] for split in ("train", "validation")] == [
        *("2", "0")
    ]
    none = [name for name in counts if counts[name]["validation positives"] == "0"]
    assert re.search(f"validation: {len(none)} categor(y|ies) without a positive", said)
    record = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    index = load_index(tmp_path / "run/shards")
    assert record["data"] == index.version and record["names"][PLURAL] == 10
    assert main(["audit", "data=csv", *keys, "parts=[lables]"]) == 2
    assert (
        "parts=['lables'] must name some of shards, labels, duplicates" in capsys.readouterr().err
    )


def planted(folder: Path, tables: dict[str, list[list[str]]]) -> set[tuple[str, str]]:
    """Twenty copies, in validation and test, of pictures to train on, the first ten without a label
    that the original has; returns the names (original, copy).
    """
    names = set()
    for number, (name, *labels) in enumerate(tables["train"][:20]):
        image = Image.open(folder / name).convert("RGB")
        key, how = ("val", "test")[number % 2], number % 3
        if how == 1:
            image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.LANCZOS)
        elif how == 2:
            width, height = image.size
            left, top = (width // 10) * (number % 2), (height // 10) * (number // 2 % 2)
            image = image.crop((left, top, left + width - width // 10, top + height - height // 10))
        copy = f"{key}/copy {number}.jpg"
        image.save(folder / copy, quality=40 if how == 0 else 85)
        tables[key].append([copy, *labels[number < 10 :]])
        names.add((Path(name).name, Path(copy).name))
    return names


def test_planted_copies_are_found_and_nothing_else(tmp_path, capsys):
    """Twenty pairs and ten contradictions among 300 clean pictures; what is excluded is a row with
    its reason, and the audit of what is left finds no pair.
    """
    tables = {}
    for key, count in (("train", 180), ("val", 60), ("test", 60)):
        rows = write_pictures(tmp_path / key, count, split=key)
        tables[key] = [[f"{key}/{name}", *labels] for name, *labels in rows]
    copies = planted(tmp_path, tables)
    keys = sharded(tmp_path, tables)
    unpack(tmp_path / "clip", 0)
    clip = [f"clip.{key}={tmp_path}/clip/model.{kind}" for key, kind in CLIP]
    parts = ["parts=[duplicates]", "workers=1"]
    assert main(["audit", "data=csv", *keys, *clip, *parts]) == 0
    shards, out = tmp_path / "run/shards", tmp_path / "run/shards/audit"
    name_of = {
        row["id"]: Path(row["file"]).name
        for path in (shards / "inputs").glob("*.parquet")
        for row in pl.read_parquet(path).to_dicts()
    }
    pairs = {
        (name_of[row["image"]], name_of[row["other image"]])
        for row in rows_of(out / "duplicates.csv")
    }
    assert pairs <= copies and len(pairs) >= 19
    contradicted = {name_of[row["image"]] for row in rows_of(out / "conflicts.csv")}
    named = {Path(name).name for name, *_ in tables["train"][:10]}
    assert contradicted <= named and len(contradicted) >= 9 + (len(pairs) == 20)
    excluded = {name_of[row["image"]] for row in rows_of(out / "exclude.csv")}
    assert excluded == {one for one, _ in pairs}
    assert (
        main(
            ["shard", "data=csv", *keys, f"data.exclude={out}/exclude.csv", f"out={tmp_path}/left"]
        )
        == 0
    )
    rows = pl.read_parquet(f"{tmp_path}/left/train-000000.parquet").to_dicts()
    assert {name_of[row["id"]] for row in rows if row["status"] == "excluded"} == excluded
    assert all("the same picture as" in row["reason"] for row in rows if row["status"] != "ok")
    assert main(["audit", "data=csv", *keys, f"shards={tmp_path}/left", "parts=[shards]"]) == 0
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2 * len(pairs) and "<script" not in page and "http" not in page
    control = json.loads((out / "audit.json").read_text())["duplicates"]["control"]
    assert max(control[DIFFERENT]["agreements"]) < 0.5
    assert all(min(control[kind]["agreements"]) > 0.85 for kind in COPIES)


@pytest.mark.parametrize(
    "key, said",
    [
        ("most=100", "has 120 images, more than most=100"),
        ("cosine=1", "cosine=1.0 must be above 0"),
    ],
)
def test_what_cannot_be_looked_for_is_a_sentence(tmp_path, tables, capsys, key, said):
    keys = sharded(tmp_path, tables)
    assert main(["audit", "data=csv", *keys, "parts=[duplicates]", key]) == 2
    assert said in capsys.readouterr().err


def test_an_image_to_exclude_that_is_not_there_is_a_sentence(tmp_path, tables, capsys):
    (tmp_path / "exclude.csv").write_text("image,reason\nno such image,blurred\n")
    for key, rows in tables.items():
        write_table(tmp_path / f"{key}.csv", rows)
    keys = [f"work={tmp_path}/run", *(f"data.{key}={tmp_path}/{key}.csv" for key in tables)]
    assert main(["shard", "data=csv", *keys, f"data.exclude={tmp_path}/exclude.csv"]) == 2
    said = capsys.readouterr().err
    assert "excludes 1 images that are not in train or validation or test" in said
    assert not (tmp_path / "run/shards/index.json").exists()


def test_a_result_says_of_which_version_of_the_data_it_is(tmp_path, tables):
    keys = sharded(tmp_path, tables)
    shards = tmp_path / "run/shards"
    version = load_index(shards).version
    assert json.loads((shards / "index.json").read_text())["version"] == version
    assert main(["evaluate", "data=csv", *keys, "checkpoint=prior", "workers=1"]) == 0
    assert json.loads((tmp_path / "run/evaluation/results.json").read_text())["data"] == version
    sharded(tmp_path, tables, f"out={tmp_path}/again")
    assert load_index(tmp_path / "again").version == version
    tables["test"][0][1:] = tables["test"][1][1:] = ["star"]
    sharded(tmp_path, tables, f"out={tmp_path}/other")
    assert load_index(tmp_path / "other").version != version
