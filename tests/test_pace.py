"""What is due after a step: by the count, by rank 0's clock, and the same on every rank."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from c2srt.errors import UserError
from c2srt.train.config import STOP_FILE, Config
from c2srt.train.key_groups import CheckpointConfig, RecordConfig
from c2srt.train.pace import LOOK_S, Pace
from c2srt.train.world import World
from tests.ranks import run_ranks

PATHS = dict.fromkeys(("shards", "text", "relations", "teacher", "work"), "/w")


class Clock:
    """Stands still until it is put forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(rank: int, folder: Path, checkpoints: tuple, records: tuple, ticks: list, size: int) -> str:
    """A letter for what each step brings: c(heckpoint), r(ecord), b(oth), l(ast) or -; `ticks` are
    the seconds that each step takes on rank 0, and the stop file comes in a step of "stop". Rank
    1's clock goes mad.
    """
    config = Config(
        **PATHS,
        out=str(folder),
        checkpoints=CheckpointConfig(checkpoints[0], seconds=checkpoints[1]),
        tracking=RecordConfig(every=records[0], seconds=records[1]),
    )
    clock, shown = Clock(), ""
    world = World(rank, size, size, torch.device("cpu"))
    pace = Pace(config, world, len(ticks), clock)
    for step, tick in enumerate(ticks, 1):
        pace.begin()
        if tick == "stop" and rank == 0:
            (folder / STOP_FILE).touch()
        clock.now += 0 if tick == "stop" else tick if rank == 0 else -1e6
        due = pace.end(step)
        shown += "l" if due.last else "-rcb"[due.record + 2 * due.checkpoint]
    return shown


def decided(folder: Path, checkpoints: tuple, records: tuple, ticks: list, size: int = 1) -> str:
    found = run_ranks(size, run, folder, checkpoints, records, ticks, size)
    assert len(set(found)) == 1
    return found[0]


@pytest.mark.parametrize("size", [1, 2])
def test_by_the_count_by_the_clock_or_by_both(tmp_path, size):
    """The clock is read as a step begins: what it says holds for that step's end."""
    ticks = [1.0] * 9
    for checkpoints, records, expected in (
        ((3, 0), (2, 0), "-rcr-b-rl"),
        ((0, 0), (0, 0), "--------l"),
        ((0, 4), (0, 2), "--r-cr--l"),
        ((5, 3), (0, 0), "---cc---l"),
    ):
        said = decided(tmp_path, checkpoints, records, ticks, size)
        assert said == expected, (checkpoints, records)


def test_every_rank_stops_after_the_step_in_which_rank_0_saw_the_file(tmp_path):
    """It looks at once, and then after LOOK_S."""
    none = (0, 0)
    assert decided(tmp_path, none, none, ["stop", LOOK_S / 2, LOOK_S / 2, 0, 0, 0], 2) == "---lll"
    assert decided(tmp_path, none, none, [0, 0], 2) == "ll"  # the file is still there


def test_less_than_nothing_is_refused():
    for group in (CheckpointConfig, RecordConfig):
        with pytest.raises(UserError, match="seconds=-1 must be at least 0"):
            replace(group(), seconds=-1)
