"""Hits among the K best scores of each image, in about two passes over the scores.

Shapes: b images, C categories, p positives of those images.
"""

import numpy as np

GROUPS, FEW = 4, 64
"""Maxima are halved while GROUPS of them are left for each score that is looked for: few more
scores then reach their bound. Below FEW scores for each one that is looked for, that does not pay.
"""
SHORT = 1 << 10
"""Fewer bytes than that are not worth being looked at as words."""


def nonzero(values: np.ndarray) -> np.ndarray:
    """Places of what is not zero in values [b, C], as ascending int64 into the flattened array.

    One-byte values are nearly all zero (labels, rare flags): eight of them are looked at as one
    word, and of which words are not zero again eight at once.
    """
    flat = values.reshape(-1)
    whole = len(flat) // 8 * 8
    if flat.itemsize > 1 or whole < SHORT:
        return np.flatnonzero(flat)
    words = flat[:whole].view(np.uint64)
    word = nonzero(words != 0)
    byte = np.flatnonzero(words[word].view(np.uint8) != 0)
    return np.concatenate(
        [(word[byte >> 3] << 3) + (byte & 7), whole + np.flatnonzero(flat[whole:])]
    )


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """The `count` best scores of each image, ascending: [b, C] -> [b, count], 1 ≤ count ≤ C.

    Take the maxima of pairs of an image's scores, of pairs of these, and so on: the count-th best
    of such maxima is a bound that the count best scores reach, and hardly any other. Only what
    reaches it is sorted.
    """
    if scores.shape[1] < FEW * count:
        found = np.partition(scores, scores.shape[1] - count, axis=1)[:, scores.shape[1] - count :]
        found.sort(axis=1)
        return found
    maxima = scores
    while (half := maxima.shape[1] // 2) >= GROUPS * count:
        maxima = np.maximum(
            maxima[:, :half], maxima[:, half : 2 * half]
        )  # an odd one left out only lowers the bound
    place = maxima.shape[1] - count
    reached = np.flatnonzero(scores >= np.partition(maxima, place, axis=1)[:, place, None])
    found = np.diff(np.searchsorted(reached, np.arange(len(scores) + 1) * scores.shape[1]))
    padded = np.full((len(scores), found.max(initial=count)), -np.inf, scores.dtype)
    padded[np.arange(padded.shape[1]) < found[:, None]] = scores.reshape(-1)[reached]
    padded.sort(axis=1)
    return padded[:, padded.shape[1] - count :]


def expected_hits(
    scores: np.ndarray,
    top: np.ndarray,
    image: np.ndarray,
    positive: np.ndarray,
    topk: tuple[int, ...],
) -> np.ndarray:
    """Positives among the K best scores of each image, float64 [b, len(topk)]: scores [b, C],
    finite; their `best`, one more than the largest K of them if there are as many; of the positives
    their image [p] and score [p].

    Ties at the K-th place share what is left of it: with g scores above the K-th best one and m
    equal to it, each of the m counts (K − g) / m. That is the mean over all orders of the ties, so
    the order of the columns cannot matter.
    """
    hits = np.empty((len(scores), len(topk)))
    for column, k in enumerate(topk):
        boundary = top[:, -k]
        tied = (top == boundary[:, None]).sum(1)
        if top.shape[1] < scores.shape[1]:
            beyond = np.flatnonzero(top[:, 0] == boundary)
            tied[beyond] = (scores[beyond] == boundary[beyond, None]).sum(1)
        share = (k - (top > boundary[:, None]).sum(1)) / tied
        above, level = (
            np.bincount(image[chosen], minlength=len(scores))
            for chosen in (positive > boundary[image], positive == boundary[image])
        )
        hits[:, column] = above + share * level
    return hits
