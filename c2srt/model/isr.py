"""Intra-category semantic refinement: which patches speak of a category (sec. 3.3, algorithm 1).

Shapes: B images, P patches, C categories, D width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.model import kernels
from c2srt.model.ahead import runs_ahead


@torch.no_grad()
def assignment(
    patches: Tensor, text: Tensor, scale: float, threshold: float, max_patches: int, weighted: bool
) -> Tensor:
    """The pooling matrix A [B, C, P] with f_L = A · F_p: row c holds 1/n at the n patches chosen
    for category c.

    patches [B, P, D] raw, text [C, D] (or [B, C, D]) unit rows. The n best patches by softmax(scale
    · cosine) are taken, n the smallest number whose scores sum to `threshold`, at most
    `max_patches`. With `weighted`, the chosen patches' softmax scores, renormalised, stand in place
    of 1/n. The choice is discrete, so A carries no gradient.
    """
    if kernels.supported(patches):
        return kernels.assignment(patches, text, scale, threshold, max_patches, weighted)
    cosine = torch.bmm(
        text.to(patches.dtype).expand(patches.shape[0], -1, -1),
        F.normalize(patches, dim=-1).transpose(1, 2),
    )
    scores = cosine.to(softmax_dtype(cosine.dtype)).mul_(scale).softmax(-1)
    most = min(max_patches, scores.shape[-1])
    best, index = largest(scores, most)
    taken = best.cumsum(-1).sub_(best) < threshold
    count = taken.sum(-1, keepdim=True)
    last = best.gather(-1, (count - 1).clamp(min=0))  # a NaN image takes none and becomes 0 / 0
    chosen = scores >= last
    # a traced program cannot ask what values are, a GPU need not: they take the general way
    general = torch.compiler.is_exporting() or runs_ahead(patches.device)
    if general or not torch.equal(
        chosen.sum(-1, keepdim=True), count
    ):  # equal scores at the border, or NaN: exactly the first n
        index = scores.topk(most, dim=-1).indices if index is None else index
        chosen = torch.zeros_like(chosen).scatter_(-1, index, taken)
    if not weighted:
        return (chosen.to(scores.dtype) / count).to(patches.dtype)
    weights = scores.mul_(chosen)
    return weights.div_(weights.sum(-1, keepdim=True)).to(patches.dtype)


def largest(scores: Tensor, most: int) -> tuple[Tensor, Tensor | None]:
    """The `most` largest scores of a row, largest (or NaN) first, [..., P] -> [..., most], and
    where they stand, if that is known: on a CPU numpy sorts whole rows in vector registers, in a
    tenth to a third of topk's time.
    """
    if scores.device.type != "cpu" or torch.compiler.is_exporting():
        best, index = scores.topk(most, dim=-1)
        return best, index
    ascending = torch.from_numpy(np.sort(scores.numpy(), axis=-1))
    return ascending[..., scores.shape[-1] - most :].flip(-1), None


def check_pooling(pooling: Tensor) -> None:
    """Raises AssertionError unless every row of A [..., P] sums to 1, within what 16 bits round;
    rows of NaN, an image's that is not finite, pass. Whatever else pools (a maximum, a plain sum)
    must not be folded: see c2srt/model/pool.py.
    """
    off = (pooling.sum(-1, dtype=softmax_dtype(pooling.dtype)) - 1).abs() > 0.02
    assert not off.any(), "a category's pooling weights do not sum to 1"


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float16 is computed in float32, whose gradients do not underflow."""
    return torch.float32 if dtype == torch.float16 else dtype


def softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """Softmax and sums in float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def count_patches(pooling: Tensor) -> Tensor:
    """n [B, C]: how many patches each category took."""
    return (pooling > 0).sum(-1)
