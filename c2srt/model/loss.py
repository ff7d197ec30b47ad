"""Ranking loss (eq. 11, sign corrected) without pairs, and distillation (eq. 2).

Shapes: B images, C categories, D width, p positives of an image.
"""

import torch
from torch import Tensor

from c2srt.model.config import LossConfig


def ranking_loss(scores: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Per-image hinge over all (positive, negative) pairs: scores [B, C], labels [B, C] in −1/0/1 -> [B].

    Σ_{p,n} max(margin + s_n − s_p, 0) in O(C log p): an image's positives are sorted once, each negative finds by binary
    search how many of them it violates, and prefix sums give the rest. `violations` divides by the number of violating
    pairs + 1e-8. Images without a positive or without a negative contribute 0.
    """
    is_negative = labels != 1 if config.unverified == "negative" else labels == -1
    positives = int((labels == 1).sum(1).max()) if len(labels) else 0
    if positives == 0:
        return scores.sum(1) * 0
    infinity = torch.finfo(scores.dtype).max
    ascending = scores.masked_fill(labels != 1, infinity).topk(positives, largest=False, sorted=True).values
    shifted = scores + config.margin
    violated = torch.searchsorted(ascending.detach().contiguous(), shifted.detach().contiguous())
    prefix = torch.cat([scores.new_zeros(len(scores), 1), ascending.masked_fill(ascending >= infinity, 0).cumsum(1)], 1)
    hinge = (violated * shifted - prefix.gather(1, violated)) * is_negative
    if config.reduction == "sum":
        return hinge.sum(1)
    return hinge.sum(1) / ((violated * is_negative).sum(1) + 1e-8)


def pairwise_ranking_loss(scores: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """The literal twin of `ranking_loss`, image by image over the [p, n] matrix of pairs."""
    losses = []
    for image_scores, image_labels in zip(scores, labels):
        negative = image_labels != 1 if config.unverified == "negative" else image_labels == -1
        pairs = config.margin + image_scores[negative][None, :] - image_scores[image_labels == 1][:, None]
        hinge = pairs.clamp(min=0).sum() + 0 * image_scores.sum()
        losses.append(hinge if config.reduction == "sum" else hinge / ((pairs > 0).sum() + 1e-8))
    return torch.stack(losses)


def distillation_loss(features: Tensor, teacher: Tensor, config: LossConfig) -> Tensor:
    """Eq. 2 per image: raw global features [B, D] of student and teacher -> [B]."""
    distance = (features.float() - teacher.float()).abs()
    return distance.mean(1) if config.distillation_reduction == "mean" else distance.sum(1)
