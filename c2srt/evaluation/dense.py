"""Exact AP where not verified counts as absent, without sorting images × categories scores.

The dense AP of a category needs, for each score t of one of its positives, how many of *all* images
score at least t. The positives' scores are known after one look at the test set (about a million);
a second look counts. Counts add up over batches and ranks in any order.
"""

from dataclasses import dataclass

import numpy as np

from c2srt.evaluation.metric_state import MetricState
from c2srt.evaluation.metrics import inside_category, precision_of_groups

COUNT_IMAGES, STRIP = 4096, 128
"""Images that callers count at a time, and categories of them that are copied and sorted at a time
(2 MiB).
"""


@dataclass(frozen=True)
class Thresholds:
    """The distinct scores of each category's positives, category by category, best first; T in
    all.
    """

    score: np.ndarray
    """float [T]"""
    positives: np.ndarray
    """int64 [T]: positives with exactly this score"""
    start: np.ndarray
    """int64 [C + 1]: thresholds of category c are start[c]…start[c + 1]"""

    def count(self, *scores: np.ndarray) -> np.ndarray:
        """How many of the images of all `scores` [b, C] reach each threshold: int64 [T].

        Sorting a column and looking the few thresholds up is faster than looking its many scores up
        among the thresholds, and the more so the longer the columns: give some thousand images at
        once (COUNT_IMAGES).
        """
        at_least, images = np.zeros(len(self.score), np.int64), sum(map(len, scores))
        present = np.flatnonzero(np.diff(self.start))
        for begin in range(0, len(self.start) - 1, STRIP):
            here = present[slice(*np.searchsorted(present, (begin, begin + STRIP)))]
            columns = np.concatenate(
                [some[:, here].T for some in scores], axis=1, dtype=self.score.dtype
            )
            columns.sort(axis=1)
            for category, column in zip(here, columns, strict=True):
                thresholds = slice(self.start[category], self.start[category + 1])
                at_least[thresholds] = images - np.searchsorted(column, self.score[thresholds])
        return at_least

    def average_precision(self, at_least: np.ndarray) -> np.ndarray:
        """AP [C] float64, NaN without a positive; `at_least` [T] summed over all images."""
        present = np.diff(self.start) > 0
        first, result = self.start[:-1][present], np.full(len(present), np.nan)
        result[present] = precision_of_groups(
            first, inside_category(first, self.positives.cumsum()), at_least
        )
        return result


def thresholds_of(state: MetricState, categories: int) -> Thresholds:
    """The thresholds of all positives of a state."""
    category, score = state.category[state.positive], state.score[state.positive]
    order = np.lexsort((-score, category))
    category, score = category[order], score[order]
    new = (category[1:] != category[:-1]) | (score[1:] != score[:-1])
    first = np.flatnonzero(np.append(True, new)[: len(category)])
    positives = np.diff(np.append(first, len(category)))
    return Thresholds(
        score[first], positives, np.searchsorted(category[first], np.arange(categories + 1))
    )
