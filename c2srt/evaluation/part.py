"""What a set of images leaves behind for evaluation: its verified entries and its top-K counts; about 40 MB for Open Images.

Parts merge by concatenation. Every reduction of them (protocols.py) sorts first or sums exactly, so any split of the
images over ranks, in any order, gives the same bits.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from c2srt.errors import UserError
from c2srt.evaluation.metrics import MAX_CATEGORIES, expected_hits
from c2srt.files import whole_file

ZSL, GZSL = LABEL_SETS = ("zsl", "gzsl")


def columns_of(label_set: str, seen: np.ndarray) -> np.ndarray:
    """Which categories a label set scores, bool [C]: the unseen ones (ZSL) or all (GZSL)."""
    return ~seen if label_set == ZSL else np.ones_like(seen)


@dataclass(frozen=True)
class Part:
    """n verified entries of N images, image by image; the second axis of `positives` and `hits` is LABEL_SETS."""

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
    """float64 [N, 2, len(topk)]: expected positives among its K best, NaN where the label set has no category"""
    isr: np.ndarray
    """int64 [batches, 3]: patches selected, pairs at the cap, image-category pairs; no rows without ISR"""

    @property
    def images(self) -> int:
        return len(self.verified)

    def save(self, path: Path) -> None:
        """Writes an .npz, whole or not at all."""
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})


def load_part(path: Path) -> Part:
    with np.load(path, allow_pickle=False) as arrays:
        return Part(**arrays)


def merge(parts: list[Part]) -> Part:
    """The part of all images of `parts`."""
    return Part(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Part)))


def measure(scores: np.ndarray, labels: np.ndarray, seen: np.ndarray, topk: tuple[int, ...], first: int = 0,
            isr: tuple[int, int, int] | None = None) -> Part:
    """The part of a batch: scores [b, C] float, labels [b, C] in −1/0/1, seen [C] bool.

    `first` is the number of the batch's first image (for messages), `isr` as in `Part`.

    Raises UserError on NaN or infinite scores, other labels, shapes that disagree, or K beyond a label set.
    """
    check_batch(scores, labels, seen, first)
    check_topk(seen, topk)
    scores = scores if scores.dtype in (np.float32, np.float64) else scores.astype(np.float32)
    image, category = np.nonzero(labels)
    positive = labels == 1
    positives, hits = [], []
    for label_set in LABEL_SETS:
        columns = columns_of(label_set, seen)
        inside = positive if columns.all() else positive[:, columns]
        positives.append(inside.sum(1, dtype=np.int32))
        hits.append(expected_hits(scores if columns.all() else scores[:, columns], inside, topk)
                    if columns.any() else np.full((len(scores), len(topk)), np.nan))
    return Part(category.astype(np.int32), scores[image, category], positive[image, category],
                np.bincount(image, minlength=len(scores)).astype(np.int32), np.stack(positives, 1), np.stack(hits, 1),
                np.array([isr] if isr else [], np.int64).reshape(-1, 3))


def check_batch(scores: np.ndarray, labels: np.ndarray, seen: np.ndarray, first: int = 0) -> None:
    """Raises UserError with the first thing wrong in a batch."""
    if scores.ndim != 2 or scores.shape != labels.shape or seen.shape != scores.shape[1:]:
        raise UserError(f"scores {list(scores.shape)}, labels {list(labels.shape)} and seen {list(seen.shape)} disagree: "
                        "they must be [N, C], [N, C] and [C]")
    if scores.shape[1] > MAX_CATEGORIES:
        raise UserError(f"{scores.shape[1]} categories are more than the {MAX_CATEGORIES} that evaluation can hold")
    if not (finite := np.isfinite(scores)).all():
        image, category = np.argwhere(~finite)[0]
        raise UserError(f"the score of image {first + image} for category {category} is {scores[image, category]}: "
                        "scores must be finite")
    if not (ternary := (labels == -1) | (labels == 0) | (labels == 1)).all():
        image, category = np.argwhere(~ternary)[0]
        raise UserError(f"the label of image {first + image} for category {category} is {labels[image, category]}: "
                        "labels are −1 (verified absent), 0 (not verified) or 1 (present)")


def check_topk(seen: np.ndarray, topk: tuple[int, ...]) -> None:
    """Raises UserError if a K is not in 1…(categories of each label set that has any)."""
    for label_set in LABEL_SETS:
        size = int(columns_of(label_set, seen).sum())
        for k in topk:
            if size and not 1 <= k <= size:
                raise UserError(f"K = {k} does not fit the {size} categories of {label_set.upper()}: "
                                f"choose topk=[…] with values from 1 to {size}")
