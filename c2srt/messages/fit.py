"""How much each source counts: for every seen category a logistic regression of its verified
training labels on its own score and its sources', with an L1 penalty on the sources.

The penalty (Tibshirani 1996) makes most weights exactly 0: a source that the labels do not bear out
is not heard, so a wrong relation costs nothing. It shrinks with the number n of a category's labels
as √(log E / n), the rate at which the lasso's noise does. Solved by FISTA (Beck & Teboulle 2009),
one category after the other, in float64, always from the same start.

Letters: n verified labels of a category, E sources, F = E + 2 columns: own, sources, 1.
"""

import math

import numpy as np

STEPS = 300


def fit_category(features: np.ndarray, labels: np.ndarray, penalty: float) -> np.ndarray:
    """Weights [F] of standardised features [n, F] (own score first, a column of ones last) for
    labels [n] in 0/1; the sources between them pay the penalty. Labels of one kind teach nothing:
    the own score stays as it is.
    """
    count, width = features.shape
    weights = start(width, labels)
    if labels.min(initial=1) >= labels.max(initial=0):
        return weights
    shrink = np.zeros(width)
    shrink[1:-1] = penalty * math.sqrt(math.log(max(width - 2, 2)) / count)
    rate = 1 / (np.linalg.norm(features, 2) ** 2 / (4 * count) + 1e-6)
    last, pace = weights, 1.0
    for _ in range(STEPS):
        gradient = features.T @ (probability(features @ weights) - labels) / count
        moved = weights - rate * gradient
        new = np.sign(moved) * np.maximum(np.abs(moved) - rate * shrink, 0)
        following = (1 + math.sqrt(1 + 4 * pace**2)) / 2
        weights, last, pace = new + (pace - 1) / following * (new - last), new, following
    return last


def start(width: int, labels: np.ndarray) -> np.ndarray:
    """The own score as it is, and the share of positives, a label of each kind added."""
    share = (labels.sum() + 1) / (len(labels) + 2)
    return np.array([1.0, *[0.0] * (width - 2), math.log(share / (1 - share))])


def probability(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
