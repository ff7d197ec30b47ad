"""RAM's matching of patches to categories by entropic optimal transport (Tan et al. 2025; code
EricTan7/RAM, model/model.py, model/ot_solver.py), image by image.

Patches p and categories c of cosine s_pc. Cost of a match: M_pc = 1 − softmax_c(κ s_p)_c, κ being
CLIP's logit scale. What patch p has to give is u_p = softmax_p(max_c s_pc / 0.1), so that patches
in which nothing is found give little; every category takes 1 / C. The plan T = argmin ⟨T, M⟩ − ε
H(T) is diag(r) K diag(c) with K = exp(−M / ε), and r, c from Sinkhorn's iteration.

In training the frozen CLIP's knowledge is added: M − λ log Q, and ε + λ for ε, where Q_pc =
softmax_p(20 softmax_c(κ s′_p)_c) of the frozen CLIP's own patches for the positives, and the
image's least Q for all others. The plan has no gradient; a category's score is its plan's mean of
s_pc.

Shapes: B images, P patches, C categories, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from c2srt.model.baselines.top import wide

PRESENCE, SHARPNESS = 0.1, 20
"""The temperature of u, and what the frozen CLIP's probabilities are multiplied by in Q."""
ITERATIONS, STILL = 100, 1e-3
"""Sinkhorn's most iterations, and the mean change of r at which an image has enough of them."""
HELD = 5
"""[P, C] of an image that are held at a time."""


@dataclass(frozen=True)
class Transport:
    """What a plan is made by."""

    scale: float
    """κ."""
    entropy: float
    """ε."""
    knowledge: float
    """λ."""


@dataclass(frozen=True)
class Knowledge:
    """What the frozen CLIP and the labels say of some images."""

    patches: Tensor
    """The frozen CLIP's [B, P, D], of unit length."""
    positive: Tensor
    """bool [B, C]."""


def transported(
    patches: Tensor,
    classes: Tensor,
    transport: Transport,
    budget: int,
    knowledge: Knowledge | None = None,
) -> Tensor:
    """patches [B, P, D] and classes [C, D], both of unit length -> scores [B, C] in float32 or
    wider: Σ_p T_pc s_pc / Σ_p T_pc. `knowledge`: in training. The classes get no gradient.

    `budget` bounds, in bytes, what is held besides arguments, scores and gradients; an image at a
    time is held whatever it is.
    """
    image = HELD * wide(patches).itemsize * patches.shape[1] * len(classes)
    part = max(1, min(len(patches), budget // max(1, image)))
    given = (knowledge.patches, knowledge.positive) if knowledge else (None, None)
    return Transported.apply(patches, classes, *given, transport, part)


class Transported(torch.autograd.Function):
    """`transported` for `part` images at a time. Of the plans only r and c are kept."""

    @staticmethod
    def forward(ctx, patches, classes, teacher, positive, transport, part):
        found = [
            scored(patches[images], classes, transport, knowledge_of(teacher, positive, images))
            for images in range_of(len(patches), part)
        ]
        scores, rows, columns = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(patches, classes, teacher, positive, rows, columns)
        ctx.transport, ctx.part = transport, part
        return scores

    @staticmethod
    def backward(ctx, upstream):
        patches, classes, teacher, positive, rows, columns = ctx.saved_tensors
        gradient = torch.empty_like(patches)
        for images in range_of(len(patches), ctx.part):
            knowledge = knowledge_of(teacher, positive, images)
            kernel = kernel_of(
                products(patches[images], classes), classes, ctx.transport, knowledge
            )
            plan = plan_of(kernel, rows[images], columns[images])
            plan.mul_((upstream[images] / plan.sum(1))[:, None])
            gradient[images] = plan.to(patches.dtype) @ classes
            del kernel, plan  # before the next ones are made
        return gradient, None, None, None, None, None


def scored(
    patches: Tensor, classes: Tensor, transport: Transport, knowledge: Knowledge | None
) -> tuple[Tensor, Tensor, Tensor]:
    """patches [B, P, D], classes [C, D] -> scores [B, C], r [B, P], c [B, C]."""
    cosines = products(patches, classes)
    kernel = kernel_of(cosines, classes, transport, knowledge)
    row, column = sinkhorn(kernel, presence(cosines))
    return mean_by(plan_of(kernel, row, column), cosines), row, column


def range_of(count: int, part: int) -> list[slice]:
    """The slices of `part` that cover `count`."""
    return [slice(start, start + part) for start in range(0, count, part)]


def knowledge_of(
    teacher: Tensor | None, positive: Tensor | None, images: slice
) -> Knowledge | None:
    if teacher is None or positive is None:
        return None
    return Knowledge(teacher[images], positive[images])


def products(patches: Tensor, classes: Tensor) -> Tensor:
    """[B, P, D], [C, D] -> [B, P, C] in float32 or wider."""
    return (patches @ classes.T).to(wide(patches))


def presence(cosines: Tensor) -> Tensor:
    """What each patch has to give: [B, P, C] -> [B, P], of sum 1."""
    return (cosines.amax(2) / PRESENCE).softmax(1)


def kernel_of(
    cosines: Tensor, classes: Tensor, transport: Transport, knowledge: Knowledge | None
) -> Tensor:
    """K [B, P, C] of cosines [B, P, C]."""
    exponent = (transport.scale * cosines).softmax(2).sub_(1)
    entropy = transport.entropy
    if knowledge is not None:
        told = knowledge_log(products(knowledge.patches, classes), transport, knowledge.positive)
        exponent += told.mul_(transport.knowledge)
        entropy += transport.knowledge
    return exponent.div_(entropy).exp_()


def knowledge_log(cosines: Tensor, transport: Transport, positive: Tensor) -> Tensor:
    """log Q [B, P, C] of the frozen CLIP's cosines [B, P, C]."""
    told = (SHARPNESS * (transport.scale * cosines).softmax(2)).log_softmax(1)
    return torch.where(positive[:, None], told, told.amin((1, 2), keepdim=True))


def sinkhorn(kernel: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """K [B, P, C] and the sums [B, P] of the plan's rows -> (r [B, P], c [B, C]): diag(r) K diag(c)
    has the columns' sums 1 / C, and nearly those of its rows.

    Each image goes on until its own r is still, so that no other one changes its plan.
    """
    row, column = torch.ones_like(rows), kernel.new_ones(len(kernel), kernel.shape[2])
    going = torch.ones(len(kernel), 1, dtype=torch.bool, device=kernel.device)
    for _ in range(ITERATIONS):
        further = rows / (kernel @ column[:, :, None])[:, :, 0]
        sums = (further[:, None] @ kernel)[:, 0] * kernel.shape[2]
        change = (further - row).abs().mean(1, keepdim=True)
        row, column = torch.where(going, further, row), torch.where(going, 1 / sums, column)
        going = going & (change >= STILL)
        if not going.any():
            break
    return row, column


def plan_of(kernel: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """diag(r) K diag(c) [B, P, C]; it takes the kernel's place."""
    return kernel.mul_(row[:, :, None]).mul_(column[:, None])


def mean_by(plan: Tensor, cosines: Tensor) -> Tensor:
    """Σ_p T_pc s_pc / Σ_p T_pc of [B, P, C] each -> [B, C]."""
    return (plan * cosines).sum(1) / plan.sum(1)
