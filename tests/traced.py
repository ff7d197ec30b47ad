"""A training whose system calls are looked at: `python -m tests.traced CONFIG`, a pickled Config.
Each rank looks for a file that is not there as it begins the steps FIRST and BEHIND: marks in the
trace. What goes by the clock, not by steps, is put off: the look for the stop file, the sender.
"""

import os
import pickle
import sys
from pathlib import Path

from c2srt.train.config import Config
from tests.ranks import run_ranks
from tests.train_case import train_rank

FIRST, BEHIND = 50, 101
NEVER_S = 1e6


def mark(step: int, rank: int) -> str:
    return f"/mark-of-step-{step}-on-rank-{rank}"


def train(rank: int, config: Config) -> str:
    from c2srt.tracking import sender
    from c2srt.train import pace
    from c2srt.train.engine import Engine

    pace.LOOK_S = sender.PAUSE_S = NEVER_S
    step, begun = Engine.train_step, []

    def marked(*given):
        begun.append(1)
        if len(begun) in (FIRST, BEHIND):
            os.path.exists(mark(len(begun), rank))
        return step(*given)

    Engine.train_step = marked
    return train_rank(rank, config)


if __name__ == "__main__":
    told = pickle.loads(Path(sys.argv[1]).read_bytes())
    assert run_ranks(told.workers, train, told) == ["finished"] * told.workers
