"""The best that a single neighbour could do, known only to one who has the labels.

Letters: N images, C categories, K neighbours.
"""

import numpy as np

from c2srt.evaluation.metrics import average_precision, best_first, entry_keys
from c2srt.relations.neighbours import ABSENT


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
