"""A relation graph in memory. Letters: C categories, K neighbours."""

from dataclasses import dataclass

import numpy as np

ABSENT = -1


@dataclass(frozen=True)
class Neighbours:
    """A graph in memory: `table` int32 [C, K] of columns; `strengths` float32 [C, K], NaN where
    absent or unknown; `types` str [C, K] or None for kinds without relation types.
    """

    table: np.ndarray
    strengths: np.ndarray
    types: np.ndarray | None = None


def no_neighbours(categories: int, k: int) -> Neighbours:
    """The graph without edges."""
    return Neighbours(
        np.full((categories, k), ABSENT, np.int32), np.full((categories, k), np.nan, np.float32)
    )
