"""Scores that are the mean of a category's best rows: the products [B, R, C] are never held whole,
in neither direction.

Rows are patches (MKT, BiAM: the best 16 or 6 of P), attended features (LESA), rows of a matrix
(ZS-SDL) or queries (QKS: the best one). The chosen places [B, count, C] are kept, two bytes each;
products and the gradient's choice are made for as many categories at a time as the budget holds.

Shapes: B images, R rows of an image, D width, C categories.
"""

import torch
from torch import Tensor

BYTES = 12
"""Of one product and what topk and scatter hold beside it, in float32: 5 measured on a CPU, and
room for a copy elsewhere.
"""


def top_mean(rows: Tensor, classes: Tensor, count: int, budget: int) -> Tensor:
    """rows [B, R, D], classes [C, D] -> scores [B, C] in float32 or wider: the mean of the `count`
    best products ⟨row, class⟩.

    Fewer rows than `count` are all taken. `budget` bounds, in bytes, what is held besides
    arguments, scores and gradients.
    """
    part = max(1, min(len(classes), budget // max(1, BYTES * rows.shape[0] * rows.shape[1])))
    return TopMean.apply(rows, classes, min(count, rows.shape[1]), part)


class TopMean(torch.autograd.Function):
    """`top_mean` for `part` categories at a time; a choice has no gradient, the chosen products
    share the score's.
    """

    @staticmethod
    def forward(ctx, rows, classes, count, part):
        scores, places = [], []
        for some in classes.split(part):
            products, where = (rows @ some.T).topk(count, dim=1)
            scores.append(products.to(wide(products)).mean(1))
            places.append(where.to(torch.int16))
        ctx.save_for_backward(rows, classes, torch.cat(places, 2))
        ctx.part = part
        return torch.cat(scores, 1)

    @staticmethod
    def backward(ctx, upstream):
        rows, classes, places = ctx.saved_tensors
        compute = wide(rows)
        of_rows, of_classes = torch.zeros_like(rows, dtype=compute), []
        parts = zip(
            upstream.split(ctx.part, 1),
            classes.split(ctx.part),
            places.split(ctx.part, 2),
            strict=True,
        )
        for share, some, where in parts:
            share = (share / where.shape[1])[:, None].expand(-1, where.shape[1], -1)
            chosen = (
                share.new_zeros(len(rows), rows.shape[1], len(some))
                .scatter_(1, where.long(), share)
                .to(rows.dtype)
            )
            if ctx.needs_input_grad[0]:
                of_rows += chosen @ some
            if ctx.needs_input_grad[1]:
                of_classes.append(chosen.flatten(0, 1).T @ rows.flatten(0, 1))
        return of_rows.to(rows.dtype), torch.cat(of_classes) if of_classes else None, None, None


def wide(tensor: Tensor) -> torch.dtype:
    """float32 for 16-bit types, else the tensor's own."""
    return torch.promote_types(tensor.dtype, torch.float32)
