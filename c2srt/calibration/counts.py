"""How often a category was present, and absent, at each level of its score: all that the fit, the
error and the threshold need of a split, in memory that does not grow with its images.

Letters: b images of a batch, C categories, L levels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

LEVELS = 512
SAMPLED = 1024
"""Images whose scores decide where the levels lie."""
BEYOND = 0.25
"""Of the sample's range, on both sides: what lies further is counted at the outermost level."""


@dataclass(frozen=True)
class Counts:
    """`score` float64 [L], the middle of each level, ascending; `present`, `absent` and `images`
    int64 [C, L], the last of all images, verified or not.
    """

    score: np.ndarray
    present: np.ndarray
    absent: np.ndarray
    images: np.ndarray

    def of(self, columns: slice) -> "Counts":
        """Those of some categories."""
        kept = (each[columns] for each in (self.present, self.absent, self.images))
        return Counts(self.score, *kept)


Batches = Iterable[tuple[np.ndarray, np.ndarray]]


def count(batches: Batches, unverified_absent: bool) -> Counts:
    """Of `batches`, (scores [b, C], labels [b, C] in −1/0/1); labels of 0 are absent, or not
    counted.
    """
    rest = iter(batches)
    first = list(sampled(rest))
    low, high = min(each.min() for each, _ in first), max(each.max() for each, _ in first)
    margin = BEYOND * (high - low) + 1e-6
    edges = np.linspace(low - margin, high + margin, LEVELS + 1)
    categories = first[0][0].shape[1]
    present, absent, images = (np.zeros(categories * LEVELS, np.int64) for _ in range(3))
    column = np.arange(categories) * LEVELS
    for scores, labels in chain(first, rest):
        place = column + level_of(scores, edges)
        present += np.bincount(place[labels > 0], minlength=len(present))
        counted = labels <= 0 if unverified_absent else labels < 0
        absent += np.bincount(place[counted], minlength=len(absent))
        images += np.bincount(place.ravel(), minlength=len(images))
    found = (each.reshape(categories, LEVELS) for each in (present, absent, images))
    return Counts((edges[1:] + edges[:-1]) / 2, *found)


def sampled(batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> Batches:
    """The first batches, until they hold SAMPLED images."""
    images = 0
    for scores, labels in batches:
        yield scores, labels
        images += len(scores)
        if images >= SAMPLED:
            return


def level_of(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    width = (edges[-1] - edges[0]) / LEVELS
    return np.clip((scores - edges[0]) / width, 0, LEVELS - 1).astype(np.int64)
