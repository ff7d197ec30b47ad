"""What a restart needs of a journal, however long that has become."""

import json
import time
from pathlib import Path

import pytest

from c2srt.tracking import Journal, Run, Tracker, sender, unsent
from c2srt.tracking.seen import Seen
from c2srt.tracking.sinks import KINDS, Kind
from tests.plain_tracker import PLAIN, PlainFile


@pytest.fixture
def plain(monkeypatch, tmp_path) -> PlainFile:
    monkeypatch.setitem(KINDS, "plain", PLAIN)
    monkeypatch.setattr(sender, "PAUSE_S", 0.05)
    (tmp_path / "run").mkdir()
    return PlainFile(f"plain:{tmp_path}/runs.jsonl", tmp_path / "run")


def track(plain: PlainFile, key: str = "key") -> Tracker:
    return Tracker(plain.folder, f"plain:{plain.path}", Run("miniature", "full", {}, {}, key))


OPEN = {
    "token": "t0",
    "experiment": "miniature",
    "name": "full",
    "parent": None,
    "params": {},
    "tags": {},
    "time": 1,
}


def old_journal(folder: Path) -> list[dict]:
    """As an earlier version left it: run.json says nothing of what was seen."""
    entries = [
        {"open": OPEN},
        {"metrics": {"loss": 3.0, "system/gpu-1/cpu_utilization_percentage": 9.0}, "step": 20},
        {"metrics": {"validation/mAP": 0.1}, "step": 20},
        {"metrics": {"loss": 2.0}, "step": 40},
        {"metrics": {"test/mAP": 0.2}, "step": 40, "mark": "k/metrics"},
        {"model": "model", "step": 40, "register": "tagger"},
        {"status": "KILLED", "time": 9},
    ]
    lines = [json.dumps(entry | ({"time": 5} if "metrics" in entry else {})) for entry in entries]
    (folder / "tracking.jsonl").write_text("\n".join(lines) + "\n")
    state = {"uri": f"plain:{folder.parent}/runs.jsonl", "run_id": None, "sent": 0}
    (folder / "run.json").write_text(json.dumps(state | {"config_hash": "key"}))
    return entries


def test_a_journal_of_an_earlier_version_goes_on(plain):
    entries = old_journal(plain.folder)
    seen = Journal(plain.folder).seen()
    assert seen.steps["loss"] == 40 and seen.steps["validation/mAP"] == 20
    assert (seen.opening, seen.status) == (0, "KILLED")
    assert (seen.marks, seen.registered) == (["k/metrics"], ["tagger"])
    tracker = track(plain)
    assert tracker.new({"loss": 1.0, "validation/mAP": 1.0}, 40) == {"validation/mAP": 1.0}
    tracker.metrics({"loss": 1.0}, 60)
    tracker.close()
    sent = [line["metrics"] | {"step": line["step"]} for line in plain.lines() if "metrics" in line]
    recorded = [e["metrics"] | {"step": e["step"]} for e in entries if "metrics" in e]
    assert sent == [*recorded, {"loss": 1.0, "step": 60}] and plain.lines()[0]["run"] == "t0"


def test_steps_done_again_are_recorded_once_whatever_their_pace(plain):
    """The second attempt records at other steps than the first, as records by time do."""
    for steps in ((7, 15, 30), (12, 21, 30, 33), (31, 40)):
        tracker = track(plain)
        for step in steps:
            if new := tracker.new({"loss": float(step)}, step):
                tracker.metrics(new, step)
        tracker.close("KILLED")
    assert [e["step"] for e in plain.lines() if "metrics" in e] == [7, 15, 30, 33, 40]


def test_a_restart_does_not_read_what_was_noted(plain):
    first = track(plain)
    for step in (1, 2, 3):
        first.metrics({"loss": 1.0}, step)
    first.close("KILLED")
    state = json.loads((plain.folder / "run.json").read_text())
    upto = state["seen"]["upto"]
    assert upto == state["sent"] == Journal(plain.folder).size
    journal = plain.folder / "tracking.jsonl"
    opening, _, rest = journal.read_bytes().partition(b"\n")
    journal.write_bytes(opening + b"\n" + b"?" * (len(rest) - 1) + b"\n")
    second = track(plain)
    assert second.new({"loss": 1.0}, 3) == {} and second.new({"loss": 1.0}, 4)
    second.close()


def test_what_nobody_takes_is_noted_all_the_same(plain, monkeypatch):
    monkeypatch.setattr(sender, "NOTED_EVERY", 1000)
    monkeypatch.setitem(KINDS, "plain", Kind("tests.plain_tracker:Down", str))
    tracker = track(plain)
    one = sender.Sender(tracker.journal, tracker.uri, "tests.plain_tracker:Down")
    for step in range(40):
        tracker.metrics({"loss": 1.0}, step)
    one.attempt()
    assert one.failing and one.sent == 0
    assert json.loads((plain.folder / "run.json").read_text())["seen"]["steps"] == {"loss": 39}
    tracker.close()
    assert unsent(plain.folder)


def test_a_journal_that_is_shorter_than_noted_is_read_and_sent_anew(plain):
    """As a store of folders gives it back to another machine."""
    first = track(plain)
    first.metrics({"loss": 1.0}, 1)
    first.metrics({"loss": 1.0}, 2)
    first.close("KILLED")
    path = plain.folder / "tracking.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    second = track(plain)
    assert second.new({"loss": 1.0}, 2) and not second.new({"loss": 1.0}, 1)
    second.metrics({"loss": 3.0}, 2)
    second.close()
    values = [line["metrics"]["loss"] for line in plain.lines() if "metrics" in line]
    assert values[-1] == 3.0 and not unsent(plain.folder)


def test_another_configuration_knows_nothing_of_the_one_before(plain):
    first = track(plain)
    first.metrics({"loss": 1.0}, 1)
    first.close("KILLED")
    second = track(plain, "other")
    assert second.new({"loss": 1.0}, 1)
    second.close()
    assert len([line for line in plain.lines() if "token" in line]) == 2


@pytest.mark.parametrize("values", [None, [], {"upto": 3}, {"upto": 99}])
def test_a_note_that_says_nothing_is_none(values):
    assert Seen.noted(values, 50) == Seen()


def test_a_clock_that_is_set_back_makes_no_time_run_backwards(plain, monkeypatch):
    clock = iter([1_000_000, 2_000_000, 5_000_000, 1_500_000, 1_600_000, 9_000_000])
    tracker = track(plain)
    monkeypatch.setattr(time, "time_ns", lambda: tracker_ns + next(clock))
    tracker_ns = (tracker._clock._last // 1_000_000 + 1) * 1_000_000  # a whole millisecond
    for step in range(6):
        tracker.metrics({"loss": 1.0}, step)
    monkeypatch.undo()
    lines = map(json.loads, (plain.folder / "tracking.jsonl").read_text().splitlines())
    times = [line["time"] for line in lines if "metrics" in line]
    first = times[0]
    assert [one - first for one in times] == [0, 1, 4, 4, 4, 11]
    tracker.sender.end()
