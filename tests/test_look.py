"""`c2srt audit` beyond the bytes: what is planted in a small data set is found, in clean pictures
nothing is; and the version of a data set is in every result.
"""

import csv
import json
import re
from pathlib import Path

import pytest

from c2srt.audit.spelling import BLANKS, CAPITALS, PLURAL, SAME, twins
from c2srt.cluster.cli import main
from c2srt.evaluation.known import given_away
from c2srt.shards import load_index
from c2srt.vocabulary import Vocabulary
from tests.own_pictures import write_pictures, write_table

PLURALS = {
    **{"dog": "dogs", "bus": "buses", "berry": "berries", "leaf": "leaves", "knife": "knives"},
    **{"box": "boxes", "tomato": "tomatoes", "bird of prey": "birds of prey"},
    **{"red car": "red cars", "church": "churches"},
}
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
    assert "parts=['lables'] must name some of shards, labels" in capsys.readouterr().err


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
