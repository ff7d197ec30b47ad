"""Where in a picture a label is: which patches speak for it.

What the ISR compares, the last block's patch features with the label's text, says little of places:
in the last block every patch has read all others, and patches of the ground often carry the label
(on the miniature's drawings the best patch of that map lies on the object in 35 of 100). So the
score itself is shared out among the pixels: with the ISR's pooling A of the picture x, held fixed,

    s(x) = cos((A · F(x) + f_G(x)) / 2, t) − its mean over the vocabulary's t,
    map_p = Σ over the pixels i of patch p of (x_i − x̄_i) · mean over k of ∂s/∂x_i (x_k),
    x_k = x̄ + (k − ½) / STEPS · (x − x̄), k = 1 … STEPS,

integrated gradients (Sundararajan et al. 2017) from x̄, the picture's mean colour: Σ_p map_p is
about s(x) − s(x̄). A model without ISR has f_G alone in the place of the mean, and a CLIP without
a vocabulary no mean to take away.

Shapes: P = rows × columns patches, S pixels a side, D joint width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.model.isr import assignment

STEPS = 8
"""With 24 the best patch is the same in 97 of 100 drawings of the miniature."""
SHARE = 0.5
"""Of what speaks for a label: as many patches as have that much of it are its place."""


@dataclass(frozen=True)
class Pooling:
    """How the ISR chooses patches for a category (c2srt/model/isr.py)."""

    scale: float
    threshold: float
    most: int


@dataclass(frozen=True)
class Box:
    """Part of a picture, in its pixels once it is upright; `share` of what speaks for the label is
    in it.
    """

    left: int
    top: int
    right: int
    bottom: int
    share: float


@dataclass(frozen=True)
class PatchScores:
    """`scores` float32 [rows, columns]: what each patch adds to the label's cosine, negative where
    it speaks against it. The grid covers `area` of the picture, (left, top, right, bottom) in its
    pixels: the centred square.
    """

    scores: np.ndarray
    area: tuple[float, float, float, float]

    @property
    def chosen(self) -> np.ndarray:
        """bool [rows, columns]: the fewest patches that have SHARE of all that is positive."""
        positive = self.scores.clip(0).ravel()
        order = np.argsort(-positive, kind="stable")
        before = np.cumsum(positive[order]) - positive[order]
        chosen = np.zeros(len(positive), bool)
        chosen[order] = (before < SHARE * positive.sum()) & (positive[order] > 0)
        return chosen.reshape(self.scores.shape)

    def boxes(self) -> list[Box]:
        """A box round each group of chosen patches that touch by a side, best first."""
        left, top, right, bottom = self.area
        rows, columns = self.scores.shape
        across, down = (right - left) / columns, (bottom - top) / rows
        found, total = [], self.scores.clip(0).sum()
        for group in groups(self.chosen):
            row, column = np.array(group).T
            found.append(
                Box(
                    round(left + across * int(column.min())),
                    round(top + down * int(row.min())),
                    round(left + across * (int(column.max()) + 1)),
                    round(top + down * (int(row.max()) + 1)),
                    float(self.scores[row, column].sum() / total),
                )
            )
        return sorted(found, key=lambda box: -box.share)


def groups(chosen: np.ndarray) -> list[list[tuple[int, int]]]:
    """The places [row, column] that are chosen, those together that touch by a side."""
    left = {(int(row), int(column)) for row, column in np.argwhere(chosen)}
    found = []
    while left:
        group = [left.pop()]
        for row, column in group:  # which grows meanwhile
            beside = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)}
            group += sorted(beside & left)
            left -= beside
        found.append(group)
    return found


def patch_map(
    tower: Callable[[Tensor], tuple[Tensor, Tensor]],
    picture: Tensor,
    text: Tensor,
    common: Tensor | None,
    pooling: Pooling | None,
    grid: tuple[int, int],
) -> np.ndarray:
    """map_p, float32 [rows, columns], of a normalised picture [3, S, S]: text [D] a unit row,
    `common` [D] the vocabulary's mean text feature.
    """
    picture = picture.detach()
    mean = picture.mean((1, 2), keepdim=True)
    rise = (torch.arange(STEPS, device=picture.device) + 0.5) / STEPS
    way = mean + rise.to(picture.dtype)[:, None, None, None] * (picture - mean)
    with torch.enable_grad():
        way.requires_grad_(True)
        patches, global_ = tower(way)
        feature = pooled(patches, global_, text, pooling).float()
        direction = text if common is None else text - common
        total = (F.normalize(feature, dim=-1) @ direction.float()).sum()
        (gradient,) = torch.autograd.grad(total, way)
    values = (gradient.float().mean(0) * (picture - mean).float()).sum(0)
    return (
        F.adaptive_avg_pool2d(values[None], grid)[0]
        .mul(values.numel() / (grid[0] * grid[1]))
        .cpu()
        .numpy()
    )


def pooled(patches: Tensor, global_: Tensor, text: Tensor, pooling: Pooling | None) -> Tensor:
    """The label's image feature (sec. 3.3) [n, D]: (A · F + f_G) / 2, or f_G without an ISR."""
    if pooling is None:
        return global_
    chosen = assignment(
        patches.detach(),
        text[None].to(patches.dtype),
        pooling.scale,
        pooling.threshold,
        pooling.most,
        False,
    )
    return (torch.bmm(chosen, patches)[:, 0] + global_) / 2


def area_of(height: int, width: int, size: int) -> tuple[float, float, float, float]:
    """The part of a picture that `c2srt.views.centre_pixels` shows, in the picture's pixels."""
    short = min(height, width)
    tall, wide = int(size * height / short), int(size * width / short)
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    across, down = width / wide, height / tall
    return left * across, top * down, (left + size) * across, (top + size) * down
