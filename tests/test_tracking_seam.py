"""A tracker of another kind, in a file of its own: what a sink needs, and nothing else."""

import json
from dataclasses import replace

import pytest

from c2srt.tracking import DESCRIPTION, Run, Tracker, how_to_open, sender, unsent
from c2srt.tracking.sinks import KINDS
from tests.plain_tracker import PLAIN, PlainFile
from tests.ranks import run_ranks
from tests.train_case import make_case, train_rank


@pytest.fixture
def plain(monkeypatch, tmp_path) -> PlainFile:
    monkeypatch.setitem(KINDS, "plain", PLAIN)
    return PlainFile(f"plain:{tmp_path}/runs.jsonl", tmp_path)


def train(rank: int, config) -> str:
    """One rank's training, in a process that knows the tracker."""
    KINDS["plain"] = PLAIN
    return train_rank(rank, config)


def test_a_training_is_recorded_by_another_tracker(plain, tmp_path):
    config = make_case(tmp_path, workers=1)
    tracking = replace(config.tracking, uri=f"plain:{plain.path}", model=True, register="tagger")
    run_ranks(1, train, replace(config, tracking=tracking))
    opening, *entries = plain.lines()
    out = tmp_path / "train"
    assert opening["experiment"] == "test" and opening["params"]["model.layers"] == "1"
    assert opening["tags"][DESCRIPTION].startswith(f"Training into `{out}`")
    losses = [entry["step"] for entry in entries if "loss" in entry.get("metrics", ())]
    assert losses == [2, 4, 6, 8]
    kept = {entry["artifact"]: entry["bytes"] for entry in entries if "artifact" in entry}
    assert kept["loss.png"] == (out / "loss.png").stat().st_size > 0
    assert [entry for entry in entries if "model" in entry] == [
        {"run": opening["run"], "model": "model", "step": 8, "register": "tagger"}
    ]
    assert entries[-1]["status"] == "FINISHED" and not unsent(out)
    assert json.loads((out / "run.json").read_text())["run_id"] == opening["run"]
    assert not (tmp_path / "mlflow.db").exists()
    with_times = (out / "tracking.jsonl").read_text().splitlines()
    assert len(with_times) == len(entries) + 1  # each once


def test_what_a_tracker_does_not_take_waits_and_what_it_refuses_is_left_out(
    plain, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sender, "FIRST_WAIT_S", 0.05)
    monkeypatch.setitem(KINDS, "plain", replace(PLAIN, sink="tests.plain_tracker:Down"))
    (tmp_path / "run").mkdir()
    first = Tracker(
        tmp_path / "run", f"plain:{plain.path}", Run("miniature", "full", {}, {}, "key")
    )
    first.metrics({"loss": 2.0}, 1)
    first.artifact(tmp_path / "nowhere.txt")
    first.close("KILLED")
    said = capsys.readouterr().err
    assert "fails (division by zero)" in said and "4 entries did not reach plain:" in said
    monkeypatch.setitem(KINDS, "plain", PLAIN)
    Tracker(tmp_path / "run").close(None)
    assert "refuses artifact" in capsys.readouterr().err
    opening, metrics, status = plain.lines()
    assert (metrics["metrics"], status["status"]) == ({"loss": 2.0}, "KILLED")


def test_the_line_that_opens_it_is_its_own(plain):
    assert how_to_open("plain:/runs/all.jsonl") == "less /runs/all.jsonl"
    assert how_to_open("sqlite:////runs/mlflow.db").startswith("mlflow ui ")
    assert how_to_open("http://me:secret@host:5000") == "http://***@host:5000"
