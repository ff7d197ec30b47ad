"""Hangs that tell: where each rank stood, on its node's own disk, and the sentence that is made of
it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from c2srt.cluster.hangs import KEPT, collective, keep_stacks, told
from c2srt.errors import UserError
from c2srt.node_folder import node_folder
from c2srt.train import standing
from c2srt.train.standing import Found, Stood, folder_of, stood_here

STACK = """Thread 0x01 (most recent call first):
  File "/x/threading.py", line 1 in wait

Thread 0x02 (most recent call first):
  File "/x/torch/distributed/distributed_c10d.py", line 3050 in all_reduce
  File "/x/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/x/deepspeed/comm/comm.py", line 9 in all_reduce
  File "/x/c2srt/train/engine.py", line 7 in train_step
  File "/x/c2srt/train/loop.py", line 9 in run_steps
"""
COMPUTING = "computing and exchanging gradients"


def stood(rank: int, step: int, place: str, alive: float = 1.0, stack: str = "") -> Stood:
    return Stood(rank, f"n{rank // 2}", 100 + rank, step, place, 20.0, alive, stack)


@pytest.mark.parametrize(
    "ranks, nodes, sentence",
    [
        ([], ["n0"], ""),
        ([stood(0, 3, "reading its batch")], ["n0"], "it stood in step 3, reading its batch"),
        (
            [stood(0, 412, COMPUTING, stack=STACK), stood(1, 412, "reading its batch")],
            ["n0", "n0"],
            "rank 1 (node n0) stands in step 412, reading its batch; 1 waits for it in step 412, in"
            " all_reduce",
        ),
        (  # alone in its place, rank 0, but the stopped one is rank 3
            [
                stood(0, 1412, "recording"),
                stood(1, 1412, COMPUTING, stack=STACK),
                stood(2, 1412, COMPUTING, stack=STACK),
                stood(3, 1412, COMPUTING, alive=33.0),
            ],
            ["n0", "n0", "n1", "n1"],
            f"rank 3 (node n1) stands in step 1,412, {COMPUTING}, without a sign of life for 32 s;"
            " 2 wait for it in step 1,412, in all_reduce",
        ),
        (
            [stood(rank, 5, COMPUTING) for rank in (0, 1, 2)],
            ["n0", "n0", "n1", "n1"],
            f"of rank 3 (node n1) nothing is known; 3 wait for it in step 5, {COMPUTING}",
        ),
        (
            [stood(rank, 5, COMPUTING) for rank in range(3)]
            + [stood(rank, 4, "writing a checkpoint") for rank in range(3, 8)],
            [f"n{rank // 2}" for rank in range(8)],
            f"rank 0 (node n0) stands in step 5, {COMPUTING}; rank 1 (node n0) stands in step 5,"
            f" {COMPUTING}; rank 2 (node n1) stands in step 5, {COMPUTING}; 5 wait for them in step"
            " 4, writing a checkpoint",
        ),
        (
            [stood(rank, 9, COMPUTING, stack=STACK) for rank in (0, 1)],
            ["n0", "n0"],
            "all 2 ranks stood in step 9, in all_reduce",
        ),
    ],
)
def test_who_is_waited_for_is_said(ranks, nodes, sentence):
    assert told(ranks, nodes) == sentence


def test_of_many_three_are_named():
    ranks = [stood(0, 9, COMPUTING)] + [stood(rank, 9, COMPUTING, 60) for rank in range(1, 6)]
    said = told(ranks, ["n"] * 6)
    assert said.count("without a sign of life") == 3 and "; and 2 more; 1 waits for them" in said


def test_the_collective_is_that_of_the_thread_that_trains():
    assert collective(STACK) == "all_reduce"
    assert collective(STACK.replace("train/loop.py", "other.py")) is None


def test_each_stack_is_kept_once_and_only_the_newest_files(tmp_path):
    ranks = [stood(rank, 9, COMPUTING, stack=STACK) for rank in (0, 1)] + [stood(2, 9, "recording")]
    for number in range(KEPT + 2):
        (tmp_path / "stacks" / f"{number}").mkdir(parents=True)
        keep_stacks(tmp_path / "stacks" / f"{number}.txt", ranks)
    kept = sorted(path.name for path in (tmp_path / "stacks").iterdir())
    assert kept == sorted(f"{n}{end}" for n in range(2, KEPT + 2) for end in ("", ".txt"))
    text = (tmp_path / "stacks/6.txt").read_text()
    assert text.startswith("rank 0, node n0: step 9, in all_reduce\nrank 1, node n0: step 9, in")
    assert (
        text.count("in run_steps") == 1 and "rank 2, node n1: step 9, recording\nno stack" in text
    )


# --- on the node's disk


@pytest.fixture
def node(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("C2SRT_TMP", str(tmp_path / "node"))
    return tmp_path / "node"


RANK = """
import sys, time
from c2srt.train.standing import at, read_by, standing
with standing("attempt", 1, ["n0", "n1"], timeout=0.1):
    for number in read_by([1, 2], step=412):
        if number == 2:
            print("here", flush=True)
            sys.stdin.read()
"""


def test_where_a_stopped_rank_stands_is_known_and_the_stack_of_one_that_hangs(node, tmp_path):
    """A process of its own: it hangs, its stack is written; it is stopped, and killed."""
    environment = os.environ | {"C2SRT_TMP": str(node)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", RANK], env=environment, **pipes) as process:
        process.stdout.readline()
        stack, deadline = folder_of("attempt") / "rank-1.stack", time.monotonic() + 60
        while not (stack.exists() and "<module>" in stack.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        process.kill()
    (folder_of("attempt") / "collectives-1").write_bytes(b"NCCL")
    found = stood_here("attempt", tmp_path / "kept")
    assert found.nodes == ["n0", "n1"]
    (one,) = found.stood
    assert (one.rank, one.process, one.step) == (1, process.pid, 412)
    assert one.place == COMPUTING and one.since > 0 and "line 8 in <module>" in one.stack
    assert (tmp_path / "kept/collectives-1").read_bytes() == b"NCCL"
    assert stood_here("attempt", tmp_path) == Found([], []) and not folder_of("attempt").exists()


def test_nothing_is_left_of_a_rank_that_has_ended_or_met_bad_input(node):
    with standing.standing("one", 0, ["n0"], 60):
        standing.at("reading its batch", 3)
        assert (folder_of("one") / "rank-0").exists()
    with pytest.raises(UserError), standing.standing("two", 0, ["n0"], 60):
        raise UserError("no")
    assert list((node_folder() / standing.FOLDER).iterdir()) == []
    with pytest.raises(ValueError), standing.standing("three", 0, ["n0"], 60):
        raise ValueError
    assert json.loads((folder_of("three") / standing.NODES).read_text()) == ["n0"]


def test_what_a_killed_attempt_left_is_removed_by_a_later_one(node):
    """Its ranks gave no sign of life for hours, or before the node was started again."""
    now = time.monotonic()
    for attempt, heard in {"killed": -2, "restarted": 2, "beside": 0}.items():
        alive = now + heard * standing.LONG_S
        folder_of(attempt).mkdir(parents=True)
        (folder_of(attempt) / "rank-0").write_bytes(standing.FORM.pack(7, 3, now, alive, b""))
    (folder_of("beside") / "rank-1").write_bytes(b"")  # is being made
    with standing.standing("new", 0, ["n0"], 60):
        names = {path.name for path in folder_of("new").parent.iterdir()}
    assert names == {"beside", "new"}


def test_a_node_without_a_folder_trains_without(monkeypatch):
    monkeypatch.setenv("C2SRT_TMP", "/proc/none")
    with standing.standing("one", 0, ["n0"], 60):
        standing.at("reading its batch", 3)
    assert not standing.HERE
