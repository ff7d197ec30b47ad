"""The process that sends a record: how it starts and ends, and what it is told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from c2srt.tracking import Run, Tracker, sender, sending, unsent
from c2srt.tracking.sinks import KINDS
from tests.plain_tracker import PLAIN, PlainFile


@pytest.fixture
def plain(monkeypatch, tmp_path) -> PlainFile:
    monkeypatch.setitem(KINDS, "plain", PLAIN)
    monkeypatch.setattr(sender, "PAUSE_S", 0.05)
    monkeypatch.setattr(sender, "FIRST_WAIT_S", 0.05)
    (tmp_path / "run").mkdir()
    return PlainFile(f"plain:{tmp_path}/runs.jsonl", tmp_path / "run")


def track(plain: PlainFile) -> Tracker:
    return Tracker(plain.folder, f"plain:{plain.path}", Run("miniature", "full", {}, {}, "key"))


def until(condition, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def losses(plain: PlainFile) -> list[int]:
    return [line["step"] for line in plain.lines() if "metrics" in line]


def test_a_killed_process_is_started_again_and_nothing_is_lost(plain, capsys):
    tracker = track(plain)
    killed = set()
    for step in (1, 2, 3):
        tracker.metrics({"loss": 1.0}, step)
        until(lambda: not tracker.left())
        killed.add(tracker.sender.process.pid)
        tracker.sender.process.kill()
        until(lambda: tracker.sender.process.pid not in killed)
    tracker.metrics({"loss": 1.0}, 4)
    tracker.close()
    assert set(losses(plain)) == {1, 2, 3, 4} and not unsent(plain.folder)
    said = capsys.readouterr().err
    assert len(killed) == sending.RESTARTS and said.count("has died") == 1


def test_one_that_always_dies_is_given_up_and_the_record_waits(plain, monkeypatch, capsys):
    def dying(writing: int) -> subprocess.Popen:
        return subprocess.Popen(["true"], stdin=subprocess.PIPE, pass_fds=[writing])

    with monkeypatch.context() as patched:
        patched.setattr(sending, "started", dying)
        tracker = track(plain)
        tracker.metrics({"loss": 1.0}, 1)
        tracker.sender.join(300)
    assert not tracker.sender.is_alive() and not plain.path.exists()
    tracker.close()
    said = capsys.readouterr().err
    assert said.count("died 4 times") == 1 and "3 entries did not reach" in said
    track(plain).close()
    assert losses(plain) == [1]


def test_a_machine_without_processes_to_give_stops_nothing(plain, monkeypatch, capsys):
    def refused(writing: int) -> subprocess.Popen:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(sending, "started", refused)
    tracker = track(plain)
    tracker.metrics({"loss": 1.0}, 1)
    tracker.close()
    assert "3 entries did not reach" in capsys.readouterr().err


COMMAND = """
import os, sys, time
from pathlib import Path
from c2srt.tracking import Run, Tracker
from c2srt.tracking.sinks import KINDS, Kind
KINDS["plain"] = Kind("tests.plain_tracker:PlainFile", str)
tracker = Tracker(Path(sys.argv[1]), sys.argv[2], Run("miniature", "full", {}, {}, "key"))
if sys.argv[3] == "fork" and os.fork() == 0:
    time.sleep(600)
while not tracker.run_id:
    time.sleep(0.02)
print(tracker.sender.process.pid, "mlflow" in sys.modules, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("leaves", ["nothing", "fork"])
def test_it_ends_with_a_killed_command_even_where_that_leaves_forks(plain, leaves):
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(plain.folder), f"plain:{plain.path}", leaves],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pid = int(command.stdout.readline().split()[0])
    assert psutil.pid_exists(pid)
    command.kill()
    command.wait()
    until(lambda: not psutil.pid_exists(pid))
    if leaves == "fork":  # it holds the pipe of what ended
        os.killpg(command.pid, signal.SIGKILL)


def test_an_address_with_a_password_is_on_no_command_line(plain, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(
        plain.folder, "http://me:hunter22hunter@127.0.0.1:9", Run("miniature", "full", {}, {})
    )
    process = psutil.Process(tracker.sender.process.pid)
    while process.is_running() and not process.cmdline():
        time.sleep(0.01)  # the kernel has none while it loads the program
    assert "c2srt.tracking.sender_process" in process.cmdline()
    assert "hunter22" not in " ".join(process.cmdline())
    assert "hunter22" not in "".join(f"{one}" for one in process.environ().values())
    tracker.sender.end()
    tracker.sender.join(300)
    assert not [path for path in tmp_path.rglob("*") if b"hunter22" in read(path)]


def read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def test_mlflow_is_for_that_process_alone(tmp_path):
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            COMMAND.replace("time.sleep(600)", "tracker.close()"),
            str(tmp_path),
            f"sqlite:///{tmp_path}/mlflow.db",
            "nothing",
        ],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert ran.stdout.split()[1] == "False", ran.stderr
    assert json.loads((tmp_path / "run.json").read_text())["run_id"]
