"""docs/own-data.md followed by its letter on 200 PNGs, with the small CLIP of the package: does the
model rank pictures by a word that no label of its training said?
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score

from c2srt.cluster.cli import main
from c2srt.demo.shipped import unpack
from tests.own_pictures import write_pictures, write_table

PAGE = Path(__file__).parents[1] / "docs/own-data.md"
WORDS = ("purple", "snow")
CLIP = ["clip.name=clip/model.json", "clip.pretrained=clip/model.safetensors"]
SMALL = {
    "text": ["prompts=miniature"],
    "teacher": ["views.count=0"],
    "train": ["views.count=0", "model.heads=4", "model.score_scale=16", "schedule.epochs=4"],
}
"""What belongs to that CLIP and its pictures of 64 pixels (configs/datasets/miniature.yaml), and
fewer epochs: minutes.
"""


def commands(section: str = "") -> list[str]:
    """Those of the page's first part, or of another one, in their order."""
    parts = PAGE.read_text(encoding="utf-8").split("\n## ")
    chosen = (
        next(part for part in parts if part.startswith(f"{section}\n")) if section else parts[0]
    )
    return re.findall(r"^    (c2srt .*)$", chosen, re.MULTILINE)


def test_the_page_needs_at_most_ten_commands():
    assert [shlex.split(command)[1] for command in commands()] == [
        *("shard", "text", "relations", "teacher", "train"),
        *("evaluate", "evaluate", "calibrate", "predict"),
    ]


def follow(command: str, folder: Path) -> str:
    """Runs a command of the page there; returns what it said."""
    _, verb, *typed = shlex.split(command)
    clip = CLIP if verb != "predict" else []
    done = subprocess.run(
        [sys.executable, "-m", "c2srt.entry", verb, *typed, *clip, *SMALL.get(verb, [])],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert not done.returncode, f"{command}:\n{done.stdout[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
def test_an_unseen_word_ranks_its_pictures_above_shuffled_ones(tmp_path, seed):
    rows = write_pictures(tmp_path / "photos", 200, seed)
    write_table(tmp_path / "labels.csv", rows, "photos/")
    unpack(tmp_path / "clip", 0)
    for command in commands():
        follow(command, tmp_path)
    test = pl.read_parquet(tmp_path / "runs/csv/shards/inputs/test.parquet")
    found = pl.read_csv(tmp_path / "runs/csv/evaluation/per_category.csv")
    precision = dict(zip(found["name"], found["zsl_per_class"], strict=True))
    assert len(test) == 40 and test["positive"].list.len().min() > 0
    for word in WORDS:
        has = test["positive"].list.contains(word).to_numpy()
        assert precision[word] > shuffled(has, seed), word
    assert pl.read_csv(tmp_path / "tags.csv")["image"].n_unique() == 200


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_plain_classifier_says_of_each_label_how_well_it_is_known(
    tmp_path, monkeypatch, capsys, shared_ray
):
    write_table(tmp_path / "labels.csv", write_pictures(tmp_path / "photos", 100), "photos/")
    unpack(tmp_path / "clip", 0)
    monkeypatch.chdir(tmp_path)
    for command in commands("A plain classifier"):
        _, verb, *typed = shlex.split(command)
        assert main([verb, *typed, *CLIP, *SMALL.get(verb, [])]) == 0, command
    printed = capsys.readouterr().out
    assert "best AP (per_class; positives): " in printed and "ZSL cannot be measured" in printed
    test = pl.read_parquet("runs/csv/shards/inputs/test.parquet")["positive"].list
    known = pl.read_csv("runs/csv/evaluation/per_category.csv")
    named = pl.read_csv("runs/csv/calibrated/per_category.csv")
    for table in (known, named):
        assert table["seen"].all() and table["positives"].to_list() == [
            test.contains(name).sum() for name in table["name"]
        ]
    assert (named["right"] + named["missed"] == named["positives"]).all()
    assert (named["wrong"] <= named["negatives"]).all()
    pairs = pl.read_csv("runs/csv/calibrated/confusions.csv")
    wrong = dict(named.select("name", "wrong").iter_rows())
    assert len(pairs) and [wrong[name] for name in pairs["said"]] == pairs["said_wrongly"].to_list()
    assert (pairs["images"] <= pairs["missed"]).all()


def shuffled(has: np.ndarray, seed: int, draws: int = 1000) -> float:
    """The mean AP of scores that were given to other images, as of any scores in random order."""
    random = np.random.default_rng(seed)
    return float(
        np.mean([average_precision_score(has, random.random(len(has))) for _ in range(draws)])
    )
