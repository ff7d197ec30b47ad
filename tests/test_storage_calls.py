"""What a training asks of shared storage, by its system calls (strace)."""

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ranks import run_ranks
from tests.traced import BEHIND, FIRST, mark
from tests.train_case import make_case, told, train_rank

ROOT = Path(__file__).parents[1]
CALLS = (
    "trace=%file,read,pread64,readv,preadv,write,pwrite64,writev,fsync,fdatasync,fstat,lseek,"
    "getdents64,ftruncate,fcntl,flock"
)


def traced(config, folder: Path) -> list[str]:
    """The calls of all processes of a training, in order, descriptors with their paths."""
    (folder / "config").write_bytes(pickle.dumps(config))
    trace = folder / "trace"
    command = ["strace", "-f", "-y", "--seccomp-bpf", "-s", "0", "-e", CALLS, "-o", str(trace)]
    found = subprocess.run(
        [*command, sys.executable, "-m", "tests.traced", str(folder / "config")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return trace.read_text(errors="replace").splitlines()


def between(lines: list[str], first: list[str], behind: list[str]) -> list[str]:
    """From the last of some marks to the first of others."""
    places = {
        name: number
        for number, line in enumerate(lines)
        for name in first + behind
        if f'"{name}"' in line
    }
    return lines[max(places[name] for name in first) : min(places[name] for name in behind)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_plain_step_asks_nothing_of_shared_storage_but_images(tmp_path):
    """Steps 50 to 100 of two ranks. A training that resumed: rank 0 alone read its checkpoint."""
    work, folder = tmp_path / "shared", tmp_path / "here"
    work.mkdir()
    folder.mkdir()
    case = told(make_case(work), loader_workers=1, log_every=0, checkpoint_every=0)
    assert run_ranks(2, train_rank, told(case, steps=1)) == ["finished"] * 2
    lines = traced(told(case, steps=BEHIND + 1), folder)
    marks = [[mark(step, rank) for rank in range(2)] for step in (FIRST, BEHIND)]
    steps = between(lines, *marks)
    images = re.compile(rf"{re.escape(str(work))}/shards/[^/]+\.tar")
    assert len(steps) > 100 and any(images.search(line) for line in lines)
    assert not [line for line in steps if str(work) in line and not images.search(line)]
    process = [
        next(line.split()[0] for line in lines if f'"{mark(FIRST, rank)}"' in line)
        for rank in range(2)
    ]
    readers = {line.split()[0] for line in lines if "/checkpoints/step-00000001/" in line}
    assert process[0] in readers and process[1] not in readers
