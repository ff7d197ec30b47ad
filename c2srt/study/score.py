"""Scores of a row in one world, from the scores of its base.

Letters: N images, C categories, K neighbours.
"""

import numpy as np

from c2srt.evaluation.metrics import average_precision, best_first, entry_keys
from c2srt.relations.neighbours import ABSENT
from c2srt.relations.untold import by_neighbours
from c2srt.study.rows import NEIGHBOURS, Row


def rescored(
    row: Row, scores: np.ndarray, untold: np.ndarray, chosen: np.ndarray | None
) -> np.ndarray:
    """Scores [N, C] of a row: the base's, and for unseen categories with neighbours in `untold`
    [C, K] what the row says; `chosen` [C] as `best_neighbours` gives them.
    """
    if row.scores == NEIGHBOURS:
        return by_neighbours(scores, untold)
    return scores if chosen is None else by_neighbours(scores, chosen[:, None])


def best_neighbours(scores: np.ndarray, labels: np.ndarray, untold: np.ndarray) -> np.ndarray:
    """For each category the neighbour [C] whose scores [N, C] have the highest average precision
    for the category's own labels [N, C] in −1/0/1; ABSENT without neighbours.
    """
    chosen = np.full(len(untold), ABSENT)
    for column, neighbours in enumerate(untold):
        verified = labels[:, column] != 0
        positive = labels[verified, column] > 0
        heard = neighbours[neighbours != ABSENT]
        if len(heard):
            precisions = [precision(scores[verified, other], positive) for other in heard]
            chosen[column] = heard[int(np.argmax(np.nan_to_num(precisions)))]
    return chosen


def precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Average precision of scores [n] for bool [n]; NaN without a positive."""
    first = np.zeros(len(scores), np.int64)
    keys = entry_keys(first, best_first(scores), positive.astype(np.uint8))
    return float(average_precision(keys, 1)[0])
