"""The ISR kernel: cosines, softmax, selection and pooling weights of one block of categories in one
pass.

The shape is flash attention's: the queries are a block of text rows, the keys all patches of one
image, and the scores never leave the chip. No sort: the boundary score is found by bisection over
the scores' bit patterns (order-preserving for floats ≥ 0), in registers. See the package's
docstring for what was tested and what was not timed.

Shapes: B images, P patches, C categories, D width.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from c2srt.model.kernels.environment import interpreted
from c2srt.model.kernels.shapes import LEAST_SHARED, power_of_two

SCORES = 16384
"""Of a program: 64 categories × 256 patches are 64 registers in each of 256 threads. 128 spill."""
SCORES_OF_A_THREAD = 64
MOST_CATEGORIES = 64
REGISTERS = 65536
MOST_REGISTERS = 255
"""Of a streaming multiprocessor, and of a thread. Where the latter is unsaid, ptxas spills a little
so that two programs share a processor.
"""
STAGE_BYTES = 36864
"""(patches + categories) × columns in shared memory, of which up to STAGES are in flight."""
STAGES = 3
COLUMN_BYTES = 128
"""Of a row at most: the widest that shared memory is swizzled by."""


def assignment(
    patches: Tensor, text: Tensor, scale: float, threshold: float, max_patches: int, weighted: bool
) -> Tensor:
    """See c2srt.model.kernels.assignment."""
    (images, count, width), categories = patches.shape, text.shape[-2]
    unit = F.normalize(patches.detach(), dim=-1).contiguous()
    text = in_rows(text.detach(), patches.dtype)
    pooling = patches.new_empty(images, categories, count)
    if pooling.numel() == 0:
        return pooling
    constants = sizes(count, width, patches.element_size())
    with torch.cuda.device_of(patches):
        assignment_kernel[triton.cdiv(categories, constants["BLOCK_C"]), images](
            unit,
            text,
            pooling,
            text.stride(0) if text.dim() == 3 else 0,
            text.stride(-2),
            float(scale),
            float(threshold),
            max_patches,
            categories,
            P=count,
            D=width,
            WEIGHTED=weighted,
            WIDEN=interpreted(),
            enable_fp_fusion=True,
            **constants,
        )
    return pooling


def in_rows(text: Tensor, dtype: torch.dtype) -> Tensor:
    """Text [C, D] or [B, C, D] in `dtype` whose rows lie in one piece each, wherever they lie: one
    text of all images, expanded, stays one.
    """
    if text.dim() == 3 and text.stride(0) == 0:
        return in_rows(text[0], dtype)
    text = text.to(dtype)
    return text if text.stride(-1) == 1 else text.contiguous()


def sizes(count: int, width: int, itemsize: int) -> dict[str, int]:
    """The blocks and the compiler's options for P patches and width D: no register is spilled on
    sm_80, sm_86, sm_90 or sm_100 (`c2srt check kernels full`).
    """
    padded = max(16, power_of_two(count))
    block = min(MOST_CATEGORIES, max(16, SCORES // padded))
    threads = min(256, max(128, padded * block // SCORES_OF_A_THREAD))
    if padded > 512 and itemsize == 4:  # the parts of three TF32 products besides
        threads = 512
    fitting = STAGE_BYTES // ((padded + block) * itemsize)
    fitting = 1 << fitting.bit_length() >> 1  # the power of two that fits
    columns = max(16, min(power_of_two(width), fitting, COLUMN_BYTES // itemsize))
    stage = (padded + block) * columns * itemsize
    return {
        "PADDED": padded,
        "BLOCK_C": block,
        "BLOCK_D": columns,
        "num_warps": threads // 32,
        "num_stages": min(STAGES, LEAST_SHARED // stage),
        "maxnreg": min(MOST_REGISTERS, REGISTERS // threads),
    }


@triton.jit
def assignment_kernel(
    patches,
    text,
    pooling,
    image_stride,
    text_stride,
    scale,
    threshold,
    max_patches,
    categories,
    P: tl.constexpr,
    D: tl.constexpr,
    WEIGHTED: tl.constexpr,
    WIDEN: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One block of categories of one image: unit patches [B, P, D], text [C, D] (or, with an image
    stride, [B, C, D]) -> pooling [B, C, P]. WIDEN: bfloat16 is widened before the products, for the
    interpreter.
    """
    category = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    patch = tl.arange(0, PADDED)
    image = tl.program_id(1).to(tl.int64)

    cosine = unit_products(
        text + image * image_stride,
        text_stride,
        patches + image * P * D,
        category,
        patch,
        categories,
        P,
        D,
        WIDEN,
        BLOCK_C,
        PADDED,
        BLOCK_D,
    )
    logits = tl.where(patch[None, :] < P, scale * cosine, float("-inf"))
    scores = tl.exp(logits - tl.max(logits, 1)[:, None])
    scores = scores / tl.sum(scores, 1)[:, None]
    scores = tl.where(patch[None, :] < P, scores, -1.0)  # padding ranks below every score

    taken = choose(scores, threshold, max_patches, patch, BLOCK_C, PADDED)
    weights = tl.where(taken, scores if WEIGHTED else 1.0, 0.0)
    weights = weights / tl.sum(weights, 1)[:, None]
    place = (image * categories + category)[:, None] * P + patch[None, :]
    tl.store(pooling + place, weights, mask=(category < categories)[:, None] & (patch < P)[None, :])


@triton.jit
def unit_products(
    left,
    left_stride,
    right,
    row,
    column,
    rows,
    columns,
    D: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """left[row] · right[column]ᵀ in float32: [ROWS, COLUMNS], zeros outside. float32 inputs are
    multiplied as three TF32 products: plain TF32 would move patches over the boundary.
    """
    left_rows = left + row.to(tl.int64)[:, None] * left_stride
    right_rows = right + column[None, :] * D
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(0, D, BLOCK_D):
        depth = start + tl.arange(0, BLOCK_D)
        a = tl.load(
            left_rows + depth[None, :], mask=(row < rows)[:, None] & (depth < D)[None, :], other=0.0
        )
        b = tl.load(
            right_rows + depth[:, None],
            mask=(column < columns)[None, :] & (depth < D)[:, None],
            other=0.0,
        )
        if WIDEN:  # exact; the interpreter's dot would multiply bit patterns as integers
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision="tf32x3")
    return total


@triton.jit
def choose(scores, threshold, max_patches, index, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Which scores of each row are taken: one is, while the better ones sum to less than
    `threshold` and are fewer than `max_patches`; of equal scores the lower index counts as better.
    scores [ROWS, COLUMNS] ≥ 0, or −1 for padding.

    Bisection for the last score that is taken, the smallest after whose betters there is still
    room: after all scores above `high` there is, after all above `low` there is none (−1, below the
    zeros, counts as such). It ends when (low, high] holds at most one score, or equal ones.
    """
    bits = scores.to(tl.int32, bitcast=True)
    low, high = tl.full([ROWS], -1, tl.int32), tl.max(bits, 1)
    count_low, count_high = tl.sum((bits >= 0).to(tl.int32), 1), tl.zeros([ROWS], tl.int32)
    sum_high = tl.zeros([ROWS], tl.float32)
    open_ = (high - low > 1) & (count_low - count_high > 1)
    while tl.max(open_.to(tl.int32), 0) > 0:
        middle = low + (high - low) // 2
        above = bits > middle[:, None]
        sum_above = tl.sum(tl.where(above, scores, 0.0), 1)
        count_above = tl.sum(above.to(tl.int32), 1)
        room = (sum_above < threshold) & (count_above < max_patches)
        lower, higher = open_ & room, open_ & (room == 0)
        high, low = tl.where(lower, middle, high), tl.where(higher, middle, low)
        count_high, count_low = (
            tl.where(lower, count_above, count_high),
            tl.where(higher, count_above, count_low),
        )
        sum_high = tl.where(lower, sum_above, sum_high)
        open_ = (high - low > 1) & (count_low - count_high > 1)

    boundary = (bits > low[:, None]) & (bits <= high[:, None])
    value = tl.max(tl.where(boundary, scores, 0.0), 1)
    by_sum = tl.minimum(tl.ceil((threshold - sum_high) / value), 1.0 * COLUMNS).to(tl.int32)
    wanted = tl.minimum(by_sum, max_patches - count_high)
    last = tl.full([ROWS], COLUMNS - 1, tl.int32)
    if tl.max(count_low - count_high - wanted, 0) > 0:
        last = nth_index(boundary, wanted, index, ROWS, COLUMNS)
    return (bits > high[:, None]) | (boundary & (index[None, :] <= last[:, None]))


@triton.jit
def nth_index(mask, n, index, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Index of the n-th true entry of each row, or COLUMNS − 1 where there are fewer: bisection
    over the index.
    """
    before = tl.full([ROWS], -1, tl.int32)
    last = tl.full([ROWS], COLUMNS - 1, tl.int32)
    while tl.max(last - before, 0) > 1:
        middle = before + (last - before) // 2
        enough = tl.sum((mask & (index[None, :] <= middle[:, None])).to(tl.int32), 1) >= n
        last = tl.where(enough, middle, last)
        before = tl.where(enough, before, middle)
    return last
