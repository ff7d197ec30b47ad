"""GATv2's attention over a fixed-degree neighbour table, forward and backward: the kernels.

One program holds a tile of rows × heads × lanes in registers (heads and d, each rounded up to a
power of two: what is beyond is never read or written) and walks the neighbour slots, unrolled:
no [M, K, D] tensor exists. The forward's softmax is the online one, so each source row is read
once. The backward has a kernel over targets and one over sources, which walks the reversed
adjacency: nothing is scattered, nothing is atomic. See the package's docstring for what was tested
and what was not timed. gat.py launches them.

Shapes: M targets, N sources, H heads, d = D / H, K neighbours, E edges (present entries of the
table).
"""

import triton
import triton.language as tl

NEGATIVE_SLOPE = tl.constexpr(0.2)


@triton.jit
def head_columns(H: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, LANES: tl.constexpr):
    """Column of every (head, lane) in a row of D, and whether the head has it: [HEADS, LANES]."""
    head, lane = tl.arange(0, HEADS)[:, None], tl.arange(0, LANES)[None, :]
    return head * WIDTH + lane, (head < H) & (lane < WIDTH)


@triton.jit
def load_rows(base, row, present, column, real, D: tl.constexpr):
    """Rows of base [*, D] as float32 [ROWS, HEADS, LANES]; zeros where absent."""
    place = row.to(tl.int64)[:, None, None] * D + column[None, :, :]
    return tl.load(base + place, mask=present[:, None, None] & real[None, :, :], other=0.0).to(
        tl.float32
    )


@triton.jit
def load_heads(base, row, present, H: tl.constexpr, HEADS: tl.constexpr):
    """Rows of base [*, H] as [ROWS, HEADS]; zeros where absent."""
    head = tl.arange(0, HEADS)
    return tl.load(
        base + row.to(tl.int64)[:, None] * H + head[None, :],
        mask=present[:, None] & (head < H)[None, :],
        other=0.0,
    )


@triton.jit
def leaky_relu(x):
    return tl.where(x > 0, x, NEGATIVE_SLOPE * x)


@triton.jit
def slope(x):
    return tl.where(x > 0, 1.0, NEGATIVE_SLOPE)


@triton.jit
def forward_kernel(
    target,
    source,
    attention,
    table,
    aggregated,
    alpha,
    targets,
    K: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """One block of targets: aggregated [M, D] and alpha [M, K, H]."""
    D: tl.constexpr = H * WIDTH
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column, real = head_columns(H, WIDTH, HEADS, LANES)
    slot = tl.arange(0, SLOTS)
    a = tl.load(attention + column, mask=real, other=0.0).to(tl.float32)
    t = load_rows(target, row, row < targets, column, real, D)

    logits = tl.full([ROWS, SLOTS, HEADS], float("-inf"), tl.float32)
    best = tl.full(
        [ROWS, HEADS], -3.0e38, tl.float32
    )  # finite, so that −inf − best never is not-a-number
    norm = tl.zeros([ROWS, HEADS], tl.float32)
    total = tl.zeros([ROWS, HEADS, LANES], tl.float32)
    for k in tl.static_range(K):
        neighbour = tl.load(table + row.to(tl.int64) * K + k, mask=row < targets, other=-1)
        s = load_rows(source, neighbour, neighbour >= 0, column, real, D)
        logit = tl.where(
            (neighbour >= 0)[:, None], tl.sum(a[None, :, :] * leaky_relu(t + s), 2), float("-inf")
        )
        logits = tl.where((slot == k)[None, :, None], logit[:, None, :], logits)
        better = tl.maximum(best, logit)
        shrink, share = tl.exp(best - better), tl.exp(logit - better)
        norm = norm * shrink + share
        total = total * shrink[:, :, None] + share[:, :, None] * s
        best = better

    norm = tl.maximum(norm, 1.0)  # the best neighbour adds exactly 1; 0 only where there is none
    place = row.to(tl.int64)[:, None, None] * D + column[None, :, :]
    tl.store(
        aggregated + place,
        total / norm[:, :, None],
        mask=(row < targets)[:, None, None] & real[None, :, :],
    )
    head = tl.arange(0, HEADS)
    place = (row.to(tl.int64)[:, None, None] * K + slot[None, :, None]) * H + head[None, None, :]
    inside = (row < targets)[:, None, None] & (slot < K)[None, :, None] & (head < H)[None, None, :]
    tl.store(alpha + place, tl.exp(logits - best[:, None, :]) / norm[:, None, :], mask=inside)


@triton.jit
def target_kernel(
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
    K: tl.constexpr,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Every so many blocks of targets: grad_target [M, D], grad_logit [M, K, H], and this program's
    part of grad_attention. All programs walk through the images together, whose sources then stay
    in the cache.
    """
    D: tl.constexpr = H * WIDTH
    column, real = head_columns(H, WIDTH, HEADS, LANES)
    head = tl.arange(0, HEADS)
    a = tl.load(attention + column, mask=real, other=0.0).to(tl.float32)
    grad_a = tl.zeros([HEADS, LANES], tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(targets, ROWS), tl.num_programs(0)):
        row = block * ROWS + tl.arange(0, ROWS)
        edge = row.to(tl.int64) * K
        u = load_rows(upstream, row, row < targets, column, real, D)
        t = load_rows(target, row, row < targets, column, real, D)
        mean = tl.zeros([ROWS, HEADS], tl.float32)  # Σ_k α_k ∂α_k, the softmax's backward
        for k in tl.static_range(K):
            neighbour = tl.load(table + edge + k, mask=row < targets, other=-1)
            s = load_rows(source, neighbour, neighbour >= 0, column, real, D)
            mean += load_heads(alpha, edge + k, row < targets, H, HEADS) * tl.sum(u * s, 2)
        grad_t = tl.zeros([ROWS, HEADS, LANES], tl.float32)
        for k in tl.static_range(K):
            neighbour = tl.load(table + edge + k, mask=row < targets, other=-1)
            s = load_rows(source, neighbour, neighbour >= 0, column, real, D)
            grad = load_heads(alpha, edge + k, row < targets, H, HEADS) * (tl.sum(u * s, 2) - mean)
            place = (edge + k)[:, None] * H + head[None, :]
            tl.store(grad_logit + place, grad, mask=(row < targets)[:, None] & (head < H)[None, :])
            x = t + s
            grad_t += grad[:, :, None] * slope(x)
            grad_a += tl.sum(grad[:, :, None] * leaky_relu(x), 0)
        place = row.to(tl.int64)[:, None, None] * D + column[None, :, :]
        tl.store(
            grad_target + place,
            a[None, :, :] * grad_t,
            mask=(row < targets)[:, None, None] & real[None, :, :],
        )
    tl.store(partials + tl.program_id(0).to(tl.int64) * D + column, grad_a, mask=real)


@triton.jit
def edge_sum(
    upstream,
    target,
    alpha,
    grad_logit,
    edges,
    s,
    a,
    column,
    real,
    start,
    stop,
    K: tl.constexpr,
    EDGES: tl.constexpr,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """What edges[start:stop], all of one source s [HEADS, LANES], give its gradient: Σ α u_i + ∂e
    a · LeakyReLU'(t_i + s).
    """
    total = tl.zeros([HEADS, LANES], tl.float32)
    for first in range(start, stop, EDGES):
        place = first + tl.arange(0, EDGES)
        present = place < stop
        edge = tl.load(edges + place, mask=present, other=0)
        u = load_rows(upstream, edge // K, present, column, real, H * WIDTH)
        t = load_rows(target, edge // K, present, column, real, H * WIDTH)
        share = load_heads(alpha, edge, present, H, HEADS)
        grad = load_heads(grad_logit, edge, present, H, HEADS)
        total += tl.sum(
            share[:, :, None] * u + grad[:, :, None] * a[None, :, :] * slope(t + s[None, :, :]), 0
        )
    return total


@triton.jit
def segment_kernel(
    upstream,
    target,
    source,
    attention,
    alpha,
    grad_logit,
    edges,
    table,
    sums,
    K: tl.constexpr,
    LENGTH: tl.constexpr,
    EDGES: tl.constexpr,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """sums[b] [D] of the b-th segment of LENGTH edges, where all of them are one source's; else
    nothing, and nobody reads it.
    """
    segment = tl.program_id(0)
    node = tl.load(table + tl.load(edges + segment * LENGTH))
    if node == tl.load(table + tl.load(edges + segment * LENGTH + LENGTH - 1)):
        column, real = head_columns(H, WIDTH, HEADS, LANES)
        a = tl.load(attention + column, mask=real, other=0.0).to(tl.float32)
        s = tl.load(source + node.to(tl.int64) * (H * WIDTH) + column, mask=real, other=0.0).to(
            tl.float32
        )
        total = edge_sum(
            upstream,
            target,
            alpha,
            grad_logit,
            edges,
            s,
            a,
            column,
            real,
            segment * LENGTH,
            segment * LENGTH + LENGTH,
            K,
            EDGES,
            H,
            WIDTH,
            HEADS,
            LANES,
        )
        tl.store(sums + segment.to(tl.int64) * (H * WIDTH) + column, total, mask=real)


@triton.jit
def source_kernel(
    upstream,
    target,
    source,
    attention,
    alpha,
    grad_logit,
    edges,
    offsets,
    sums,
    grad_source,
    K: tl.constexpr,
    LENGTH: tl.constexpr,
    EDGES: tl.constexpr,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    LANES: tl.constexpr,
):
    """grad_source [N, D] of one source: the edges before its first whole segment and those after
    its last, then the segments' sums.
    """
    D: tl.constexpr = H * WIDTH
    node = tl.program_id(0)
    column, real = head_columns(H, WIDTH, HEADS, LANES)
    a = tl.load(attention + column, mask=real, other=0.0).to(tl.float32)
    s = tl.load(source + node.to(tl.int64) * D + column, mask=real, other=0.0).to(tl.float32)
    start, stop = tl.load(offsets + node), tl.load(offsets + node + 1)
    first, last = tl.cdiv(start, LENGTH), stop // LENGTH
    before = tl.minimum(stop, first * LENGTH)
    after = tl.maximum(before, last * LENGTH)
    walk = (upstream, target, alpha, grad_logit, edges, s, a, column, real)
    total = tl.zeros([HEADS, LANES], tl.float32)
    for end in range(2):  # a loop, so that the walk is in the program once
        begin = tl.where(end == 0, start, after)
        until = tl.where(end == 0, before, stop)
        total += edge_sum(*walk, begin, until, K, EDGES, H, WIDTH, HEADS, LANES)
    for segment in range(first, last, EDGES):
        rows = segment + tl.arange(0, EDGES)
        total += tl.sum(load_rows(sums, rows, rows < last, column, real, D), 0)
    tl.store(grad_source + node.to(tl.int64) * D + column, total, mask=real)
