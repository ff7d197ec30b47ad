"""What the nodes of a training are doing, for MLflow's page "System metrics": a few numbers,
however many nodes there are, and the names of those that are unlike the others.

The first rank of each node reads its machine; the numbers ride on a record's own collective, and
rank 0 sums them up and records them, since a sqlite store must not be opened by several hosts, and
an absent store then loses nothing.

Which is unlike the others. Of at least LEAST values of one kind, one is an outlier if it lies
further from their median than WIDE times their median absolute deviation (times 1.4826, which makes
that of a normal distribution its standard deviation), and further than a floor of the kind: where
all are alike to a hair, a hair is nothing. Median and deviation stay where they are until half of
the machines are odd. It is named when two readings in a row say so: utilisation is a sample of a
second.
"""

import logging
import math
import time
from dataclasses import dataclass

import numpy as np

from c2srt.train.node import GPU_KINDS, KINDS, Node
from c2srt.train.world import World

log = logging.getLogger(__name__)

LEAST, WIDE, MOST_NAMED = 3, 6 * 1.4826, 8
GPU_NAMES = tuple(f"gpu_{kind}" for kind in GPU_KINDS)


@dataclass(frozen=True)
class Odd:
    """How an outlier of a kind is called; `below`: whether a low value is one, too."""

    word: str
    unit: str
    floor: float
    below: bool = True

    def text(self, value: float, median: float) -> str:
        return f"{self.word} {value:.0f} {self.unit} where the median is {median:.0f} {self.unit}"


ODD = {
    "gpu_utilization_percentage": Odd("utilisation", "%", 25),
    "gpu_memory_usage_percentage": Odd("memory", "%", 20),
    "gpu_power_usage_watts": Odd("power", "W", 100),
    "gpu_temperature_celsius": Odd("temperature", "°C", 12, below=False),
    "cpu_utilization_percentage": Odd("processors", "%", 30),
    "system_memory_usage_percentage": Odd("memory", "%", 20, below=False),
    "disk_usage_percentage": Odd("disk", "%", 30, below=False),
}


NEVER = Odd("", "", math.inf)


class Nodes:
    """Every rank has one, and calls the same methods in the same order."""

    def __init__(self, world: World, seconds: float) -> None:
        """`seconds`: from one reading to the next."""
        self.seconds, self.node = seconds, Node()
        told = world.gather((self.node.name, self.node.gpus))
        self.of_ranks = [name for name, _ in told]
        """The node of each rank."""
        self.names = list(dict.fromkeys(self.of_ranks))
        self.firsts = [self.of_ranks.index(name) for name in self.names]
        self.gpus = max(count for _, count in told)
        self.reads = world.rank in self.firsts
        self.width = len(KINDS) + self.gpus * len(GPU_KINDS)
        self.begun = -math.inf
        self.before: set[tuple[str, str]] = set()
        self.named: dict[str, str] = {}
        """Those that are unlike the others, and how."""

    def waited(self) -> float:
        """Seconds since the last reading; the first one is due at once."""
        return time.monotonic() - self.begun

    def row(self, waited: float) -> list[float]:
        """This node's values, if `waited` (the mean over all ranks, so that all read at once) is
        long enough; else NaN, which says nothing.
        """
        values: list[float] = []
        if waited >= self.seconds:
            self.begun = time.monotonic()
            values = self.node.read() if self.reads else []
        return values + [math.nan] * (self.width - len(values))

    def summary(self, rows: np.ndarray) -> dict[str, float]:
        """The least, mean and greatest of each kind, from the rows [ranks, width] of all ranks; {}
        where nothing was read. Says which have become unlike the others, or are like them again.
        """
        own = rows[self.firsts]
        tables = (own[:, : len(KINDS)].T, own[:, len(KINDS) :].reshape(-1, len(GPU_KINDS)).T)
        found: dict[str, float] = {}
        odd: dict[str, dict[str, str]] = {}
        for table, kinds, gpus in zip(tables, (KINDS, GPU_NAMES), (0, self.gpus), strict=True):
            order = Ordered(table)
            for number, kind in enumerate(kinds):
                found |= order.extremes(number, f"system/{kind}")
            for number, machine in order.outliers(kinds):
                text = ODD[kinds[number]].text(table[number, machine], order.median[number])
                odd.setdefault(self.place(machine, gpus), {})[kinds[number]] = text
        if found:
            self.say(odd)
        return found

    def place(self, machine: int, gpus: int) -> str:
        """Of a table of nodes (0), or of so many GPUs for each."""
        if not gpus:
            return f"node {self.names[machine]}"
        return f"node {self.names[machine // gpus]}, GPU {machine % gpus}"

    def say(self, odd: dict[str, dict[str, str]]) -> None:
        """`odd`: what is to be said of each place, by kind."""
        found = {(place, kind) for place, texts in odd.items() for kind in texts}
        named = {}
        for place, texts in odd.items():
            if lasting := [text for kind, text in texts.items() if (place, kind) in self.before]:
                named[place] = ", ".join(lasting)
        for place in sorted(named.keys() - self.named.keys())[:MOST_NAMED]:
            log.warning(f"{place}: {named[place]}")
        for place in sorted(self.named.keys() - named.keys())[:MOST_NAMED]:
            log.info(f"{place} is like the others again")
        self.before, self.named = found, named

    @property
    def note(self) -> str:
        """Those that are unlike the others, as one text; "" for none."""
        more = len(self.named) - MOST_NAMED
        lines = [f"{place}: {text}" for place, text in self.named.items()][:MOST_NAMED]
        return "; ".join([*lines, f"and {more} more"] if more > 0 else lines)


class Ordered:
    """A table [kinds, machines] by the order of each kind's values, in which NaN is no value."""

    def __init__(self, table: np.ndarray) -> None:
        # sorting runs along memory
        self.table, there = np.ascontiguousarray(table), ~np.isnan(table)
        self.counts = there.sum(axis=1)
        self.sums = np.where(there, table, 0).sum(axis=1)
        self.sorted, self.median = self.middle(self.table)

    def middle(self, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A table, sorted (NaN last), and its medians [kinds]; NaN where there is no value."""
        kinds, machines = table.shape
        if not machines:
            return table, np.full(kinds, math.nan)
        found, rows = np.sort(table, axis=1), np.arange(kinds)
        low, high = np.maximum(self.counts - 1, 0) // 2, self.counts // 2
        return found, (found[rows, low] + found[rows, np.minimum(high, machines - 1)]) / 2

    def extremes(self, row: int, name: str) -> dict[str, float]:
        count = int(self.counts[row])
        if not count:
            return {}
        found = {f"{name}/mean": float(self.sums[row]) / count}
        if count > 1:
            found[f"{name}/min"] = float(self.sorted[row, 0])
            found[f"{name}/max"] = float(self.sorted[row, count - 1])
        return found

    def outliers(self, kinds: tuple[str, ...]) -> list[tuple[int, int]]:
        """(kind, machine) of each."""
        rules = [ODD.get(kind, NEVER) for kind in kinds]
        far = self.table - self.median[:, None]
        _, deviation = self.middle(np.abs(far))
        wide = np.maximum([rule.floor for rule in rules], WIDE * deviation)[:, None]
        odd = (far > wide) | (far < -wide) & np.array([[rule.below] for rule in rules])
        odd &= (self.counts >= LEAST)[:, None]
        return [(int(kind), int(machine)) for kind, machine in np.argwhere(odd)]
