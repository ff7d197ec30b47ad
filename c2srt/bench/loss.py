"""`c2srt bench loss`: the ranking loss against the [B, C, C] form and against a loop over the
positives.
"""

from functools import partial

import torch
from torch import Tensor

from c2srt.bench.config import Config
from c2srt.bench.sizes import LOSS
from c2srt.model.loss import ranking_loss
from c2srt.profiling import Side, device_of

PAIRS, LOOP = 2, 64
"""Batch of the [B, C, C] form (at 8 it no longer fits most machines), and positives of the loop's
images.
"""


def loss(config: Config) -> list[Side]:
    """Value and gradient of the same loss on the same scores."""
    torch.manual_seed(config.seed)
    scores = (
        torch.randn(PAIRS, config.categories, device=device_of(config.device))
        .mul_(4)
        .requires_grad_()
    )
    few, many = (positives(config, count) for count in (config.present, LOOP))
    return [
        Side(
            f"all pairs [B, C, C], {config.present} positives",
            partial(step, all_pairs, scores, few),
            PAIRS,
            baseline=True,
        ),
        Side(
            f"sorted positives, {config.present} positives",
            partial(step, sorted_positives, scores, few),
            PAIRS,
        ),
        Side(
            f"loop over positives, {LOOP} positives",
            partial(step, loop, scores, many),
            PAIRS,
            baseline=True,
        ),
        Side(
            f"sorted positives, {LOOP} positives",
            partial(step, sorted_positives, scores, many),
            PAIRS,
        ),
    ]


def positives(config: Config, count: int) -> Tensor:
    """bool [B, C]."""
    order = torch.rand(PAIRS, config.categories, device=device_of(config.device)).argsort(1)
    return order < count


def step(form, scores: Tensor, positive: Tensor) -> Tensor:
    scores.grad = None
    value = form(scores, positive)
    value.backward()
    return value


def sorted_positives(scores: Tensor, positive: Tensor) -> Tensor:
    return ranking_loss(scores, positive.to(torch.int8), LOSS).mean()


def all_pairs(scores: Tensor, positive: Tensor) -> Tensor:
    """MKT's form: every pair of categories, those that are no (positive, negative) pair masked
    out.
    """
    hinge = (LOSS.margin + scores[:, None, :] - scores[:, :, None]).clamp(min=0)
    hinge = hinge * (positive[:, :, None] & ~positive[:, None, :])
    return (hinge.sum((1, 2)) / ((hinge > 0).sum((1, 2)) + 1e-8)).mean()


def loop(scores: Tensor, positive: Tensor) -> Tensor:
    """One positive after the other against all negatives of its image."""
    total = scores.new_zeros(())
    for row, chosen in zip(scores, positive, strict=True):
        negatives = row[~chosen]
        hinges = [(LOSS.margin + negatives - value).clamp(min=0) for value in row[chosen]]
        total = total + sum(hinge.sum() for hinge in hinges) / (
            sum((hinge > 0).sum() for hinge in hinges) + 1e-8
        )
    return total / len(scores)
