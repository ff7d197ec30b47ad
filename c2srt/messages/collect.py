"""The scores of training images, as far as the fit needs them: in one pass, in bounded memory.

What is kept of an image: its own and its sources' scores for each verified seen category (E + 2
numbers a label), and sums over all images. Letters: b images of a batch, M verified labels, C
categories, S seen ones, U unseen ones, E sources.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from c2srt.relations.neighbours import ABSENT

SAMPLED = 1024
"""Images whose scores are kept whole, for the spread of the logits."""


@dataclass(frozen=True)
class Collected:
    """`mean` and `deviation` [C + U] over images, of the scores and then of the unseen categories'
    `mixed` ones; `category` int32 [M], `label` int8 [M] in 0/1, `own` float32 [M] and `heard`
    float32 [M, E] of the verified labels; `sample` float32 [≤ SAMPLED, C].
    """

    mean: np.ndarray
    deviation: np.ndarray
    category: np.ndarray
    label: np.ndarray
    own: np.ndarray
    heard: np.ndarray
    sample: np.ndarray


def collect(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    sources: np.ndarray,
    seen_count: int,
    own_weight: float,
) -> Collected:
    """Of `batches`, (scores [b, C], labels [b, C] in −1/0/1); `sources` [C, E] as `sources_of`
    gives them.
    """
    count, width = 0, 2 * len(sources) - seen_count
    total, squares = np.zeros(width), np.zeros(width)
    parts: list[tuple[np.ndarray, ...]] = []
    sampled: list[np.ndarray] = []
    for scores, labels in batches:
        wide = scores.astype(np.float64)
        both = np.concatenate([wide, mixed(wide, sources[seen_count:], seen_count, own_weight)], 1)
        count, total, squares = count + len(wide), total + both.sum(0), squares + (both**2).sum(0)
        image, category = np.nonzero(labels[:, :seen_count])
        heard = scores[image[:, None], sources[category]]  # what is ABSENT is not looked at
        label = labels[image, category] > 0
        parts.append((category.astype(np.int32), label, scores[image, category], heard))
        if sum(map(len, sampled)) < SAMPLED:
            sampled.append(scores)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0)) + 1e-12
    category, label, own, heard = (np.concatenate(each) for each in zip(*parts, strict=True))
    sample = np.concatenate(sampled)[:SAMPLED]
    return Collected(mean, deviation, category, label.astype(np.int8), own, heard, sample)


def mixed(
    scores: np.ndarray, sources: np.ndarray, seen_count: int, own_weight: float
) -> np.ndarray:
    """An unseen category's own score, weighed, and the mean of its sources' [b, U]; where it has
    none its own as it is.

    scores [b, C], sources [U, E]. Scores are taken as they are, not standardised: one that varies
    much between images (a clear name) then says more than one that hardly does.
    """
    own = scores[:, seen_count:]
    there = sources != ABSENT
    count = there.sum(1)
    total = (scores[:, np.where(there, sources, 0)] * there).sum(2)
    return np.where(count > 0, own_weight * own + total / np.maximum(count, 1), own)
