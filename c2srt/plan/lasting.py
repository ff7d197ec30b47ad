"""What a run of hours or weeks costs beyond its steps: its start, records, checkpoints, and what is
done again after failures; and the time between checkpoints that costs least.

A failure takes a start and the steps since the newest whole checkpoint: on average half the time
between two of them, and the time that one takes to be written. With C seconds that a checkpoint
stops the training and failures every M seconds, √(2 C M) between checkpoints costs least (Young,
A first order approximation to the optimum checkpoint interval, CACM 17(9), 1974).
"""

import math
from dataclasses import dataclass

from c2srt.plan.hardware import Cluster
from c2srt.plan.outline import Outline
from c2srt.train.config import Config

DAY = 86_400
VALUES = 3
"""A checkpoint's numbers of each trained parameter: the weight and AdamW's two moments, float32."""


@dataclass(frozen=True)
class Lasting:
    """Seconds over the whole run; `computing`: of its steps alone."""

    computing: float
    records: float
    checkpoints: float
    """In which a checkpoint stops the training."""
    starts: float
    """The first one, and one after each failure."""
    repeated: float
    """Steps done again."""
    failures: float
    """Expected number."""
    apart: float
    """Seconds between checkpoints."""
    best_apart: float | None
    """What costs least at this rate of failures; None without failures."""
    writing: float
    """Seconds in which a checkpoint is written, beside the training."""

    @property
    def total(self) -> float:
        return self.computing + sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """What is not computing."""
        return {
            "records": self.records,
            "checkpoints": self.checkpoints,
            "starts": self.starts,
            "steps done again": self.repeated,
        }


def lasting_of(
    config: Config, outline: Outline, cluster: Cluster, devices: int, step: float, computing: float
) -> Lasting:
    """Of a run of `computing` seconds in steps of `step` seconds each on `devices` GPUs (CPU:
    workers).

    The number of failures is that of the time which the run takes with them.
    """
    size = 4 * VALUES * outline.trained
    writing = size / (cluster.write_gb_s * 1e9)
    apart = between(config.checkpoints.every * step, config.checkpoints.seconds, computing)
    stop = size / (cluster.host_link_gb_s * 1e9)
    waits = stop + max(0.0, writing - apart)
    recorded = between(config.tracking.every * step, config.tracking.seconds, computing)
    checkpoints, records = computing / apart * waits, computing / recorded * cluster.record_ms / 1e3
    each = cluster.start_s + min(apart, computing) / 2 + writing
    rate = cluster.failures_gpu_day * devices / DAY
    undisturbed = computing + checkpoints + records + cluster.start_s
    failures = rate * undisturbed / max(1 - rate * each, 1e-9)
    best = max(math.sqrt(2 * stop / rate), writing, step) if rate else None
    return Lasting(
        computing=computing,
        records=records,
        checkpoints=checkpoints,
        starts=cluster.start_s * (1 + failures),
        repeated=failures * (each - cluster.start_s),
        failures=failures,
        apart=apart,
        best_apart=best,
        writing=writing,
    )


def between(by_count: float, by_clock: float, whole: float) -> float:
    """Seconds from one to the next, where 0 of either means that it decides nothing."""
    return min([each for each in (by_count, by_clock) if each] or [whole])
