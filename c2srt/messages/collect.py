"""The scores of training images, as far as the fit needs them: in one pass, in bounded memory.

What is kept of an image: its own and its sources' scores for each verified seen category (E + 2
numbers a label), and sums over all images. Letters: b images of a batch, M verified labels, C
categories, S seen ones, E sources.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SAMPLED = 1024
"""Images whose scores are kept whole, for the spread of the logits."""


@dataclass(frozen=True)
class Collected:
    """`mean` and `deviation` [C] of the scores over images; `category` int32 [M], `label` int8 [M]
    in 0/1, `own` float32 [M] and `heard` float32 [M, E] of the seen categories' verified labels;
    `sample` float32 [≤ SAMPLED, C].
    """

    mean: np.ndarray
    deviation: np.ndarray
    category: np.ndarray
    label: np.ndarray
    own: np.ndarray
    heard: np.ndarray
    sample: np.ndarray


def collect(batches: Iterable[tuple[np.ndarray, np.ndarray]], sources: np.ndarray) -> Collected:
    """Of `batches`, (scores [b, C], labels [b, C] in −1/0/1); `sources` [S, E] as `sources_of_seen`
    gives them.
    """
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    parts: list[tuple[np.ndarray, ...]] = []
    sampled: list[np.ndarray] = []
    for scores, labels in batches:
        wide = scores.astype(np.float64)
        count, total, squares = count + len(wide), total + wide.sum(0), squares + (wide**2).sum(0)
        image, category = np.nonzero(labels[:, : len(sources)])
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
