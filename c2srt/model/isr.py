"""Intra-category semantic refinement: which patches speak of a category (sec. 3.3, algorithm 1).

Shapes: B images, P patches, C categories, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def assignment(patches: Tensor, text: Tensor, scale: float, threshold: float, max_patches: int, weighted: bool) -> Tensor:
    """The pooling matrix A [B, C, P] with f_L = A · F_p: row c holds 1/n at the n patches chosen for category c.

    patches [B, P, D] raw, text [C, D] unit rows. The n best patches by softmax(scale · cosine) are taken, n the
    smallest number whose scores sum to `threshold`, at most `max_patches`. With `weighted`, the chosen patches' softmax
    scores, renormalised, stand in place of 1/n. The choice is discrete, so A carries no gradient.
    """
    cosine = F.normalize(patches, dim=-1) @ text.T.to(patches.dtype)
    scores = (scale * cosine.transpose(1, 2).to(softmax_dtype(cosine.dtype))).softmax(-1)
    best, index = scores.topk(min(max_patches, scores.shape[-1]), dim=-1)
    before = best.cumsum(-1) - best
    weights = (before < threshold) * (best if weighted else torch.ones_like(best))
    weights /= weights.sum(-1, keepdim=True)
    return torch.zeros_like(scores).scatter_(-1, index, weights).to(patches.dtype)


def softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """Softmax and sums in float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def count_patches(pooling: Tensor) -> Tensor:
    """n [B, C]: how many patches each category took."""
    return (pooling > 0).sum(-1)
