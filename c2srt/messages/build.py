"""From collected scores to `Messages`: one fit a seen category, one rule for the unseen ones.

Fits are made of standardised scores; what is kept applies to the scores as the model gives them. An
unseen category's neighbours are heard by their logits, which have heard others themselves: one that
can be told well varies more, and so says more. Letters: C categories, S seen, U unseen, E sources,
K neighbours.
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
    collected: Collected, sources: np.ndarray, neighbours: np.ndarray, config: Config
) -> Messages:
    """The messages of all categories, from `sources` [S, E], those that were collected, and
    `neighbours` [U, K].
    """
    seen, categories = len(sources), len(sources) + len(neighbours)
    own, bias, weights = np.zeros(categories), np.zeros(categories), np.zeros(sources.shape)
    intercepts = fit_seen(collected, sources, config.penalty, own, weights, bias)
    logits = logits_of_seen(collected.sample, sources, own, weights, bias)
    level, spread = float(np.median(intercepts)), float(np.median(logits.std(0)))
    standard = spread / collected.deviation
    there = neighbours != ABSENT
    alone = standard[seen:] * np.where(there.any(1), config.unseen_own, 1)
    share = there / np.maximum(there.sum(1), 1)[:, None]
    heard = (logits[:, np.where(there, neighbours, 0)] * share).sum(2)
    mixed = heard + alone * (collected.sample[:, seen:] - collected.mean[seen:])
    scale = spread / (mixed.std(0) + 1e-12)
    own[seen:] = scale * alone
    bias[seen:] = level - scale * mixed.mean(0) - own[seen:] * collected.mean[seen:]
    middle = spread / np.median(collected.deviation)
    new = [middle, level - middle * np.median(collected.mean)]
    return Messages(
        torch.from_numpy(np.where(sources == ABSENT, 0, sources)),
        torch.tensor(weights, dtype=torch.float32),
        torch.from_numpy(np.where(there, neighbours, 0)),
        *(
            torch.tensor(each, dtype=torch.float32)
            for each in (scale[:, None] * share, own, bias, new)
        ),
    )


def fit_seen(
    collected: Collected,
    sources: np.ndarray,
    penalty: float,
    own: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
) -> np.ndarray:
    """Fills in what applies to the seen categories' raw scores, and returns the intercepts [S] for
    standardised ones: the mean logits over images.
    """
    seen_count, order = len(sources), np.argsort(collected.category, kind="stable")
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


def logits_of_seen(
    sample: np.ndarray, sources: np.ndarray, own: np.ndarray, weights: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """The seen categories' logits [n, S] of a sample of images' scores [n, C]."""
    seen = len(sources)
    logits = own[:seen] * sample[:, :seen] + bias[:seen]
    for source, weight in zip(sources.T, weights.T, strict=True):
        logits += weight * sample[:, source]
    return logits


def readable(messages: Messages, vocabulary: Vocabulary) -> dict:
    """What every category hears, strongest first: {MID: [[MID, weight], …]}, a seen one of scores
    as the model gives them, an unseen one of logits.
    """
    found = {}
    rows = [*zip(messages.sources, messages.weights, strict=True)]
    rows += zip(messages.neighbours, messages.shares, strict=True)
    for mid, (columns, weights) in zip(vocabulary.mids, rows, strict=True):
        pairs = zip(columns.tolist(), weights.tolist(), strict=True)
        heard = sorted((pair for pair in pairs if pair[1]), key=lambda pair: -abs(pair[1]))
        found[mid] = [[vocabulary.mids[column], weight] for column, weight in heard]
    return found
