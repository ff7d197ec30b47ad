"""The arithmetic of evaluation on plain arrays: segmented average precision.

Shapes: n entries (one verified image-category pair each), C categories. An entry is one uint64 key:

    bits 63…40  category
         39…8   rank of the score, best first
         7…0    flags (bit 0 positive, the rest the caller's)

so one sort of plain integers brings the entries of every category together, best score first, and
equal scores side by side. Nothing but the keys decides the result, hence it is bit-equal for any
order in which entries arrive.
"""

from collections.abc import Iterator

import numpy as np

POSITIVE = 1
MAX_CATEGORIES = 1 << 24
CATEGORY_BIT = np.uint64(40)
KEYS_AT_ONCE = 1 << 17


def best_first(scores: np.ndarray) -> np.ndarray:
    """Scores [n] float -> uint32 [n] that ascend where scores descend; equal exactly where scores
    are equal (−0.0 = 0.0).

    float32 (and float16) are mapped bit by bit; float64 does not fit 32 bits and is ranked among
    the n scores given.
    """
    if scores.dtype == np.float64:
        return np.unique(-scores, return_inverse=True)[1].astype(np.uint32)
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)
    negative = bits >> 31 == 1
    return np.where(negative, bits, ~bits & np.uint32(0x7FFFFFFF))


def entry_keys(category: np.ndarray, rank: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Sorted keys, uint64 [n]; `rank` from `best_first`, `flags` uint8 with POSITIVE in bit 0."""
    keys = category.astype(np.uint64)
    keys <<= 32
    keys |= rank
    keys <<= 8
    keys |= flags
    keys.sort()
    return keys


def category_of(keys: np.ndarray) -> np.ndarray:
    """Category of each key, int32 [n]."""
    return (keys >> CATEGORY_BIT).astype(np.int32)


def average_precision(keys: np.ndarray, categories: int, flag: int = 0) -> np.ndarray:
    """AP of every category, float64 [C], NaN where a category has no positive entry; `flag` leaves
    out entries without it.

    Tied scores form one threshold (scikit-learn's `average_precision_score`): AP = Σ_t ΔTP(t)/P ·
    TP(t)/n(t) over the distinct scores t, with TP(t) positives and n(t) entries scoring at least t.
    Keys must be sorted.
    """
    result = np.full(categories, np.nan)
    for some in whole_categories(keys):
        some = some[some & flag != 0] if flag else some
        group = some >> 8
        ends = np.flatnonzero(np.append(group[1:] != group[:-1], True)[: len(some)])
        category = category_of(some[ends])
        first = np.flatnonzero(np.append(True, category[1:] != category[:-1])[: len(category)])
        positives = inside_category(first, np.cumsum(some & POSITIVE, dtype=np.int64)[ends])
        result[category[first]] = precision_of_groups(
            first, positives, inside_category(first, ends + 1)
        )
    return result


def whole_categories(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Views of sorted keys, about KEYS_AT_ONCE each, that never split a category: temporaries stay
    small and in cache.
    """
    begin = 0
    while begin < len(keys):
        last = keys[min(begin + KEYS_AT_ONCE, len(keys)) - 1]
        end = np.searchsorted(keys, ((last >> CATEGORY_BIT) + np.uint64(1)) << CATEGORY_BIT)
        yield keys[begin:end]
        begin = end


def inside_category(first: np.ndarray, running: np.ndarray) -> np.ndarray:
    """Counts that run on over all groups [g] -> counts that start again at every category; `first`
    [c] is its first group.
    """
    before = np.where(first > 0, running[first - 1], 0)
    return running - np.repeat(before, np.diff(np.append(first, len(running))))


def precision_of_groups(
    first: np.ndarray, positives: np.ndarray, entries: np.ndarray
) -> np.ndarray:
    """AP [c], NaN without a positive, from tie groups [g], best score first inside each category;
    `first` [c] is its first group.

    `positives` and `entries` count what scores at least as high as the group, in its category.
    """
    gained = np.diff(positives, prepend=0)
    gained[first] = positives[first]
    weighted = np.add.reduceat(gained * (positives / entries), first)
    total = positives[np.append(first, len(positives))[1:] - 1]
    return np.divide(weighted, total, out=np.full(len(first), np.nan), where=total > 0)
