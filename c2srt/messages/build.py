"""From collected scores to `Messages`: one fit a seen category, one rule for the unseen ones.

Fits are made of standardised scores; what is kept applies to the scores as the model gives them.
Letters: C categories, S seen, U unseen, E sources.
"""

import numpy as np
import torch

from c2srt.messages.collect import Collected
from c2srt.messages.config import Config
from c2srt.messages.fit import fit_category
from c2srt.model.messages import Messages
from c2srt.progress import Progress
from c2srt.relations.neighbours import ABSENT
from c2srt.vocabulary import Vocabulary


def messages_of(
    collected: Collected, sources: np.ndarray, seen_count: int, config: Config
) -> Messages:
    """The messages of all categories [C]; `sources` [C, E] are those that were collected."""
    categories = len(sources)
    own, weights, bias = (
        np.zeros(categories),
        np.zeros(sources.shape),
        np.zeros(categories),
    )
    intercepts = fit_seen(collected, sources, seen_count, config.penalty, own, weights, bias)
    logits = spread_of(collected.sample, sources, own, weights, seen_count)
    level, spread = float(np.median(intercepts)), float(np.median(logits))
    there = sources[seen_count:] != ABSENT
    heard = there.any(1)
    scale = spread / collected.deviation[categories:]
    own[seen_count:] = scale * np.where(heard, config.unseen_own, 1)
    weights[seen_count:] = there * (scale / np.maximum(there.sum(1), 1))[:, None]
    bias[seen_count:] = level - scale * collected.mean[categories:]
    deviation, mean = (
        np.median(each[:categories]) for each in (collected.deviation, collected.mean)
    )
    new = [spread / deviation, level - spread / deviation * mean]
    return Messages(
        torch.from_numpy(np.where(sources == ABSENT, 0, sources)),
        *(torch.tensor(each, dtype=torch.float32) for each in (weights, own, bias, new)),
    )


def fit_seen(
    collected: Collected,
    sources: np.ndarray,
    seen_count: int,
    penalty: float,
    own: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
) -> np.ndarray:
    """Fills in what applies to the seen categories' raw scores, and returns the intercepts [S] for
    standardised ones: the mean logits over images.
    """
    order = np.argsort(collected.category, kind="stable")
    starts = np.searchsorted(collected.category[order], np.arange(seen_count + 1))
    intercepts, progress = np.empty(seen_count), Progress("fit", seen_count, "categories")
    for column in range(seen_count):
        some, there = order[starts[column] : starts[column + 1]], sources[column] != ABSENT
        columns = np.concatenate([[column], sources[column][there]])
        mean, deviation = collected.mean[columns], collected.deviation[columns]
        raw = np.concatenate([collected.own[some, None], collected.heard[some][:, there]], 1)
        features = np.concatenate([(raw - mean) / deviation, np.ones((len(some), 1))], 1)
        fitted = fit_category(features, collected.label[some].astype(np.float64), penalty)
        own[column], weights[column, there] = fitted[0] / deviation[0], fitted[1:-1] / deviation[1:]
        intercepts[column] = fitted[-1]
        bias[column] = fitted[-1] - (fitted[:-1] * mean / deviation).sum()
        progress.update(1)
    progress.close()
    return intercepts


def spread_of(
    sample: np.ndarray, sources: np.ndarray, own: np.ndarray, weights: np.ndarray, seen_count: int
) -> np.ndarray:
    """Standard deviation of the seen categories' logits [S] over a sample of images [n, C]."""
    logits = own[:seen_count] * sample[:, :seen_count]
    for source, weight in zip(sources[:seen_count].T, weights[:seen_count].T, strict=True):
        logits += weight * sample[:, source]
    return logits.std(0)


def readable(messages: Messages, vocabulary: Vocabulary) -> dict:
    """What every category hears, strongest first: {MID: [[MID, weight], …]}, the weights for scores
    as the model gives them.
    """
    found = {}
    for column, mid in enumerate(vocabulary.mids):
        pairs = zip(
            messages.sources[column].tolist(), messages.weights[column].tolist(), strict=True
        )
        heard = sorted((pair for pair in pairs if pair[1]), key=lambda pair: -abs(pair[1]))
        found[mid] = [[vocabulary.mids[source], weight] for source, weight in heard]
    return found
