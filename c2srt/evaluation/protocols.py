"""The five mAP protocols of the field, side by side, and micro F1@K.

Each protocol takes a `MetricState` of all test images and a label set and returns AP [C] float64
with NaN for every category that its mean leaves out; `np.nanmean` of it is the mAP. Labels: −1
verified absent, +1 present, 0 not verified.

| name        | images           | categories in the mean   | AP of category c                   |
|-------------|------------------|--------------------------|------------------------------------|
| per_class   | with a positive  | with a positive          | over images with label ±1 for c    |
| lesa        | all              | all; no positive is 0    | over images with label ±1 for c    |
| biam_legacy | with a positive  | ZSL: all of the set;     | over *all* verified labels of      |
|             |                  | GZSL: with any ±1 (*)    | those images; no positive is 0     |
| qks         | with a positive  | with any ±1 (*)          | over images with label ±1 for c;   |
|             |                  |                          | no positive is 0                   |
| dense       | all              | with a positive          | 0 counts as −1                     |

An image "with a positive" has one in the label set; (*) on those images. QKS's F1@K ranks its
columns only.
"""

import math
from collections.abc import Iterator

import numpy as np

from c2srt.evaluation.config import BIAM_LEGACY, DENSE, LESA, PER_CLASS, PROTOCOLS, QKS
from c2srt.evaluation.dense import Thresholds
from c2srt.evaluation.metric_state import LABEL_SETS, ZSL, MetricState, columns_of
from c2srt.evaluation.metrics import (
    CATEGORY_BIT,
    average_precision,
    best_first,
    category_of,
    entry_keys,
)

IN_LABEL_SET = {label_set: 2 << position for position, label_set in enumerate(LABEL_SETS)}
"""Flag of an entry whose image has a positive in that label set."""
FLATTENED_AT_ONCE = 1 << 20
"""biam_legacy repeats an image's entries once per verified label; this many keys (8 bytes each) are
held at a time.
"""


def sorted_keys(state: MetricState) -> np.ndarray:
    """The state's entries as sorted keys; every protocol over verified labels is a filter of
    them.
    """
    of_image = np.zeros(state.images, np.uint8)
    for position, label_set in enumerate(LABEL_SETS):
        of_image |= (state.positives[:, position] > 0) * np.uint8(IN_LABEL_SET[label_set])
    flags = np.repeat(of_image, state.verified)
    flags |= state.positive
    return entry_keys(state.category, best_first(state.score), flags)


def keys_of(label_set: str, seen: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The keys whose category is in the label set, still sorted."""
    inside = columns_of(label_set, seen)
    if inside.all():
        return keys
    ends = np.searchsorted(keys, np.arange(len(seen) + 1, dtype=np.uint64) << CATEGORY_BIT)
    return keys[np.repeat(inside, np.diff(ends))]


def per_class(keys: np.ndarray, seen: np.ndarray, label_set: str) -> np.ndarray:
    """The headline: AP over the verified labels of images that have a positive in the label set;
    NaN without a positive.
    """
    return average_precision(keys_of(label_set, seen, keys), len(seen), IN_LABEL_SET[label_set])


def lesa(keys: np.ndarray, seen: np.ndarray, label_set: str) -> np.ndarray:
    """LESA's: AP over the verified labels of all images; a category without a positive is 0 and in
    the mean.
    """
    found = average_precision(keys_of(label_set, seen, keys), len(seen))
    return only(columns_of(label_set, seen), np.nan_to_num(found, nan=0.0))


def qks(keys: np.ndarray, seen: np.ndarray, label_set: str) -> np.ndarray:
    """What QKS's released `evaluate.py` averages, ties grouped: as `per_class`, but a column that
    has verified absences only is 0 and in the mean.
    """
    inside, flag = keys_of(label_set, seen, keys), IN_LABEL_SET[label_set]
    entries = np.bincount(category_of(inside[inside & flag != 0]), minlength=len(seen))
    found = average_precision(inside, len(seen), flag)
    return only(entries > 0, np.nan_to_num(found, nan=0.0))


def dense(
    thresholds: Thresholds, at_least: np.ndarray, seen: np.ndarray, label_set: str
) -> np.ndarray:
    """Every image counts for every category, not verified as absent; `at_least` from
    `Thresholds.count` over all images.
    """
    return only(columns_of(label_set, seen), thresholds.average_precision(at_least))


def biam_legacy(state: MetricState, seen: np.ndarray, label_set: str) -> np.ndarray:
    """What BiAM's released `compute_AP` returns (util_openimages.py), ties grouped. It is *not* the
    AP of a category.

    It selects the rows with y_c ≠ 0 and then forgets to select the column: the "AP of c" ranks
    every verified label (of the label set) of those images. Hence a column with −1 only still gets
    a value; rows without any positive would give 0, but images without a positive were left out
    before. evaluate_openimages.py drops the columns without a label in GZSL only: in ZSL they are 0
    and in the mean. Kept only to read published tables.
    """
    with_positive = state.positives[:, LABEL_SETS.index(label_set)] > 0
    inside = columns_of(label_set, seen)[state.category] & np.repeat(with_positive, state.verified)
    image = np.repeat(np.arange(state.images, dtype=np.int32), state.verified)[inside]
    category, rank, positive = (
        state.category[inside],
        best_first(state.score)[inside],
        state.positive[inside].astype(np.uint8),
    )
    count = np.bincount(image, minlength=state.images)
    start = np.cumsum(count) - count
    in_mean = columns_of(label_set, seen) & (label_set == ZSL and bool(with_positive.any()))
    result = np.where(in_mean, 0.0, np.nan)
    by_category = np.argsort(category, kind="stable")
    for chosen in chunks_of_categories(category[by_category], count[image[by_category]]):
        anchors = by_category[chosen]
        length = count[image[anchors]]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        entry = np.repeat(start[image[anchors]], length) + within
        keys = entry_keys(np.repeat(category[anchors], length), rank[entry], positive[entry])
        present = np.unique(category[anchors])
        result[present] = np.nan_to_num(average_precision(keys, len(seen))[present], nan=0.0)
    return result


def chunks_of_categories(category: np.ndarray, length: np.ndarray) -> Iterator[slice]:
    """Slices of anchors sorted by category: whole categories, at least one, up to about
    FLATTENED_AT_ONCE repeated entries.
    """
    ends = np.append(np.flatnonzero(np.diff(category)) + 1, len(category))
    total = length.cumsum()[ends - 1] if len(category) else ()
    begin = taken = 0
    while begin < len(category):
        here = np.searchsorted(ends, begin, "right")
        last = max(np.searchsorted(total, taken + FLATTENED_AT_ONCE, "right") - 1, here)
        yield slice(begin, ends[last])
        begin, taken = ends[last], total[last]


def only(columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(columns, values, np.nan)


def f1_at_k(
    state: MetricState,
    label_set: str,
    topk: tuple[int, ...],
    every_image: bool = False,
    annotated: bool = False,
) -> dict[str, dict[str, float]]:
    """{"F1@K": {"P", "R", "F1"}} over the images with a positive in the label set (as `per_class`),
    or over every image; `annotated` ranks the annotated columns only (as `qks`), and has NaN for a
    K that they are too few for.

    Micro: P = TP / (images · K), R = TP / positives. A label 0 or −1 among the K best is a false
    positive; ties at the K-th place share it (`expected_hits`). The sum over images is exact
    (`math.fsum`), so their order cannot matter.
    """
    position = LABEL_SETS.index(label_set)
    positives = state.positives[:, position]
    images = state.images if every_image else int((positives > 0).sum())
    hits, result = (state.annotated_hits if annotated else state.hits), {}
    for column, k in enumerate(topk):
        true_positives = math.fsum(hits[positives > 0, position, column].tolist())
        precision, recall = true_positives / (images * k), true_positives / int(positives.sum())
        f1 = 2 * precision * recall / (precision + recall) if true_positives else 0.0
        result[f"F1@{k}"] = {"P": precision, "R": recall, "F1": f1}
    return result


def average_precisions(
    state: MetricState,
    seen: np.ndarray,
    label_set: str,
    protocols: tuple[str, ...],
    keys: np.ndarray,
    thresholds: Thresholds | None,
    at_least: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """{protocol: AP [C]} of one label set; keys from `sorted_keys`."""
    compute = {
        PER_CLASS: lambda: per_class(keys, seen, label_set),
        LESA: lambda: lesa(keys, seen, label_set),
        BIAM_LEGACY: lambda: biam_legacy(state, seen, label_set),
        QKS: lambda: qks(keys, seen, label_set),
    }
    if thresholds is not None and at_least is not None:
        compute[DENSE] = lambda: dense(thresholds, at_least, seen, label_set)
    return {name: compute[name]() for name in PROTOCOLS if name in protocols}
