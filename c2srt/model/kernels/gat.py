"""GATv2's attention over a fixed-degree neighbour table, forward and backward: the launches.

The kernels are in gat_kernels.py; here they are launched, with sizes that follow from the shapes.

Shapes: M targets, N sources, H heads, d = D / H, K neighbours, E edges (present entries of the
table).
"""

import torch
import triton
from torch import Tensor

from c2srt.model.kernels.gat_kernels import (
    forward_kernel,
    segment_kernel,
    source_kernel,
    target_kernel,
)
from c2srt.model.kernels.shapes import MOST_WARPS, WARP_VALUES, lanes, power_of_two

TARGET_VALUES = 256  # as WARP_VALUES for the backward over targets, where two short rows spill
EDGE_VALUES = 1024  # the same for the walk over edges, which needs fewer tiles at once
# of a streaming multiprocessor that fit whatever they take: 65,536 registers, 255 a thread at most
RESIDENT_WARPS = 8
INTERPRETED_PROCESSORS = 4
SEGMENT = 64  # edges of a long list that are added by one program


def attention_forward(
    target: Tensor, source: Tensor, attention: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """See c2srt.model.kernels.attention_forward."""
    target, source, attention, table = (
        target.contiguous(),
        source.contiguous(),
        attention.contiguous(),
        table.contiguous(),
    )
    (targets, slots), sizes = table.shape, constants(attention, table)
    aggregated = torch.empty_like(target, dtype=source.dtype)
    alpha = target.new_empty(targets, slots, len(attention), dtype=torch.float32)
    if targets:
        block = rows_of(WARP_VALUES, sizes)
        with torch.cuda.device_of(source):
            forward_kernel[(triton.cdiv(targets, block),)](
                target,
                source,
                attention,
                table,
                aggregated,
                alpha,
                targets,
                SLOTS=power_of_two(slots),
                ROWS=block,
                **sizes,
            )
    return aggregated, alpha


def attention_backward(
    upstream: Tensor,
    target: Tensor,
    source: Tensor,
    attention: Tensor,
    alpha: Tensor,
    table: Tensor,
    reversed: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """See c2srt.model.kernels.attention_backward."""
    upstream, target, source, attention, alpha = (
        tensor.contiguous() for tensor in (upstream, target, source, attention, alpha)
    )
    table, sizes = table.contiguous(), constants(attention, table)
    offsets, edges = reversed
    grad_target, grad_attention, grad_logit = backward_targets(
        upstream, target, source, attention, alpha, table, sizes
    )
    grad_source = backward_sources(
        upstream, target, source, attention, alpha, grad_logit, table, offsets, edges, sizes
    )
    return grad_target, grad_source, grad_attention


def backward_targets(
    upstream: Tensor,
    target: Tensor,
    source: Tensor,
    attention: Tensor,
    alpha: Tensor,
    table: Tensor,
    sizes: dict[str, int | bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """grad_target [M, D], grad_attention [H, d] float32 and the logits' gradient [M, K, H]
    float32. As many programs as the card holds at once, each with its own sum for grad_attention.
    """
    targets, block = len(table), rows_of(TARGET_VALUES, sizes)
    grad_target, grad_logit = torch.empty_like(target), torch.empty_like(alpha)
    blocks = triton.cdiv(targets, block)
    programs = min(blocks, processors(source.device) * RESIDENT_WARPS // sizes["num_warps"])
    partials = attention.new_empty(programs, *attention.shape, dtype=torch.float32)
    if programs:
        with torch.cuda.device_of(source):
            target_kernel[(programs,)](
                upstream,
                target,
                source,
                attention,
                alpha,
                table,
                grad_target,
                grad_logit,
                partials,
                targets,
                ROWS=block,
                **sizes,
            )
    return grad_target, partials.sum(0), grad_logit


def backward_sources(
    upstream: Tensor,
    target: Tensor,
    source: Tensor,
    attention: Tensor,
    alpha: Tensor,
    grad_logit: Tensor,
    table: Tensor,
    offsets: Tensor,
    edges: Tensor,
    sizes: dict[str, int | bool],
) -> Tensor:
    """grad_source [N, D]. Segments of the edge list that belong to one source are added first, by a
    program each, so that a hub's list is not one program's long walk.
    """
    grad_source = torch.empty_like(source)
    segments = len(edges) // SEGMENT
    sums = torch.empty(segments, source.shape[1], dtype=torch.float32, device=source.device)
    meta = dict(LENGTH=SEGMENT, EDGES=min(SEGMENT, rows_of(EDGE_VALUES, sizes)), **sizes)
    inputs = (upstream, target, source, attention, alpha, grad_logit, edges)
    with torch.cuda.device_of(source):
        if segments:
            segment_kernel[(segments,)](*inputs, table, sums, **meta)
        if len(source):
            source_kernel[(len(source),)](*inputs, offsets, sums, grad_source, **meta)
    return grad_source


def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU."""
    if device.type != "cuda":
        return INTERPRETED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def constants(attention: Tensor, table: Tensor) -> dict[str, int | bool]:
    """The kernels' constants K, H, d, H and d rounded up to powers of two, and the compiler's
    options.
    """
    heads, width = attention.shape
    padded, across = power_of_two(heads), lanes(width)
    return {
        "K": table.shape[1],
        "H": heads,
        "WIDTH": width,
        "HEADS": padded,
        "LANES": across,
        "num_warps": min(MOST_WARPS, max(1, padded * across // WARP_VALUES)),
        "enable_fp_fusion": True,
    }


def rows_of(values: int, sizes: dict[str, int | bool]) -> int:
    """Rows of a tile of so many values a warp."""
    return max(1, values * sizes["num_warps"] // (sizes["HEADS"] * sizes["LANES"]))
