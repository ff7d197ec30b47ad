"""Which steps end with a record, with a checkpoint, or with the training: the same on every rank.

What goes by the count of steps, each rank knows. What goes by the clock, and the wish to stop, rank
0 decides as a step begins; the others hear it by a broadcast of one number that runs beside the
step. (Nothing else can carry it: at ZeRO 0 the gradients are all that the ranks exchange.) So a
step costs no system call on the run's folder, and weights depend on no clock.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from c2srt.train.config import STOP_FILE, Config
from c2srt.train.world import World

LOOK_S = 2.0
"""Between two looks for the stop file, by rank 0 alone: the folder may be on shared storage."""


@dataclass(frozen=True)
class Due:
    """What follows a step."""

    record: bool
    checkpoint: bool
    last: bool
    """Nothing comes after it: it is the last one, or there is a wish to stop."""


class Pace:
    """Every rank has one, and calls `begin` and `end` once for each step, in turn."""

    def __init__(
        self,
        config: Config,
        world: World,
        steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.world, self.steps, self.clock = config, world, steps, clock
        self.stop, self.looked = False, float("-inf")
        self.recorded = self.saved = clock()
        self.heard: Callable[[], int] = int

    def begin(self) -> None:
        """Rank 0 decides what is due by the clock once this step is done, and tells the others."""
        self.heard = self.world.tell(self.by_the_clock() if self.world.first else 0)

    def end(self, step: int) -> Due:
        """What is due now that `step` updates are done."""
        stop, record, checkpoint = (bool(self.heard() >> bit & 1) for bit in range(3))
        last = stop or step == self.steps
        due = Due(
            record or last or on_count(step, self.config.tracking.every),
            checkpoint or last or on_count(step, self.config.checkpoints.every),
            last,
        )
        now = self.clock()
        self.recorded = now if due.record else self.recorded
        self.saved = now if due.checkpoint else self.saved
        return due

    def by_the_clock(self) -> int:
        """Bits: 1 the wish to stop, 2 a record, 4 a checkpoint."""
        now = self.clock()
        if now >= self.looked + LOOK_S:
            self.stop, self.looked = (self.config.folder / STOP_FILE).exists(), now
        record = passed(now - self.recorded, self.config.tracking.seconds)
        checkpoint = passed(now - self.saved, self.config.checkpoints.seconds)
        return self.stop + 2 * record + 4 * checkpoint


def on_count(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def passed(seconds: float, limit: float) -> bool:
    return 0 < limit <= seconds
