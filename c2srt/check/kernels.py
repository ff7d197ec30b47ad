"""The Triton kernels against their literal forms in float64, at the sizes of the ViTs, on the
shipped relation graph.

A value is wrong where it is off by more than its type's rounding explains: bfloat16 keeps 8 bits,
so one result is within 2⁻⁸ of its own size (the interpreter truncates), and an error of 1 % in any
head, slot or row shows. Every call is made twice and must agree with itself bit by bit: a training
that is repeated must be the same training.

Shapes: B images, P patches, C categories, D width, H heads, d = D / H, K neighbours, M targets, N
sources.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.bench.config import Config as Bench
from c2srt.bench.sizes import neighbour_table
from c2srt.check.case import Case, Skip, random, sentence
from c2srt.check.config import Shape
from c2srt.model import kernels
from c2srt.model.ist import with_self_loops
from c2srt.model.tile import offset
from c2srt.profiling import DTYPES

NEAR = {torch.float32: (2e-4, 2e-5), torch.bfloat16: (2**-7, 2**-12)}
"""By type: how much of its own size a value may be off, and how much of the largest value besides.
"""
THRESHOLD, MOST = 0.5, 32
SPREAD = {False: 3.0, True: 0.5}
"""Spread of the patches' logits: few patches make half of the sum, or (weighted) so many that the
cap of MOST binds.
"""


def isr(case: Case) -> Iterator[dict]:
    """Which patches are chosen, and their weights, for every shape, precision and way of
    pooling.
    """
    for shape in case.sizes.every:
        for precision, dtype in DTYPES.items():
            for weighted in (False, True):
                what = (
                    f"assignment, {shape.name}, {precision}, {'weighted' if weighted else 'mean'}"
                )
                yield compared(
                    case, what, precision, partial(assignment_values, case, shape, dtype, weighted)
                )


def gat(case: Case) -> Iterator[dict]:
    """Forward and backward of the attention over the neighbour table."""
    table = attention_table(case)
    for shape in case.sizes.every:
        for precision, dtype in DTYPES.items():
            for way, values in (("forward", forward_values), ("backward", backward_values)):
                what = f"attention {way}, {shape.name}, {precision}"
                yield compared(case, what, precision, partial(values, case, shape, dtype, table))


def scores(case: Case) -> Iterator[dict]:
    """The scores of the last layer's output, and the way back, with a text of all images."""
    for shape in case.sizes.every:
        for precision, dtype in DTYPES.items():
            what = f"scores, {shape.name}, {precision}"
            yield compared(case, what, precision, partial(score_values, case, shape, dtype))


def compared(
    case: Case,
    what: str,
    precision: str,
    values: Callable[[], Iterator[tuple[str, Tensor, Tensor]]],
) -> dict:
    """The row of one kernel: its largest error by output, or what is wrong, or why it did not
    run.
    """
    if precision == "bf16" and case.bf16:
        return {"what": what, "skipped": case.bf16}
    row: dict[str, str | float] = {"what": what}
    faults = []
    try:
        for name, got, want in values():
            off = excess(got, want)
            row[f"{name} error"] = relative(got, want)
            if not off <= 1:
                faults.append(
                    f"{name} is off by {off:.3g} × what {precision} may be"
                    f" ({relative(got, want):.2%} of its norm)"
                )
    except Skip as skip:
        return {"what": what, "skipped": str(skip)}
    except NotRepeated as error:
        faults.append(str(error))
    except Exception as error:
        if case.triton:  # not even a small one runs here
            return {"what": what, "skipped": case.triton}
        faults.append(f"does not run: {sentence(error)}")
    return {**row, "wrong": f"{what}: {'; '.join(faults)}"} if faults else row


class NotRepeated(Exception):
    """Two calls on the same inputs gave different bits."""


def twice(call: Callable[[], tuple[Tensor, ...]], names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The results of one call. Raises NotRepeated if another differs."""
    first, second = call(), call()
    for name, one, other in zip(names, first, second, strict=True):
        if not torch.equal(one.nan_to_num(), other.nan_to_num()):
            raise NotRepeated(f"{name} differs between two calls")
    return first


def excess(got: Tensor, want: Tensor) -> float:
    """The largest |got − want| in units of what the type of `got` may be off; NaN in `got` is
    infinitely wrong.
    """
    share, floor = NEAR[got.dtype]
    allowed = share * want.abs() + floor * want.abs().max() + 1e-12
    off = ((got.double() - want).abs() / allowed).max() if got.numel() else torch.zeros(())
    return off.item() if off == off else float("inf")


def relative(got: Tensor, want: Tensor) -> float:
    """‖got − want‖ / ‖want‖."""
    return ((got.double() - want).norm() / want.norm().clamp(min=1e-30)).item()


def assignment_values(
    case: Case, shape: Shape, dtype: torch.dtype, weighted: bool
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """A [B, C, P] where the choice hangs on no rounding, and the share of rows in which it does."""
    generator, sizes = torch.Generator().manual_seed(1), case.sizes
    patches = 3 * random(generator, case, dtype, sizes.images, shape.patches, shape.width)
    text = F.normalize(
        random(generator, case, torch.float32, sizes.categories, shape.width), dim=-1
    )
    scale = SPREAD[weighted] * shape.width**0.5  # a random cosine spreads by 1 / √D
    most = min(MOST, shape.patches // 4)
    arguments = (patches, text, scale, THRESHOLD, most, weighted)
    (got,) = twice(lambda: (kernels.assignment(*arguments),), ("A",))
    want, clear = sorted_assignment(*arguments)
    if clear.float().mean() < 0.5:
        raise Skip("more than half of the choices hang on rounding: nothing to compare")
    yield "A", got[clear], want[clear]


def sorted_assignment(
    patches: Tensor, text: Tensor, scale: float, threshold: float, most: int, weighted: bool
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 with a stable sort, in float64 -> A [B, C, P], and the rows [B, C] whose choice
    hangs on no rounding: no sum lies at the threshold, and the last patch taken and the next differ
    clearly in score, or not at all.
    """
    unit = F.normalize(patches, dim=-1).double()
    scores = (scale * (text.to(patches.dtype).double() @ unit.transpose(1, 2))).softmax(-1)
    ordered, index = scores.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    rank = torch.arange(scores.shape[-1], device=scores.device)
    taken = (before < threshold) & (rank < most)
    weights = taken * (ordered if weighted else torch.ones_like(ordered))
    weights = weights / weights.sum(-1, keepdim=True)
    count = taken.sum(-1, keepdim=True)
    gap = (ordered.gather(-1, count - 1) - ordered.gather(-1, count.clamp(max=len(rank) - 1)))[
        ..., 0
    ]
    clear = ((before - threshold).abs() > 1e-5).all(-1) & (
        (gap == 0) | (gap > 1e-5 * ordered[..., 0])
    )
    return torch.zeros_like(scores).scatter_(-1, index, weights), clear


def attention_table(case: Case) -> Tensor:
    """[M, K + 1]: the neighbours of the tile's nodes, themselves first; the shipped graph at the
    size of Open Images.
    """
    sizes = case.sizes
    torch.manual_seed(0)
    table = with_self_loops(
        neighbour_table(Bench(categories=sizes.categories, neighbours=sizes.neighbours)), True
    )
    return offset(table.expand(sizes.images, -1, -1)).to(case.device)


def attention_inputs(
    case: Case, shape: Shape, dtype: torch.dtype, table: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """target and source [M, D], attention [H, d], and an upstream gradient [M, D]."""
    generator = torch.Generator().manual_seed(2)
    rows = (len(table), shape.width)
    target, source, upstream = (random(generator, case, dtype, *rows) for _ in range(3))
    attention = (
        random(generator, case, dtype, shape.heads, shape.head_width) / shape.head_width**0.5
    )
    return target, source, attention, upstream


def forward_values(
    case: Case, shape: Shape, dtype: torch.dtype, table: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    target, source, attention, _ = attention_inputs(case, shape, dtype, table)
    names = ("aggregated", "alpha")
    got = twice(lambda: kernels.attention_forward(target, source, attention, table), names)
    want = literal_attention(target.double(), source.double(), attention.double(), table)
    yield from zip(names, got, want, strict=True)


def backward_values(
    case: Case, shape: Shape, dtype: torch.dtype, table: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The gradients, from the literal form's own α, so that a wrong forward is not blamed on the
    backward.
    """
    target, source, attention, upstream = attention_inputs(case, shape, dtype, table)
    names = ("grad_target", "grad_source", "grad_attention")
    leaves = [tensor.double().requires_grad_() for tensor in (target, source, attention)]
    aggregated, alpha = literal_attention(leaves[0], leaves[1], leaves[2], table)
    want = torch.autograd.grad(aggregated, leaves, upstream.double())
    alpha, adjacency = alpha.detach().float(), kernels.reversed_adjacency(table, len(source))
    got = twice(
        lambda: kernels.attention_backward(
            upstream, target, source, attention, alpha, table, adjacency
        ),
        names,
    )
    yield from zip(names, got, want, strict=True)


def score_values(
    case: Case, shape: Shape, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Scores [N] and the gradients [N, D] of what the output is made of."""
    generator, sizes = torch.Generator().manual_seed(4), case.sizes
    nodes, scale = sizes.images * sizes.categories, 4.0
    mixed, rows = (random(generator, case, dtype, nodes, shape.width) for _ in range(2))
    upstream = random(generator, case, torch.float32, nodes)
    text = F.normalize(
        random(generator, case, torch.float32, 1, sizes.categories, shape.width), dim=-1
    ).expand(sizes.images, -1, -1)
    leaves = [tensor.double().requires_grad_() for tensor in (rows, mixed)]
    output = (leaves[0] + F.elu(leaves[1])).view(text.shape)
    want = (scale * F.cosine_similarity(output, text.double(), dim=-1)).flatten()
    grads = torch.autograd.grad(want, leaves, upstream.double())
    names = ("scores", "grad_rows", "grad_mixed")

    def call() -> tuple[Tensor, ...]:
        grad_rows, grad_mixed = kernels.scores_backward(upstream, mixed, rows, text, scale)
        assert grad_rows is not None
        return kernels.scores(mixed, rows, text, scale), grad_rows, grad_mixed

    yield from zip(names, twice(call, names), (want.detach(), *grads), strict=True)


def literal_attention(
    target: Tensor, source: Tensor, attention: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """GATv2 on the whole [M, K, H, d] tensor, for autograd -> aggregated [M, D], α [M, K, H]."""
    (heads, width), present = attention.shape, (table >= 0)[..., None]
    s = source[table.clamp(min=0).long()].unflatten(-1, (heads, width))
    t = target.unflatten(-1, (heads, width))[:, None]
    logits = (F.leaky_relu(t + s, 0.2) * attention).sum(-1)
    logits = logits.masked_fill(~present, -torch.inf)
    share = torch.exp(logits - logits.detach().amax(1, keepdim=True).clamp(min=-1e30))
    alpha = share / share.sum(1, keepdim=True).clamp(min=1e-300)
    return (alpha[..., None] * s).sum(1).flatten(1), alpha
