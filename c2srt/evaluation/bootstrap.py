"""95 % confidence intervals of mAP and F1@K: what the choice of test images alone moves, from a
`MetricState`.

A draw takes N of the N test images, with replacement; an image taken w times weighs w, which gives
the AP of literally repeating its entries. Which images a draw takes is decided by the seed and by
what the images hold, never by their place, so that any order of images and any number of workers
give the same bits, and two models on the same labels meet nearly the same draws.

Duplicates lift the AP of categories with few positives: draws lie above the value that they stand
for, on Open Images by several of their own deviations, and their plain percentiles would not even
hold it. An interval is therefore the draws' 2.5 and 97.5 percentiles, moved so that their mean is
the value.

Shapes: N images, n verified entries, C categories, B draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from c2srt.evaluation.config import ANNOTATED, LESA, PER_CLASS, QKS
from c2srt.evaluation.metric_state import LABEL_SETS, MetricState, columns_of
from c2srt.evaluation.metrics import best_first, inside_category, precision_of_groups

DRAWS_AT_ONCE, ENTRIES_AT_ONCE = 64, 1 << 16
PROTOCOLS = (PER_CLASS, LESA, QKS)
HIGH = 32


@dataclass(frozen=True)
class Chunk:
    """Entries of a few whole categories, best score first in each; g groups of tied scores, c
    categories.
    """

    image: np.ndarray
    """int32 [n]"""
    ones: np.ndarray
    """int64 [n]: 1, and 1 << HIGH more if positive: one running sum counts both"""
    ends: np.ndarray
    """int64 [g]: last entry of each group"""
    first: np.ndarray
    """int64 [c]: first group of each category"""
    category: np.ndarray
    """int64 [c]"""

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """AP [c] with images weighing [N], NaN where the positives weigh nothing."""
        running = inside_category(self.first, np.cumsum(weights[self.image] * self.ones)[self.ends])
        return precision_of_groups(
            self.first, running >> HIGH, np.maximum(running & ((1 << HIGH) - 1), 1)
        )


def intervals(
    state: MetricState,
    seen: np.ndarray,
    topk: tuple[int, ...],
    protocols: tuple[str, ...],
    values: dict,
    draws: int,
    seed: int,
) -> dict[str, dict]:
    """{label set: {"mAP": {protocol: [low, high]}, "F1@K": {"P", "R", "F1": [low, high]}}} of B
    `draws` over the images.

    `values` holds the measured figures in the same layout, null where nothing can be measured (so
    is the interval then). Only per_class, lesa and qks: the other protocols would have to look at
    every score, or at every pair of an image's labels, again. The annotated columns of qks are
    those of all N images in every draw.
    """
    order = order_of_images(state)
    place = np.empty(state.images, np.int32)
    place[order] = np.arange(state.images)
    names = [name for name in PROTOCOLS if name in protocols]
    found: dict[str, list[dict]] = {label_set: [] for label_set in LABEL_SETS}
    for start in range(0, draws, DRAWS_AT_ONCE):
        weights = weights_of(state.images, seed, range(start, min(start + DRAWS_AT_ONCE, draws)))
        for label_set, drawn in mean_precisions(state, seen, place, names, weights).items():
            drawn |= hit_rates(state, order, label_set, topk, weights)
            if QKS in names:
                drawn |= hit_rates(state, order, label_set, topk, weights, ANNOTATED)
            found[label_set].append(drawn)
    result: dict[str, dict] = {}
    for label_set, states in found.items():
        joined = {key: np.concatenate([some[key] for some in states]) for key in states[0]}
        result[label_set] = {outer: {} for outer, _ in joined}
        for (outer, inner), all_drawn in joined.items():
            result[label_set][outer][inner] = interval(values[label_set][outer][inner], all_drawn)
    return result


def interval(value: float | None, drawn: np.ndarray) -> list[float] | None:
    """[low, high] in 0–1 around a value, from its draws [B] (NaN: a draw without any positive)."""
    drawn = drawn[~np.isnan(drawn)]
    if value is None or not len(drawn):
        return None
    return np.clip(value + np.percentile(drawn, [2.5, 97.5]) - drawn.mean(), 0, 1).tolist()


def weights_of(images: int, seed: int, draws: range) -> np.ndarray:
    """How often each draw takes each image, uint16 [B, N]: a pure function of seed and draw."""
    taken = (np.random.default_rng((seed, draw)).integers(0, images, images) for draw in draws)
    return np.stack([np.bincount(some, minlength=images).astype(np.uint16) for some in taken])


def order_of_images(state: MetricState) -> np.ndarray:
    """Images by what they hold, int64 [N]: labels first, then scores, then hits; those alike in all
    are interchangeable.
    """
    bits = np.uint32 if state.score.dtype == np.float32 else np.uint64
    label = mixed(state.category.astype(np.uint64) * 2 + state.positive)
    score = mixed(label + (state.score + state.score.dtype.type(0)).view(bits))
    ends = np.cumsum(state.verified)

    def of_image(entries: np.ndarray) -> np.ndarray:
        running = np.append(np.uint64(0), np.cumsum(entries))
        return running[ends] - running[ends - state.verified]

    return np.lexsort((*state.hits.reshape(state.images, -1).T, of_image(score), of_image(label)))


def mixed(value: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, one to one and without pattern (the finaliser of splitmix64)."""
    value = (value ^ (value >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> 27)) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> 31)


def mean_precisions(
    state: MetricState, seen: np.ndarray, place: np.ndarray, names: list[str], weights: np.ndarray
) -> dict[str, dict]:
    """{label set: {("mAP", protocol): [B]}}; place [N] of an image in `weights` [B, N]."""
    image = np.repeat(np.arange(state.images, dtype=np.int32), state.verified)
    keys = state.category.astype(np.uint64) << 32 | best_first(state.score)
    order = np.argsort(keys)
    found: dict[str, dict] = {label_set: {} for label_set in LABEL_SETS}
    if LESA in names:
        precision = precisions(state, keys, order, place[image], weights, len(seen))
        for label_set in LABEL_SETS:
            inside = precision[:, columns_of(label_set, seen)]
            found[label_set]["mAP", LESA] = (
                np.nan_to_num(inside).mean(1) if inside.size else np.full(len(weights), np.nan)
            )
    if not {PER_CLASS, QKS} & set(names):
        return found
    for position, label_set in enumerate(LABEL_SETS):
        inside = columns_of(label_set, seen)[state.category]
        chosen = (state.positives[:, position] > 0)[image] & inside
        precision = precisions(state, keys, order[chosen[order]], place[image], weights, len(seen))
        total, count = np.nansum(precision, 1), (~np.isnan(precision)).sum(1)
        annotated = len(np.unique(state.category[chosen]))
        for name, columns in ((PER_CLASS, count), (QKS, np.where(count > 0, annotated, 0))):
            if name in names:
                found[label_set]["mAP", name] = np.divide(
                    total, columns, where=columns > 0, out=np.full(len(weights), np.nan)
                )
    return found


def precisions(
    state: MetricState,
    keys: np.ndarray,
    order: np.ndarray,
    place: np.ndarray,
    weights: np.ndarray,
    categories: int,
) -> np.ndarray:
    """AP of each draw and category, [B, C]; `order` sorts the entries that count, `place` [n] finds
    their weights.
    """
    result = np.full((len(weights), categories), np.nan)
    for chunk in chunks(state, keys, order, place):
        for draw, row in enumerate(weights):
            result[draw, chunk.category] = chunk.average_precision(row)
    return result


def chunks(
    state: MetricState, keys: np.ndarray, order: np.ndarray, place: np.ndarray
) -> Iterator[Chunk]:
    """Whole categories, about ENTRIES_AT_ONCE entries each."""
    categories = state.category[order]
    begin = 0
    while begin < len(order):
        end = np.searchsorted(
            categories, categories[min(begin + ENTRIES_AT_ONCE, len(order)) - 1], "right"
        )
        here, group = order[begin:end], keys[order[begin:end]]
        ends = np.flatnonzero(np.append(group[1:] != group[:-1], True))
        category = categories[begin:end][ends]
        first = np.flatnonzero(np.append(True, category[1:] != category[:-1]))
        yield Chunk(
            place[here],
            1 + (state.positive[here].astype(np.int64) << HIGH),
            ends,
            first,
            category[first],
        )
        begin = end


def hit_rates(
    state: MetricState,
    order: np.ndarray,
    label_set: str,
    topk: tuple[int, ...],
    weights: np.ndarray,
    among: str = "",
) -> dict:
    """{("F1@K", "P" | "R" | "F1"): [B]} over the images with a positive, as `f1_at_k`; `among`
    ANNOTATED: "F1@K annotated".
    """
    position = LABEL_SETS.index(label_set)
    positives = state.positives[order, position]
    images, total = weights @ (positives > 0).astype(np.int64), weights @ positives.astype(np.int64)
    all_hits = state.annotated_hits if among else state.hits
    found: dict[tuple[str, str], np.ndarray] = {}
    for column, k in enumerate(topk):
        hits = np.where(positives > 0, all_hits[order, position, column], 0)
        true_positives = np.array([(row * hits).sum() for row in weights])
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw without a positive is NaN
            precision, recall = true_positives / (images * k), true_positives / total
            f1 = np.where(
                true_positives > 0, 2 * precision * recall / (precision + recall), 0 * precision
            )
        found |= {
            (f"F1@{k}{among}", name): values
            for name, values in (("P", precision), ("R", recall), ("F1", f1))
        }
    return found
