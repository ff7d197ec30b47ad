"""Places for a training's workers on a cluster that grows, shrinks and has other users: waited for,
which is no failure.
"""

import os
import time

from c2srt.cluster.address import given_address
from c2srt.cluster.failures import say
from c2srt.cluster.session import free_room_for, room_for
from c2srt.errors import UserError
from c2srt.train.config import STOP_FILE, Config

TELL_S = 30


class Room:
    """Until an attempt has its places the seconds of `faults.start_timeout` run, over as many
    attempts as Ray then finds no place for: what is free may be taken by another job, or lie on a
    node that has just gone, and Ray not have noticed.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.share = config, config.resources
        self.least = config.faults.min_workers or config.workers
        self.begun: float | None = None
        self.last = False
        """Whether the attempt that was started last had to find its places."""

    def found(self) -> None:
        """The workers have had their places: the next wait is another one."""
        self.begun, self.last = None, False

    def wait(self) -> int:
        """How many workers to start: all, as soon as that many places are free; `min_workers` or
        more once the time is up; 0 when told to stop meanwhile. Raises UserError where the cluster
        is too small, or others hold it.
        """
        now, told = time.monotonic(), float("-inf")
        self.begun = now if self.begun is None else self.begun
        while True:
            total, free, waited = *self.places(), time.monotonic() - self.begun
            left = self.limit(total, free) - waited
            if self.last and total >= self.least:
                raise self.held(free, waited)
            if free >= self.config.workers or left <= 0:
                break
            if told_to_stop(self.config):
                return 0
            if time.monotonic() > told + TELL_S:
                told = time.monotonic()
                say(self.config, self.waiting(total, free, left))
            time.sleep(1)
        self.last = left <= 0
        return self.with_what_there_is(total, free, waited)

    def places(self) -> tuple[int, int]:
        """For how many workers the living nodes have room, and how many of those places are
        free.
        """
        size = self.share.cpus_per_worker, self.share.gpus_per_worker
        return room_for(*size), free_room_for(*size)

    def limit(self, total: int, free: int) -> float:
        """Seconds: none for nodes to come where none will, in a local Ray and in a Slurm job, which
        has all of its nodes.
        """
        held = total >= self.config.workers or free < self.least <= total
        comes = given_address() and "C2SRT_NODES" not in os.environ
        return self.config.faults.start_timeout if held or comes else 0

    def waiting(self, total: int, free: int, left: float) -> str:
        of = f"of {self.config.workers} workers"
        if total < self.least or total < self.config.workers and free >= total:
            return f"Ray has room for {total} {of}; waiting up to {left:.0f} s"
        return (
            f"Ray has free places for {free} {of}, other jobs or workers that are ending hold the"
            f" rest; waiting up to {left:.0f} s"
        )

    def with_what_there_is(self, total: int, free: int, waited: float) -> int:
        """The workers to start now that the wait is over. Raises UserError if there is room for
        too few.
        """
        if not total and not given_address():
            raise UserError(
                "the local Ray died (killed, or out of memory): run the same command to go on from"
                " the last checkpoint"
            )
        if total < self.least:
            raise UserError(
                f"the nodes of the Ray cluster have room for {total} workers of {self.size()}, and"
                f" {self.least} are needed (waited {waited:.0f} s): lower workers=… or"
                " faults.min_workers=…, or add nodes, and run the same command"
            )
        return min(free if free >= self.least else total, self.config.workers)

    def held(self, free: int, waited: float) -> UserError:
        return UserError(
            f"{self.least} workers of {self.size()} are needed, and the Ray cluster had no place"
            f" for them for {waited:.0f} s, with {free} free now: other jobs hold it. Raise"
            " faults.start_timeout=… to wait longer, lower workers=… or faults.min_workers=…, or"
            " run the same command later to go on"
        )

    def size(self) -> str:
        return f"{self.share.cpus_per_worker:g} CPUs and {self.share.gpus_per_worker:g} GPUs"


def told_to_stop(config: Config) -> bool:
    return (config.folder / STOP_FILE).exists()
