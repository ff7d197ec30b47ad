"""The last layer's end in one pass: x' = [x +] ELU(mixed), and its score s = scale · x' · t / |x'|
(eq. 10, 23), forward and backward; x' itself is never written.

`mixed` is W_out's product, t the category's unit text, one for all images or one for each. Products
and sums are float32. See the package's docstring for what was tested and what was not timed.

Shapes: M nodes (the categories of an image, image after image), C categories of an image, D width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from c2srt.model.kernels.shapes import MOST_WARPS, WARP_VALUES, power_of_two

LEAST_NORM = tl.constexpr(1e-12)


def scores(mixed: Tensor, rows: Tensor | None, text: Tensor, scale: float) -> Tensor:
    """See c2srt.model.kernels.scores."""
    found = mixed.new_empty(len(mixed), dtype=torch.float32)
    launch(scores_kernel, mixed, rows, text, (found, float(scale)))
    return found


def scores_backward(
    upstream: Tensor, mixed: Tensor, rows: Tensor | None, text: Tensor, scale: float
) -> tuple[Tensor | None, Tensor]:
    """See c2srt.model.kernels.scores_backward."""
    grad_mixed = torch.empty_like(mixed)
    grad_rows = None if rows is None else torch.empty_like(mixed)
    outputs = (grad_mixed, grad_mixed if grad_rows is None else grad_rows)
    launch(
        backward_kernel, mixed, rows, text, (upstream.float().contiguous(), *outputs, float(scale))
    )
    return grad_rows, grad_mixed


def launch(kernel, mixed: Tensor, rows: Tensor | None, text: Tensor, arguments: tuple) -> None:
    """A program holds a few rows of D, rounded up to a power of two."""
    (nodes, width), (images, categories, _) = mixed.shape, text.shape
    assert nodes % categories == 0 and images in (1, nodes // categories), "not these nodes' text"
    assert mixed.is_contiguous() and (rows is None or rows.stride(1) == 1) and text.stride(2) == 1
    if not nodes:
        return
    lanes = power_of_two(width)
    warps = min(MOST_WARPS, max(1, lanes // WARP_VALUES))
    block = max(1, warps * WARP_VALUES // lanes)
    with torch.cuda.device_of(mixed):
        kernel[(triton.cdiv(nodes, block),)](
            mixed,
            mixed if rows is None else rows,
            text,
            *arguments,
            nodes,
            categories,
            width if rows is None else rows.stride(0),
            text.stride(0) if images > 1 else 0,
            text.stride(1),
            RESIDUAL=rows is not None,
            D=width,
            LANES=lanes,
            ROWS=block,
            num_warps=warps,
            enable_fp_fusion=True,
        )


@triton.jit
def load_tile(base, place, inside):
    """Values as float32, zeros outside."""
    return tl.load(base + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def elu(y):
    """Near 0, where exp(y) − 1 cancels, its series: both are within 1e-6 of their own size."""
    series = y * (1 + y / 2 * (1 + y / 3 * (1 + y / 4 * (1 + y / 5))))
    return tl.where(y > 0, y, tl.where(y > -0.1, series, tl.exp(y) - 1))


@triton.jit
def parts(
    mixed,
    rows,
    text,
    node,
    nodes,
    categories,
    row_stride,
    image_stride,
    text_stride,
    RESIDUAL: tl.constexpr,
    D: tl.constexpr,
    LANES: tl.constexpr,
):
    """Of some nodes: mixed, x' and t [ROWS, LANES], x' · t and |x'| [ROWS], where D is [ROWS,
    LANES] from the start of `mixed`, and what of it is there.
    """
    column = tl.arange(0, LANES)[None, :]
    inside = (node < nodes)[:, None] & (column < D)
    place = node.to(tl.int64)[:, None] * D + column
    y = load_tile(mixed, place, inside)
    x = elu(y)
    if RESIDUAL:
        x += load_tile(rows, node.to(tl.int64)[:, None] * row_stride + column, inside)
    of_text = (node // categories).to(tl.int64) * image_stride + (node % categories) * text_stride
    t = load_tile(text, of_text[:, None] + column, inside)
    norm = tl.maximum(tl.sqrt(tl.sum(x * x, 1)), LEAST_NORM)
    return y, x, t, tl.sum(x * t, 1), norm, place, inside


@triton.jit
def scores_kernel(
    mixed,
    rows,
    text,
    found,
    scale,
    nodes,
    categories,
    row_stride,
    image_stride,
    text_stride,
    RESIDUAL: tl.constexpr,
    D: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One block of nodes: their scores [M]."""
    node = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    around = (nodes, categories, row_stride, image_stride, text_stride)
    _, _, _, dot, norm, _, _ = parts(mixed, rows, text, node, *around, RESIDUAL, D, LANES)
    tl.store(found + node, scale * dot / norm, mask=node < nodes)


@triton.jit
def backward_kernel(
    mixed,
    rows,
    text,
    upstream,
    grad_mixed,
    grad_rows,
    scale,
    nodes,
    categories,
    row_stride,
    image_stride,
    text_stride,
    RESIDUAL: tl.constexpr,
    D: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One block of nodes: the gradients [M, D] of mixed and of rows, given that of the scores."""
    node = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    around = (nodes, categories, row_stride, image_stride, text_stride)
    y, x, t, dot, norm, place, inside = parts(mixed, rows, text, node, *around, RESIDUAL, D, LANES)
    factor = scale * tl.load(upstream + node, mask=node < nodes, other=0.0) / norm
    grad = factor[:, None] * t - (factor * dot / (norm * norm))[:, None] * x
    tl.store(grad_mixed + place, grad * tl.where(y > 0, 1.0, tl.exp(y)), mask=inside)
    if RESIDUAL:
        tl.store(grad_rows + place, grad, mask=inside)
