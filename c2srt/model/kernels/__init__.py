"""Fused Triton kernels for ISR, for the core of the GATv2 layer and for the scores after it, behind
functions that the torch path also offers.

**Not run or timed on a GPU yet.** The kernels are tested under Triton's interpreter on a CPU and
compiled for sm_80, sm_86, sm_90 and sm_100 at the sizes of every ViT of open_clip, where no
register is spilled (`c2srt check kernels full`). No GPU was at hand: block sizes are reasoned, not
tuned, and nothing here says that they are faster than the torch path.

Block sizes follow from the shapes. Autotuning picks by timing, another pick adds in another order,
and two runs of one training would differ. Triton is imported by `isr`, `gat` and `score`
only, when a function is first called: a machine without Triton or CUDA asks `supported`, hears no,
and takes the torch path.

Shapes: B images, P patches, C categories, D width, H heads, d = D / H, K neighbours, M targets, N
sources, E edges.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from c2srt.errors import UserError
from c2srt.model.kernels.environment import interpreted
from c2srt.model.kernels.shapes import assignment_fault, attention_fault, scores_fault


def supported(tensor: Tensor, heads: int | None = None, neighbours: int = 1) -> bool:
    """Whether the kernels can run on this tensor, float32 or bfloat16, on a GPU of compute
    capability 8 or more (or under TRITON_INTERPRET=1), in a program that is not traced for export:
    the patches [B, P, D] of `assignment`; or, with `heads` and the number of table slots as
    `neighbours`, the nodes [N, D] of `attention_forward`. See shapes.py for the sizes.
    """
    if not takes(tensor):
        return False
    if heads is None:
        return not assignment_fault(tensor.shape[-2])
    return not attention_fault(tensor.shape[-1], heads, neighbours)


def supports_scores(mixed: Tensor) -> bool:
    """The same for `scores`."""
    return takes(mixed) and not scores_fault(mixed.shape[-1])


def takes(tensor: Tensor) -> bool:
    """Whether a kernel can be run on a tensor of this type, there, now."""
    return (
        tensor.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_exporting()
        and runs_on(tensor.device)
    )


def runs_on(device: torch.device) -> bool:
    """Whether Triton is there and can use the device."""
    if find_spec("triton") is None:
        return False
    if interpreted():
        return True
    return (
        device.type == "cuda"
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(device)[0] >= 8
    )


def assignment(
    patches: Tensor, text: Tensor, scale: float, threshold: float, max_patches: int, weighted: bool
) -> Tensor:
    """`c2srt.model.isr.assignment`: the pooling matrix A [B, C, P] of patches [B, P, D] raw and
    text [C, D] (or [B, C, D]) unit rows.

    Cosines, softmax and sums are float32. The torch path rounds bfloat16 cosines to bfloat16, so
    there the two choose differently where a score is within that rounding of the boundary. Of equal
    scores the lower patch index is taken.
    """
    from c2srt.model.kernels import isr

    return isr.assignment(patches, text, scale, threshold, max_patches, weighted)


def attention_forward(
    target: Tensor, source: Tensor, attention: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """GATv2's attention over a neighbour table: e_ijm = a_m · LeakyReLU(t_i + s_j), α = softmax_j
    e, ‖_m Σ_j α_ijm s_jm.

    target [M, D], source [N, D], attention [H, d], table [M, K] rows of source or −1 -> aggregated
    [M, D] in source's type, α [M, K, H] float32 (0 where missing). A target without a neighbour
    gets zeros. Indices are not checked here: `reversed_adjacency` does that once.
    """
    from c2srt.model.kernels import gat

    return gat.attention_forward(target, source, attention, table)


def attention_backward(
    upstream: Tensor,
    target: Tensor,
    source: Tensor,
    attention: Tensor,
    alpha: Tensor,
    table: Tensor,
    reversed: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of target [M, D], source [N, D] and attention [H, d] (float32) for the upstream
    gradient [M, D] of aggregated.

    `alpha` is attention_forward's, `reversed` is reversed_adjacency(table, N). Deterministic: no
    atomics, every sum has one fixed order that depends on the shapes, and grad_attention's on how
    many programs the card holds at once.
    """
    from c2srt.model.kernels import gat

    return gat.attention_backward(upstream, target, source, attention, alpha, table, reversed)


def scores(mixed: Tensor, rows: Tensor | None, text: Tensor, scale: float) -> Tensor:
    """scale · x' · t / |x'| [M] in float32 for x' = [rows +] ELU(mixed): mixed [M, D], rows [M, D]
    or None without a residual, text [b, M / b, D] for the nodes of b images, expanded or not.
    """
    from c2srt.model.kernels import score

    return score.scores(mixed, rows, text, scale)


def scores_backward(
    upstream: Tensor, mixed: Tensor, rows: Tensor | None, text: Tensor, scale: float
) -> tuple[Tensor | None, Tensor]:
    """Gradients [M, D] of rows (None without) and mixed, given that of `scores` [M]."""
    from c2srt.model.kernels import score

    return score.scores_backward(upstream, mixed, rows, text, scale)


def reversed_adjacency(table: Tensor, sources: int) -> tuple[Tensor, Tensor]:
    """Who listens to each source: offsets int32 [N + 1], edges int32 [E].

    edges[offsets[j] : offsets[j + 1]] are the flat indices i · K + k of the entries of `table` [M,
    K] that name source j, in increasing order. Raises UserError for an index that is not below
    `sources`.
    """
    flat = table.flatten()
    if flat.numel() >= 2**31:
        raise UserError(
            f"{flat.numel():,} edges in one tile are more than 32 bits can count: lower"
            " model.tile_mib"
        )
    largest, missing = (
        torch.stack([flat.max(), (flat < 0).sum()]).tolist() if len(flat) else (-1, 0)
    )
    if largest >= sources:
        raise UserError(
            f"the neighbour table names row {largest} of {sources} sources: build the relations for"
            " this vocabulary"
        )
    order = flat.argsort(stable=True)[missing:]
    bounds = torch.arange(sources + 1, device=table.device, dtype=flat.dtype)
    return torch.searchsorted(flat[order], bounds).int(), order.int()
