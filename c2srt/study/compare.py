"""Differences between rows over worlds, with intervals that hold for all of them together.

Letters: W worlds.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """`mean` of the paired differences of W worlds, the ends of its 95 % interval (Student's t),
    `p` of no difference (two-sided), and `adjusted`: Holm's p over all comparisons of the list.
    """

    mean: float
    low: float
    high: float
    p: float
    adjusted: float = 1.0


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Of two rows' figures [W], world by world. With one world there is no interval: NaN."""
    each = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    mean, count = float(each.mean()), len(each)
    if count < 2:
        return Difference(mean, float("nan"), float("nan"), float("nan"), float("nan"))
    error = float(each.std(ddof=1) / np.sqrt(count))
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    p = 0.0 if error == 0 else float(2 * stats.t.sf(abs(mean) / error, count - 1))
    return Difference(mean, mean - half, mean + half, p if error or mean else 1.0)


def holm(values: list[float]) -> list[float]:
    """Holm's (1979) adjusted p of a list, in its order; NaN stays."""
    order = sorted((p, place) for place, p in enumerate(values) if p == p)
    adjusted, highest = [float("nan")] * len(values), 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = highest
    return adjusted


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """(mean, half of its 95 % interval) over worlds; the half is NaN for one."""
    found = difference(values, np.zeros(len(values)))
    return found.mean, (found.high - found.low) / 2
