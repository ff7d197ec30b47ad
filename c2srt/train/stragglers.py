"""Ranks that are slow by themselves, and hold up all others in every step.

A rank's own time is that of a step up to the end of its last forward pass: reading its images and
computing, before gradients are exchanged and everybody waits for the slowest. (Under ZeRO-3 a
forward pass waits for others' parameters too, so less is seen there.) A rank is a straggler when
its own time has been more than `LIMIT` times the median of all ranks' in `RECORDS` records in a
row, and until a record in which it is not.
"""

import time
from collections.abc import Sequence
from statistics import median

import torch

LIMIT, RECORDS, NAMED = 1.2, 3, 2


class OwnTime:
    """Of the steps of one rank, by the clock of its device: a CPU runs ahead of its GPU."""

    def __init__(self, device: torch.device) -> None:
        self.events = (
            [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            if device.type == "cuda"
            else []
        )
        self.times = [0.0, 0.0]

    def begin(self) -> None:
        self.mark(0)

    def end(self) -> None:
        self.mark(1)

    def mark(self, at: int) -> None:
        if self.events:
            self.events[at].record()
        else:
            self.times[at] = time.monotonic()

    def seconds(self) -> float:
        """Between the last `begin` and `end`; once the device has reached the latter."""
        if not self.events:
            return self.times[1] - self.times[0]
        self.events[1].synchronize()
        return self.events[0].elapsed_time(self.events[1]) / 1000


class Stragglers:
    """Found from record to record, for rank 0."""

    def __init__(self, nodes: Sequence[str]) -> None:
        """`nodes`: each rank's."""
        self.nodes, self.slow = nodes, [0] * len(nodes)

    def note(self, own: Sequence[float]) -> str:
        """Takes each rank's own time since the last record; returns who is a straggler, "" if
        nobody is.
        """
        middle = median(own)
        self.slow = [
            before + 1 if seconds > LIMIT * middle else 0
            for before, seconds in zip(self.slow, own, strict=True)
        ]
        found = sorted(
            (rank for rank, records in enumerate(self.slow) if records >= RECORDS),
            key=lambda rank: -own[rank],
        )
        named = [
            f"rank {rank} (node {self.nodes[rank]}) is {own[rank] / middle - 1:.0%} slower"
            for rank in found[:NAMED]
        ]
        more = [f"{len(found) - NAMED} more are slow"] if len(found) > NAMED else []
        return ", ".join(named + more)


class Slow:
    """Who is a straggler, told in the progress line: every rank has one, and calls the same
    methods.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        """`nodes`: each rank's."""
        self.own, self.said = 0.0, ""
        self.found = Stragglers(nodes)

    def add(self, seconds: float) -> None:
        """Counts the own time of a step."""
        self.own += seconds

    def mean(self, steps: int) -> float:
        """This rank's own time of a step, over the steps since the last record."""
        own, self.own = self.own / max(1, steps), 0.0
        return own

    def compare(self, own: Sequence[float]) -> None:
        """Takes the `mean` of each rank."""
        note = self.found.note(own)
        self.said = f" · {note}" if note else ""
