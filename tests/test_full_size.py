"""Real photographs through the whole road at full size: ViT-B/16, 224 px, all 7,186 + 400
categories, two workers.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "photos"
GIB = 1024  # MiB

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        not PHOTOS.is_dir(), reason="needs shared/data/photos beside the repository"
    ),
]


def c2srt(work: Path, verb: str, *overrides: str) -> str:
    command = [
        sys.executable,
        "-m",
        "c2srt.cluster.cli",
        verb,
        "data=openimages",
        f"data.root={PHOTOS}",
        f"work={work}",
        "clip.pretrained=random",
        "views.count=0",
        *overrides,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("photos")
    for verb, *overrides in (
        ["shard", "images_per_shard=133"],
        ["text", "templates=simple"],
        ["relations"],
        ["teacher"],
        ["train", "workers=2", "batch=16", "micro_batch=8", "steps=2", "log_every=1"],
    ):
        c2srt(work, verb, *overrides)
    return work


def test_every_photograph_is_packed(work):
    index = json.loads((work / "shards/index.json").read_text())
    assert {
        split: sum(shard["count"] for shard in shards) for split, shards in index["splits"].items()
    } == {"train": 266, "validation": 30, "test": 93}


def test_a_worker_at_batch_8_stays_within_6_gib(work):
    summary = json.loads((work / "train/train.json").read_text())
    assert summary["state"] == "finished" and len(summary["peak_rss_mib"]) == 2
    assert max(summary["peak_rss_mib"]) <= 6 * GIB


def test_it_trains(work):
    steps = [json.loads(line) for line in (work / "train/metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["gradient_norm"] > 0 for step in steps)
    assert steps[1]["ranking"] != steps[0]["ranking"] and steps[1]["drift"] > 10 * steps[0]["drift"]


def test_it_evaluates_and_predicts(work):
    c2srt(work, "evaluate")
    results = json.loads((work / "evaluation/results.json").read_text())
    assert results["images"] == 93
    assert 0 < results["gzsl"]["mAP"]["per_class"] < 1 and 0 <= results["zsl"]["F1@10"]["F1"] <= 1

    photo = sorted((PHOTOS / "images/test").glob("*.jpg"))[0]
    lines = c2srt(
        work, "predict", f"images=[{photo}]", 'labels=[dog,"a car nobody listed",Tree]', "json=true"
    ).splitlines()
    ranked = json.loads(lines[-1])
    assert {row["label"] for row in ranked["labels"]} == {"dog", "a car nobody listed", "Tree"}
