"""What a set of images leaves behind for evaluation: its verified entries and its top-K counts;
about 40 MB for Open Images. Shapes: b images of a batch, C categories.

States merge by concatenation. Every reduction of them (protocols.py) sorts first or sums exactly,
so any split of the images over ranks, in any order, gives the same bits.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from c2srt.errors import UserError
from c2srt.evaluation.metrics import MAX_CATEGORIES
from c2srt.evaluation.topk import best, expected_hits, nonzero
from c2srt.files import whole_file
from c2srt.opened import read_npz, wrong

SCORES_AT_ONCE = 1 << 19
"""Scores that are measured at a time: 2 MiB, which stay in a core's cache for the passes over them.
"""
ZSL, GZSL = LABEL_SETS = ("zsl", "gzsl")


def columns_of(label_set: str, seen: np.ndarray) -> np.ndarray:
    """Which categories a label set scores, bool [C]: the unseen ones (ZSL) or all (GZSL)."""
    return ~seen if label_set == ZSL else np.ones_like(seen)


@dataclass(frozen=True)
class MetricState:
    """n verified entries of N images, image by image; the second axis of `positives` and `hits` is
    LABEL_SETS.
    """

    category: np.ndarray
    """int32 [n]"""
    score: np.ndarray
    """float32 or float64 [n]"""
    positive: np.ndarray
    """bool [n]: label +1 (else −1)"""
    verified: np.ndarray
    """int32 [N]: entries of each image"""
    positives: np.ndarray
    """int32 [N, 2]: labels +1 of each image"""
    hits: np.ndarray
    """float64 [N, 2, len(topk)]: expected positives among its K best, NaN where the label set has
    no category
    """
    annotated_hits: np.ndarray
    """The same among the annotated columns only (annotated.py), NaN where those are fewer than K;
    [N, 2, 0] where nobody asked
    """
    isr: np.ndarray
    """int64 [batches, 3]: patches selected, pairs at the cap, image-category pairs; no rows without
    ISR
    """

    @property
    def images(self) -> int:
        return len(self.verified)

    def save(self, path: Path) -> None:
        """Writes an .npz, whole or not at all."""
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})


ARRAYS = {
    "category": ("i", 1),
    "score": ("f", 1),
    "positive": ("b", 1),
    "verified": ("i", 1),
    "positives": ("i", 2),
    "hits": ("f", 3),
    "annotated_hits": ("f", 3),
    "isr": ("i", 2),
}
"""Letters of the dtypes of a state's arrays, and their axes."""


def load_state(path: Path) -> MetricState:
    """Raises UserError if the file is damaged."""
    again = f"remove {path.parent} and run the same command again"
    state = MetricState(**read_npz(path, again, ARRAYS))
    check_state(state, path, again)
    return state


def check_state(state: MetricState, path: Path, remedy: str) -> None:
    """Raises UserError unless a state's arrays belong together."""
    entries, images = len(state.category), state.images
    if (
        len(state.score) != entries
        or len(state.positive) != entries
        or state.verified.sum() != entries
        or (state.verified < 0).any()
        or (state.category < 0).any()
        or state.positives.shape != (images, 2)
        or state.hits.shape[:2] != (images, 2)
        or state.annotated_hits.shape[:2] != (images, 2)
        or state.isr.shape[1] != 3
        or not np.isfinite(state.score).all()
    ):
        raise wrong(path, "holds arrays that do not belong together", remedy)


def merge(states: list[MetricState]) -> MetricState:
    """The state of all images of `states`."""
    return MetricState(
        *(
            np.concatenate([getattr(state, field.name) for state in states])
            for field in fields(MetricState)
        )
    )


def drained(states: list[MetricState]) -> MetricState:
    """As `merge`; the list is empty then, so that nothing lies in memory twice for longer."""
    state = merge(states)
    states.clear()
    return state


def measure(
    scores: np.ndarray,
    labels: np.ndarray,
    seen: np.ndarray,
    topk: tuple[int, ...],
    first: int = 0,
    isr: tuple[int, int, int] | None = None,
    annotated: np.ndarray | None = None,
) -> MetricState:
    """The state of a batch: scores [b, C] float, labels [b, C] in −1/0/1, seen [C] bool.

    `first` is the number of the batch's first image (for messages), `isr` as in `MetricState`;
    `annotated` [2, C] bool of the whole split, for the qks protocol.

    Raises UserError on NaN or infinite scores, other labels, shapes that disagree, or K beyond a
    label set.
    """
    check_shapes(scores, labels, seen)
    check_topk(seen, topk)
    ranked = [columns_of(label_set, seen) for label_set in LABEL_SETS]
    ranked += [] if annotated is None else list(annotated)
    top = best_of(scores, ranked, topk, first)
    state = verified_state(scores, labels, seen, first)
    hits = [hits_of(scores, *pair, state, topk) for pair in zip(ranked, top, strict=True)]
    return replace(
        state,
        hits=np.stack(hits[:2], 1),
        annotated_hits=np.stack(hits[2:], 1) if hits[2:] else state.annotated_hits,
        isr=np.array([isr] if isr else [], np.int64).reshape(-1, 3),
    )


def hits_of(
    scores: np.ndarray,
    columns: np.ndarray,
    top: np.ndarray,
    state: MetricState,
    topk: tuple[int, ...],
) -> np.ndarray:
    """Expected positives among the K best of the columns [C] bool, whose `best_of` is `top`:
    float64 [b, len(topk)], NaN where there are fewer columns than K.
    """
    chosen, hits = (
        state.positive & columns[state.category],
        np.full((len(scores), len(topk)), np.nan),
    )
    image = np.repeat(np.arange(len(scores)), state.verified)[chosen]
    if fit := [column for column, k in enumerate(topk) if k <= columns.sum()]:
        hits[:, fit] = expected_hits(
            taken(scores, columns),
            top,
            image,
            state.score[chosen],
            tuple(topk[column] for column in fit),
        )
    return hits


def verified_state(
    scores: np.ndarray, labels: np.ndarray, seen: np.ndarray, first: int = 0
) -> MetricState:
    """As `measure` without a K, of arrays whose shapes fit. It looks at no score without a label
    and refuses none: whether they are finite is the caller's to know. Raises UserError on other
    labels.
    """
    place = nonzero(labels)
    image, category = np.divmod(place, scores.shape[1])
    verified = np.bincount(image, minlength=len(scores)).astype(np.int32)
    label = labels.reshape(-1)[place]
    check_labels(label, image, category, first)
    positive = label == 1
    positives = [
        per_image(positive & columns_of(label_set, seen)[category], verified)
        for label_set in LABEL_SETS
    ]
    return MetricState(
        category.astype(np.int32),
        scores.reshape(-1)[place].astype(float_type(scores)),
        positive,
        verified,
        np.stack(positives, 1),
        np.empty((len(scores), len(LABEL_SETS), 0)),
        np.empty((len(scores), len(LABEL_SETS), 0)),
        np.empty((0, 3), np.int64),
    )


def per_image(chosen: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """How many of the entries of each image are chosen: bool [n], image by image, and int32 [b] ->
    int32 [b].
    """
    running = np.cumsum(np.append(False, chosen), dtype=np.int32)
    return np.diff(running[np.cumsum(entries)], prepend=np.int32(0))


def best_of(
    scores: np.ndarray, ranked: list[np.ndarray], topk: tuple[int, ...], first: int
) -> list[np.ndarray]:
    """`best` [b, max(topk) + 1] of each of the ranked columns [C] bool, or as many as those are;
    [b, 0] without a K. Raises UserError on a score that is not finite.

    The one look at all scores, a few images at a time, so that they stay in a core's cache for all
    that is done to them.
    """
    rows = max(1, SCORES_AT_ONCE // scores.shape[1])
    count = [min(max(topk) + 1, int(columns.sum())) if topk else 0 for columns in ranked]
    found: list[np.ndarray] = [np.empty((len(scores), n), float_type(scores)) for n in count]
    for start in range(0, len(scores), rows):
        some: np.ndarray = np.ascontiguousarray(scores[start : start + rows], float_type(scores))
        check_finite(some, first + start)
        for columns, values in zip(ranked, found, strict=True):
            if values.shape[1]:
                values[start : start + rows] = best(taken(some, columns), values.shape[1])
    return found


def float_type(scores: np.ndarray) -> type:
    """float64 stays float64, anything else is float32."""
    return np.float64 if scores.dtype == np.float64 else np.float32


def taken(scores: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The columns [C] bool of scores [b, C]; a view where they lie side by side, as seen and unseen
    ones do in a vocabulary.
    """
    places = np.flatnonzero(columns)
    together = slice(places[0], places[-1] + 1)
    return scores[:, together] if columns[together].all() else scores[:, places]


def check_shapes(scores: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> None:
    """Raises UserError if the arrays of a batch do not fit together."""
    if (
        scores.ndim != 2
        or scores.shape != labels.shape
        or seen.shape != scores.shape[1:]
        or not scores.shape[1]
    ):
        raise UserError(
            f"scores {list(scores.shape)}, labels {list(labels.shape)} and seen {list(seen.shape)}"
            " disagree: they must be [N, C], [N, C] and [C]"
        )
    if scores.shape[1] > MAX_CATEGORIES:
        raise UserError(
            f"{scores.shape[1]} categories are more than the {MAX_CATEGORIES} that evaluation can"
            " hold"
        )


def check_finite(scores: np.ndarray, first: int) -> None:
    """Raises UserError with the first score that is NaN or infinite."""
    if not (finite := np.isfinite(scores)).all():
        image, category = np.argwhere(~finite)[0]
        raise UserError(
            f"the score of image {first + image} for category {category} is"
            f" {scores[image, category]}: scores must be finite"
        )


def check_labels(label: np.ndarray, image: np.ndarray, category: np.ndarray, first: int) -> None:
    """Raises UserError with the first label that is none of −1, 0, 1; `label` [n] are those that
    are not 0.
    """
    if len(wrong := np.flatnonzero((label != 1) & (label != -1))):
        at = wrong[0]
        raise UserError(
            f"the label of image {first + image[at]} for category {category[at]} is {label[at]}: "
            "labels are −1 (verified absent), 0 (not verified) or 1 (present)"
        )


def check_topk(seen: np.ndarray, topk: tuple[int, ...]) -> None:
    """Raises UserError if a K is not in 1…(categories of each label set that has any)."""
    for label_set in LABEL_SETS:
        size = int(columns_of(label_set, seen).sum())
        for k in topk:
            if size and not 1 <= k <= size:
                raise UserError(
                    f"K = {k} does not fit the {size} categories of {label_set.upper()}: "
                    f"choose 'topk=[…]' with values from 1 to {size}"
                )
