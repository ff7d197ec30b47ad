"""From counts to a calibration: a logistic regression of presence on the score, with one slope for
all seen categories and an offset for each.

Offsets are drawn from a normal distribution whose mean and variance are fitted with them (empirical
Bayes, by EM): a category with many labels has its own, one with few lies near the mean. A category
that no label trained, and a new word, has an offset that nobody knows: its probability is the mean
over that distribution, which is the sigmoid with slope and offset shrunk by √(1 + π variance / 8)
(MacKay 1992), nearer to 1/2 than that of a seen category.

Seen categories are named from the probability with the best micro-F1 over their labels. For the
others it is the one with the best F1 that these probabilities let expect over the images, which
needs no label (at an optimum it is half that F1: Lipton et al. 2014).

Newton steps in float64; the Hessian is an arrow (the slope's row and column, and a diagonal), so a
step costs one pass over the counts.

Letters: C categories, S seen, L levels.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from c2srt.calibration.counts import Counts
from c2srt.errors import UserError
from c2srt.messages.fit import probability
from c2srt.model.calibration import Calibration

STEPS, CLOSE = 200, 1e-9
LEAST_VARIANCE = 1e-4


@dataclass
class Fitted:
    """`slope` of standardised scores, `offset` [S] with their `mean` and `variance`."""

    slope: float
    offset: np.ndarray
    mean: float
    variance: float


def calibrate(counts: Counts, seen: int) -> Calibration:
    """The calibration of all C categories, fitted on those of the first `seen`. Raises UserError if
    labels of one kind are missing, or scores say nothing of them.
    """
    known = counts.of(slice(seen))
    check_both_kinds(known)
    at, weight = known.score, (known.present + known.absent).sum(0)
    middle = np.average(at, weights=weight)
    spread = math.sqrt(np.average((at - middle) ** 2, weights=weight)) or 1.0
    fitted = fit((at - middle) / spread, known)
    if fitted.slope <= 0:
        raise UserError(
            "the seen categories' scores say nothing of their presence (it falls as they rise): no"
            " calibration would mend this model"
        )
    less = 1 / math.sqrt(1 + math.pi * fitted.variance / 8)
    slope, mean = fitted.slope / spread, fitted.mean - fitted.slope / spread * middle
    own = np.full(seen, slope), fitted.offset - slope * middle
    threshold = best_threshold(known.present, known.absent, probabilities(at, *own))
    others = counts.images[seen:] if len(counts.images) > seen else counts.images
    new = [less * slope, less * mean]
    new.append(expected_threshold(others, at, *new))
    numbers = [
        np.append(of_seen, np.full(len(counts.images) - seen, other))
        for of_seen, other in zip((*own, np.full(seen, threshold)), new, strict=True)
    ]
    return Calibration(*(torch.tensor(each, dtype=torch.float32) for each in (*numbers, new)))


def check_both_kinds(known: Counts) -> None:
    present, absent = known.present.sum(), known.absent.sum()
    if not present or not absent:
        raise UserError(
            f"the seen categories have {present:,} labels that say present and {absent:,} that say"
            " absent: a calibration needs both; another split has them, or unverified=absent"
        )


def expected_threshold(images: np.ndarray, at: np.ndarray, slope: float, offset: float) -> float:
    """Of categories without labels: where F1 is best if as many of the `images` [C, L] are positive
    as is probable.
    """
    chance = probabilities(at, np.full(len(images), slope), np.full(len(images), offset))
    return best_threshold(images * chance, images * (1 - chance), chance)


def fit(at: np.ndarray, counts: Counts) -> Fitted:
    """`at` [L]: the standardised scores of the levels."""
    here = counts.present + counts.absent
    labels, positive = here.sum(1), counts.present.sum(1)
    share = positive.sum() / labels.sum()
    level = math.log(share / (1 - share))
    found = Fitted(1.0, np.full(len(here), level), level, 1.0)
    for _ in range(STEPS):
        before = np.append(found.offset, found.slope)
        uncertain = newton_step(found, at, here, counts.present)
        found.mean = float(found.offset.mean())
        found.variance = max(
            float(((found.offset - found.mean) ** 2 + uncertain).mean()), LEAST_VARIANCE
        )
        if np.abs(np.append(found.offset, found.slope) - before).max() < CLOSE:
            break
    return found


def newton_step(found: Fitted, at: np.ndarray, here: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Moves slope and offsets, by at most 1 each; returns the variance [S] that each offset still
    has.
    """
    chance = probabilities(at, np.full(len(here), found.slope), found.offset)
    error = here * chance - present
    weight = here * chance * (1 - chance)
    slope_gradient = (error * at).sum()
    offset_gradient = error.sum(1) + (found.offset - found.mean) / found.variance
    own = weight.sum(1) + 1 / found.variance
    both = (weight * at).sum(1)
    slope = (slope_gradient - (both * offset_gradient / own).sum()) / (
        (weight * at**2).sum() - (both**2 / own).sum() + 1e-12
    )
    offset = (offset_gradient - both * slope) / own
    found.slope -= float(np.clip(slope, -1, 1))
    found.offset = found.offset - np.clip(offset, -1, 1)
    return 1 / own


def probabilities(at: np.ndarray, slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """[C, L] of the scores [L] with slopes and offsets [C]."""
    return probability(slope[:, None] * at + offset[:, None])


def best_threshold(present: np.ndarray, absent: np.ndarray, chance: np.ndarray) -> float:
    """The probability from which naming a category gives the best micro-F1 over counts [C, L];
    between the last that is named and the first that is not.
    """
    order = np.argsort(-chance, axis=None)
    present, absent = present.ravel()[order], absent.ravel()[order]
    some = present + absent > 0
    chance, present, absent = chance.ravel()[order][some], present[some], absent[some]
    hits = np.cumsum(present)
    f1 = 2 * hits / (hits + np.cumsum(absent) + hits[-1])
    best = int(f1.argmax())
    below = chance[best + 1] if best + 1 < len(chance) else 0.0
    return float((chance[best] + below) / 2)
