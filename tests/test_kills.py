"""A verb that is killed at any durable operation, and run again, ends as if nothing had happened
(tests/kills.py).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills import cases

VERBS = tuple(cases(Path("/")))
SAMPLE = (
    "text",
    "relations random",
    "relations mine",
    "teacher",
    "evaluate",
    "tune",
    "export",
    "tables",
)


def run(folder: Path, stride: int, *verbs: str) -> None:
    """Runs the cases in a process of their own and compares."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.kills", str(folder), str(stride), *verbs],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    found = [json.loads(line) for line in said.stdout.splitlines()]
    assert [one["verb"] for one in found] == [*verbs], said.stdout + said.stderr
    for one in found:
        assert one["kills"] and not one["faults"], json.dumps(one, indent=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_verb_is_finished_by_the_next_call(tmp_path):
    """One operation of each, from the middle: commonly between the files of an artefact."""
    run(tmp_path, 30, *SAMPLE)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("verb", VERBS)
def test_a_kill_at_every_durable_operation(tmp_path, verb):
    run(tmp_path, 1, verb)
