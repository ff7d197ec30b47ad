"""Inter-category semantic transfer: GATv2 over a fixed-degree neighbour table (eq. 6-10, 19-23).

Shapes: B images, C categories, D width, H heads, K neighbours (self-loop included), d = D / H.

One layer, for every category i and head m, over the neighbours j of i:
    s_j = W_source h_j,  t_i = W_target h_i                 (per-head slices of D × D projections)
    e_ij = a_m · LeakyReLU(t_i + s_j),  α_i = softmax_j(e_ij)          (eq. 20, 22)
    h'_i = [h_i +] ‖_m ELU(W_out^m Σ_j α_ij s_j)                       (eq. 23; W_out commutes with the sum)
This is PyG's GATv2Conv (lin_l = W_source, lin_r = W_target) followed by W_out, σ and the optional residual.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.model.isr import softmax_dtype

NEGATIVE_SLOPE = 0.2


def attend(target: Tensor, source: Tensor, attention: Tensor, table: Tensor) -> Tensor:
    """Aggregates neighbours: target [B, c, D] of c categories, source [B, C, D] of all, table [c, K] rows of `source`
    (−1: absent), attention [H, d] -> [B, c, D]. A category without any neighbour gets zeros."""
    batch, chunk, width = target.shape
    heads = attention.shape[0]
    present = table >= 0
    neighbours = source.index_select(1, table.clamp(min=0).flatten()).view(batch, chunk, -1, heads, width // heads)
    energy = F.leaky_relu(target.view(batch, chunk, 1, heads, -1) + neighbours, NEGATIVE_SLOPE)
    logits = torch.einsum("bckhd,hd->bckh", energy, attention).to(softmax_dtype(source.dtype))
    mask = present[None, :, :, None]
    alpha = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(2) * mask
    return torch.einsum("bckh,bckhd->bchd", alpha.to(source.dtype), neighbours).reshape(batch, chunk, width)


def transform(h: Tensor, aggregated: Tensor, output: Tensor, residual: bool) -> Tensor:
    """Eq. 23 after the sum: aggregated [B, c, D] -> per-head W_out [H, d, d], ELU, concatenation, residual [B, c, D]."""
    batch, chunk, width = aggregated.shape
    heads = output.shape[0]
    mixed = torch.einsum("bchd,hed->bche", aggregated.view(batch, chunk, heads, -1), output)
    out = F.elu(mixed.reshape(batch, chunk, width))
    return h + out if residual else out


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
