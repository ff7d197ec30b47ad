"""Inter-category semantic transfer: GATv2 over a fixed-degree neighbour table (eq. 6-10, 19-23).

Shapes: B images, C categories, c categories of a chunk, D width, H heads, K neighbours (self-loop included), d = D / H.

One layer, for every category i and head m, over the neighbours j of i:
    s_j = W_source h_j,  t_i = W_target h_i                 (per-head slices of D × D projections)
    e_ij = a_m · LeakyReLU(t_i + s_j),  α_i = softmax_j(e_ij)          (eq. 20, 22)
    h'_i = [h_i +] ‖_m ELU(W_out^m Σ_j α_ij s_j)                       (eq. 23; W_out commutes with the sum)
This is PyG's GATv2Conv (lin_l = W_source, lin_r = W_target) followed by W_out, σ and the optional residual.

`GatLayer` runs it category chunk by category chunk, forward and backward, one neighbour slot at a time: no tensor of
[C, K, D] exists, and only h, s and α are kept for the backward.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.model.isr import softmax_dtype

NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class Weights:
    """One layer's parameters: source, target [D, D], attention [H, d], output [H, d, d]."""

    source: Tensor
    target: Tensor
    attention: Tensor
    output: Tensor


class GatLayer(torch.autograd.Function):
    """forward(h [B, C, D], source, target, attention, output, table [C, K], chunk, residual) -> [B, C, D].

    `table` holds rows of h, −1 where a neighbour is missing; a category without any neighbour aggregates zeros. Weight
    gradients accumulate in float32 or wider. On a CPU the backward is deterministic (rows are added in table order).
    """

    @staticmethod
    def forward(ctx, h, source, target, attention, output, table, chunk, residual):
        weights = Weights(source, target, attention, output)
        sources = F.linear(h, source)
        out, alphas = torch.empty_like(h), []
        for start in range(0, len(table), chunk):
            part = slice(start, start + chunk)
            alpha = attend(F.linear(h[:, part], target), sources, attention, table[part])
            mixed = mix(aggregate(alpha, sources, table[part]), output)
            out[:, part] = h[:, part] + F.elu(mixed) if residual else F.elu(mixed)
            alphas.append(alpha)
        ctx.save_for_backward(h, sources, torch.cat(alphas, 1), source, target, attention, output, table)
        ctx.chunk, ctx.residual = chunk, residual
        return out

    @staticmethod
    def backward(ctx, upstream):
        h, sources, alpha, *values, table = ctx.saved_tensors
        weights = Weights(*values)
        grad_h = upstream.clone() if ctx.residual else torch.zeros_like(h)
        grad_sources = torch.zeros_like(sources)
        sums = [torch.zeros_like(value, dtype=softmax_dtype(value.dtype)) for value in values]
        for start in range(0, len(table), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            backward_chunk(weights, h[:, part], sources, alpha[:, part], table[part], upstream[:, part], grad_h[:, part], grad_sources, sums)
        grad_h += grad_sources @ weights.source
        sums[0] += grad_sources.flatten(0, 1).T @ h.flatten(0, 1)
        return grad_h, *[total.to(value.dtype) for total, value in zip(sums, values)], None, None, None


def backward_chunk(weights: Weights, h: Tensor, sources: Tensor, alpha: Tensor, table: Tensor, upstream: Tensor, grad_h: Tensor,
                   grad_sources: Tensor, sums: list[Tensor]) -> None:
    """Adds one chunk's gradients to grad_h [B, c, D], grad_sources [B, C, D] and the weights' sums, in place."""
    _, grad_target_weight, grad_attention, grad_output = sums
    aggregated = aggregate(alpha, sources, table)
    mixed = mix(aggregated, weights.output)
    grad_mixed = upstream * torch.where(mixed > 0, 1, mixed.exp())  # ELU': 1 above zero, exp below
    by_head = split_heads(grad_mixed, weights.output)
    grad_output += torch.einsum("bchd,bche->hde", by_head, split_heads(aggregated, weights.output))
    grad_aggregated = torch.einsum("bchd,hde->bche", by_head, weights.output).flatten(2)

    slots = range(table.shape[1])
    grad_alpha = torch.stack([head_dot(grad_aggregated, neighbours(sources, table, k), weights.attention) for k in slots], 2).to(alpha.dtype)
    grad_logits = alpha * (grad_alpha - (alpha * grad_alpha).sum(2, keepdim=True))
    target, grad_target = F.linear(h, weights.target), torch.zeros_like(grad_aggregated)
    for k in slots:
        before = target + neighbours(sources, table, k)
        grad_logit = grad_logits[:, :, k].to(h.dtype)
        grad_attention += torch.einsum("bch,bchd->hd", grad_logit, split_heads(F.leaky_relu(before, NEGATIVE_SLOPE), weights.attention))
        grad_before = (grad_logit[..., None] * weights.attention).flatten(2) * torch.where(before > 0, 1, NEGATIVE_SLOPE).to(h.dtype)
        grad_target += grad_before
        grad_sources.index_add_(1, table[:, k].clamp(min=0), spread(alpha[:, :, k], grad_aggregated) + grad_before)
    grad_h += grad_target @ weights.target
    grad_target_weight += grad_target.flatten(0, 1).T @ h.flatten(0, 1)


def attend(target: Tensor, sources: Tensor, attention: Tensor, table: Tensor) -> Tensor:
    """α [B, c, K, H] in float32 or wider: target [B, c, D], sources [B, C, D], attention [H, d], table [c, K]."""
    slots = range(table.shape[1])
    logits = torch.stack([head_dot(F.leaky_relu(target + neighbours(sources, table, k), NEGATIVE_SLOPE), attention.flatten(), attention) for k in slots], 2)
    present = (table >= 0)[None, :, :, None]
    logits = logits.to(softmax_dtype(logits.dtype))
    return logits.masked_fill(~present, torch.finfo(logits.dtype).min).softmax(2) * present


def aggregate(alpha: Tensor, sources: Tensor, table: Tensor) -> Tensor:
    """Σ_j α_ij s_j: alpha [B, c, K, H] -> [B, c, D]."""
    total = spread(alpha[:, :, 0], neighbours(sources, table, 0))
    for k in range(1, table.shape[1]):
        total += spread(alpha[:, :, k], neighbours(sources, table, k))
    return total


def mix(aggregated: Tensor, output: Tensor) -> Tensor:
    """W_out^m on every head's slice: [B, c, D] with output [H, d, d] -> [B, c, D]."""
    return torch.einsum("bche,hde->bchd", split_heads(aggregated, output), output).flatten(2)


def neighbours(sources: Tensor, table: Tensor, slot: int) -> Tensor:
    """The rows of `sources` [B, C, D] in one slot of the table -> [B, c, D]; a missing neighbour gives row 0, which α mutes."""
    return sources.index_select(1, table[:, slot].clamp(min=0))


def spread(by_head: Tensor, rows: Tensor) -> Tensor:
    """Multiplies every head's slice of rows [B, c, D] by its own factor by_head [B, c, H]."""
    return (by_head.to(rows.dtype)[..., None] * split_heads(rows, by_head[0, 0])).flatten(2)


def head_dot(left: Tensor, right: Tensor, like: Tensor) -> Tensor:
    """Sum of products over every head's slice: [B, c, D] · [(B, c,) D] -> [B, c, H]."""
    return split_heads(left * right, like).sum(-1)


def split_heads(rows: Tensor, like: Tensor) -> Tensor:
    """[B, c, D] -> [B, c, H, d] with H = len(like)."""
    return rows.unflatten(-1, (len(like), -1))


def with_self_loops(table: Tensor, self_loops: bool) -> Tensor:
    """[C, K] neighbour table -> [C, K + 1] with the category itself in front, or unchanged."""
    if not self_loops:
        return table
    return torch.cat([torch.arange(len(table), device=table.device)[:, None], table], 1)


def cosine_scores(h: Tensor, text: Tensor, scale: float) -> Tensor:
    """Eq. 10 times the score scale: node features [B, c, D] and unit text features [c, D] -> [B, c] in float32 or wider."""
    wide = softmax_dtype(h.dtype)
    dot = torch.einsum("bcd,cd->bc", h, text.to(h.dtype)).to(wide)
    return scale * dot / h.to(wide).norm(dim=-1).clamp(min=1e-12)
