"""Ranking loss (eq. 11, sign corrected) without pairs, and distillation (eq. 2).

Shapes: B images, C categories, D width, p positives of an image.
"""

import torch
from torch import Tensor

from c2srt.model.ahead import runs_ahead
from c2srt.model.config import DistillationReduction, LossConfig, Reduction, Unverified
from c2srt.model.isr import softmax_dtype


def negatives(labels: Tensor, config: LossConfig) -> Tensor:
    """Which categories count as absent: labels in −1/0/1 -> bool of their shape."""
    return labels != 1 if config.unverified == Unverified.NEGATIVE else labels == -1


def ranking_loss(scores: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Per-image hinge over all (positive, negative) pairs: scores [B, C], labels [B, C] in −1/0/1
    -> [B].

    Σ_{p,n} max(margin + s_n − s_p, 0); `violations` divides by the number of violating pairs +
    1e-8. Images without a positive or without a negative contribute 0.
    """
    return Hinges.apply(scores, labels, config)


class Hinges(torch.autograd.Function):
    """`ranking_loss` and its gradient in O(C log p): an image's positives are sorted once, and each
    negative finds by binary search how many of them it violates. That number is the negative's
    gradient; how many negatives reach at least the r-th positive is the positive's, with a minus;
    and the loss is their sum over scores and margins.
    """

    @staticmethod
    def forward(ctx, scores, labels, config):
        loss, gradient = hinges(scores, labels, config)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        return upstream[:, None] * ctx.saved_tensors[0], None, None


@torch.no_grad()
def hinges(
    scores: Tensor, labels: Tensor, config: LossConfig, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`ranking_loss` [B], times weights [B] where there are any, and the gradient [B, C] of each
    image's.
    """
    absent, margin, count = labels != 1, config.margin, softmax_dtype(scores.dtype)
    negative = absent if config.unverified == Unverified.NEGATIVE else labels == -1
    ascending, order = scores.masked_fill(absent, torch.inf).topk(
        most_positives(absent), largest=False, sorted=True
    )
    # of a negative: its violated positives are the lowest
    violated = torch.searchsorted(ascending, scores + margin) * negative
    reached = scores.new_zeros(len(scores), ascending.shape[1] + 1, dtype=count).scatter_add_(
        1, violated, torch.ones_like(scores, dtype=count)
    )
    up_to = reached.cumsum(1)
    lost = (
        up_to[:, :-1] - up_to[:, -1:]
    )  # of the r-th positive: −negatives that violate more than r
    gradient = violated.to(scores.dtype).scatter_add_(1, order, lost.to(scores.dtype))
    pairs = violated.sum(1, dtype=torch.float64)
    # the pairs' differences do not feel the centre, and rounding does
    centred = scores - scores.mean(1, keepdim=True)
    total = (centred * gradient).sum(1, dtype=torch.float64).add(pairs, alpha=margin)
    if config.reduction == Reduction.VIOLATIONS:
        weights = (1 if weights is None else weights) / (pairs + 1e-8)
    if weights is not None:
        total, gradient = total * weights, gradient.mul_(weights.to(scores.dtype)[:, None])
    return total.to(scores.dtype), gradient


def most_positives(absent: Tensor) -> int:
    """How many lowest positives an image may need, of what is no positive [B, C]: on a CPU the most
    that one has. Elsewhere all categories are sorted, some microseconds, and the host does not
    wait.
    """
    if runs_ahead(absent.device):
        return absent.shape[1]
    return absent.shape[1] - int(absent.sum(1).min()) if len(absent) else 0


def pairwise_ranking_loss(scores: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """The literal twin of `ranking_loss`, image by image over the [p, n] matrix of pairs.

    A pair exactly at the margin violates nothing: its hinge and its gradient are 0, as
    `ranking_loss` counts. Written as a product, since the gradient of `clamp` at its bound is 0 in
    some versions of torch and 1 in others.
    """
    losses = []
    for image_scores, image_labels in zip(scores, labels, strict=True):
        negative = negatives(image_labels, config)
        pairs = (
            config.margin
            + image_scores[negative][None, :]
            - image_scores[image_labels == 1][:, None]
        )
        hinge = (pairs * (pairs > 0)).sum() + 0 * image_scores.sum()
        losses.append(
            hinge
            if config.reduction == Reduction.SUM
            else hinge / ((pairs > 0).sum().to(hinge.dtype) + 1e-8)
        )
    return torch.stack(losses)


def distillation_loss(features: Tensor, teacher: Tensor, config: LossConfig) -> Tensor:
    """Eq. 2 per image: raw global features [B, D] of student and teacher -> [B]."""
    distance = (features.float() - teacher.float()).abs()
    mean = config.distillation_reduction == DistillationReduction.MEAN
    return distance.mean(1) if mean else distance.sum(1)
