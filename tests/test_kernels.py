"""The Triton kernels against the literal forms in float64: under Triton's interpreter, and on a GPU
where there is one.

The interpreter must be chosen before Triton is first imported, and other tests' libraries import
Triton. So the checks run in a process of their own (`place`), and nothing leaks into the tests
beside them.
"""

import copy
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise, product
from multiprocessing import get_context

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.check.kernels import literal_attention, sorted_assignment
from c2srt.errors import UserError
from c2srt.model import kernels
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.head import Head
from c2srt.model.kernels.shapes import LEAST_SHARED
from c2srt.model.tiling import Tiling
from tests.test_structure import importers
from tests.tiny import random_graph

CPU = torch.device("cpu")
RELATIVE = {
    torch.float32: 2e-5,
    torch.bfloat16: 2**-7,
}  # a GPU rounds to bfloat16 (2^-9), the interpreter truncates (2^-8)
MINUTES = 300
COUNTS = [49, 64, 196, 225, 256, 400, 441, 576, 729, 1024]
WIDTHS = [32, 48, 64, 80, 96, 128, 144, 160, 192]
"""P and d = D / 8 of every ViT of open_clip; a test below holds them to its configs."""
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")


@contextmanager
def process(**environment: str):
    """A function call(check, *arguments) that runs in one new process, whose libraries see the
    environment from the start.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        pool.submit(torch.set_num_threads, 1).result(MINUTES)
        if "TRITON_INTERPRET" in environment:
            pool.submit(mend_index).result(MINUTES)
        patch.undo()
        yield lambda check, *arguments: pool.submit(check, *arguments).result(MINUTES)


def mend_index():
    from c2srt.model.kernels.interpreter import mend_index

    mend_index()


@pytest.fixture(scope="module", params=["interpreter"] + ["cuda"] * torch.cuda.is_available())
def place(request):
    """Calls check(device, *arguments) under the interpreter or on the GPU."""
    if request.param == "cuda":
        yield lambda check, *arguments: check(torch.device("cuda"), *arguments)
        return
    with process(TRITON_INTERPRET="1", PYTHONWARNINGS="ignore") as call:
        yield lambda check, *arguments: call(check, CPU, *arguments)


# ISR


def check_assignment(device, sizes, dtype, scale, threshold, most, weighted, per_image=False):
    images, count, categories, width = sizes
    generator = torch.Generator().manual_seed(3)
    patches = (3 * torch.randn(images, count, width, generator=generator)).to(dtype).to(device)
    shape = (images, categories, width) if per_image else (categories, width)
    text = F.normalize(torch.randn(shape, generator=generator), dim=-1).to(device)
    assert kernels.supported(patches)
    got = kernels.assignment(patches, text, scale, threshold, most, weighted)
    want, clear = sorted_assignment(patches, text, scale, threshold, most, weighted)
    assert got.dtype == dtype and got.shape == want.shape and clear.float().mean() > 0.9
    assert torch.equal(got[clear] > 0, want[clear] > 0)
    torch.testing.assert_close(got[clear].double(), want[clear], rtol=RELATIVE[dtype], atol=1e-7)
    assert torch.equal(got, kernels.assignment(patches, text, scale, threshold, most, weighted))


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
def test_isr_is_the_sorted_form(place, dtype, weighted):
    place(
        check_assignment, (2, 49, 67, 40), dtype, 20.0, 0.5, 32, weighted
    )  # no size is a multiple of its block


@needs_triton
@pytest.mark.parametrize(
    "scale, threshold, most", [(5.0, 0.9, 7), (20.0, 0.5, 1), (3.0, 1.0, 5), (3.0, 1.0, 13)]
)
def test_isr_where_the_cap_binds(place, scale, threshold, most):
    place(check_assignment, (1, 13, 21, 24), torch.float32, scale, threshold, most, False)


@needs_triton
def test_isr_at_full_patch_count_with_texts_of_each_image(place):
    place(check_assignment, (2, 196, 30, 32), torch.float32, 30.0, 0.6, 32, False, True)


def check_ties(device, threshold, most, scale):
    """Unit patches and dyadic texts: equal cosines are equal bit by bit, in any order of
    summation.
    """
    width, copies = 16, 3
    patches = torch.eye(width, device=device)[torch.arange(width * copies, device=device) % 5][None]
    text = torch.zeros(4, width, device=device)
    text[0, :5] = torch.tensor([0.5, 0.5, 0.5, 0.25, 0.25])
    text[1, 2] = 1
    text[2, :5] = torch.tensor([-1.0, 0.5, 0.25, 0.5, -0.5])
    want, _ = sorted_assignment(patches, text, scale, threshold, most, False)
    got = kernels.assignment(patches, text, scale, threshold, most, False)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=0)
    return (got > 0).sum(-1)[0].tolist()


@needs_triton
@pytest.mark.parametrize(
    "scale, threshold, most", [(4.0, 0.51, 48), (4.0, 0.9, 6), (100.0, 0.53, 48), (0.0, 0.53, 48)]
)
def test_isr_takes_exactly_n_of_equal_scores(place, scale, threshold, most):
    counts = place(check_ties, threshold, most, scale)
    if scale == 0:
        assert counts == [26, 26, 26, 26]  # the smallest n with n / 48 ≥ 0.53
    assert max(counts) <= most


def check_not_a_number(device):
    patches = torch.randn(2, 9, 16, device=device)
    patches[0, 4] = torch.nan
    pooled = (
        kernels.assignment(
            patches, F.normalize(torch.ones(3, 16, device=device), dim=-1), 5.0, 0.5, 4, False
        )
        @ patches
    )
    assert pooled[0].isnan().all() and pooled[1].isfinite().all()


@needs_triton
def test_isr_ends_on_not_a_number_and_passes_it_on(place):
    place(check_not_a_number)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", COUNTS)
def test_isr_at_every_number_of_patches_of_open_clip(place, count, dtype):
    place(check_assignment, (1, count, 1, 16), dtype, 20.0, 0.5, 32, False)


def check_text_in_place(device):
    """One text of all images is read where it lies, as are rows that lie apart."""
    from c2srt.model.kernels.isr import in_rows

    patches = torch.randn(3, 20, 32, device=device)
    text = F.normalize(torch.randn(9, 32, device=device), dim=-1)
    apart = torch.zeros(9, 64, device=device)[:, :32].copy_(text)
    want = kernels.assignment(patches, text, 5.0, 0.5, 4, False)
    for form in (text.expand(3, -1, -1), text.repeat(3, 1, 1), apart, apart.expand(3, -1, -1)):
        assert in_rows(form, form.dtype).data_ptr() == form.data_ptr()
        assert torch.equal(kernels.assignment(patches, form, 5.0, 0.5, 4, False), want)
    turned = text.T.contiguous().T
    assert torch.equal(kernels.assignment(patches, turned, 5.0, 0.5, 4, False), want)


@needs_triton
def test_isr_copies_no_text(place):
    place(check_text_in_place)


# GATv2


def make_graph(targets: int, sources: int, slots: int, seed: int) -> Tensor:
    """A table [M, K] with missing entries, a hub (source 2 in nearly every row), deaf targets (row
    3 and the last) and a source that nobody hears (the last).
    """
    table = torch.randint(
        -1, sources - 1, (targets, slots), generator=torch.Generator().manual_seed(seed)
    )
    table[:, -1] = 2
    table[3] = table[-1] = -1
    return table


def check_attention(device, sizes, dtype, index_dtype):
    targets, sources, slots, heads, width = sizes
    generator = torch.Generator().manual_seed(5)
    shapes = (
        (targets, heads * width),
        (sources, heads * width),
        (targets, heads * width),
        (heads, width),
    )
    target, source, upstream, attention = (
        torch.randn(shape, generator=generator).to(dtype).to(device) for shape in shapes
    )
    attention /= width**0.5  # else one neighbour takes all, and nothing has a gradient
    table = make_graph(targets, sources, slots, 7).to(index_dtype).to(device)
    assert kernels.supported(source, heads, slots)

    def both():
        aggregated, alpha = kernels.attention_forward(target, source, attention, table)
        adjacency = kernels.reversed_adjacency(table, sources)
        return (
            aggregated,
            alpha,
            *kernels.attention_backward(
                upstream, target, source, attention, alpha, table, adjacency
            ),
        )

    leaves = [tensor.double().requires_grad_() for tensor in (target, source, attention)]
    aggregated, alpha = literal_attention(*leaves, table)
    want = (aggregated, alpha, *torch.autograd.grad(aggregated, leaves, upstream.double()))
    got = both()
    assert [tensor.dtype for tensor in got] == [dtype, torch.float32, dtype, dtype, torch.float32]
    for name, value, expected in zip(
        ("aggregated", "alpha", "grad_target", "grad_source", "grad_attention"),
        got,
        want,
        strict=True,
    ):
        torch.testing.assert_close(
            value.double(),
            expected.detach(),
            rtol=RELATIVE[value.dtype],
            atol=1e-5 * expected.abs().max().item(),
            msg=lambda text, name=name: f"{name}: {text}",
        )
    assert not got[0][[3, -1]].any() and not got[1][[3, -1]].any() and not got[3][-1].any()
    assert all(torch.equal(one, other) for one, other in zip(got, both(), strict=True))


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", WIDTHS)
def test_attention_at_every_head_width_of_open_clip(place, width, dtype):
    """Two heads: a width is not more right in eight. A ragged table, nodes without neighbours."""
    place(check_attention, (7, 5, 3, 2, width), dtype, torch.int64)


@needs_triton
def test_attention_over_one_category_of_one_image(place):
    place(check_one_node)


def check_one_node(device):
    """Its own only neighbour: α = 1, and nothing to learn for the attention."""
    rows, attention = torch.randn(1, 48, device=device), torch.randn(2, 24, device=device)
    table = torch.zeros(1, 1, dtype=torch.int64, device=device)
    aggregated, alpha = kernels.attention_forward(rows, rows, attention, table)
    around = (table, kernels.reversed_adjacency(table, 1))
    grads = kernels.attention_backward(rows, rows, rows, attention, alpha, *around)
    assert torch.equal(aggregated, rows) and alpha.eq(1).all()
    assert torch.equal(grads[1], rows) and not grads[0].any() and not grads[2].any()


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "sizes, index_dtype",
    [
        ((37, 29, 5, 2, 16), torch.int64),  # M, N, K, H, d; ragged
        (
            (170, 11, 3, 3, 16),
            torch.int32,
        ),  # a hub over two whole segments; heads not a power of two
        ((9, 8, 4, 8, 64), torch.int64),  # the width of CLIP's ViT-B
        ((6, 7, 1, 1, 32), torch.int64),  # one neighbour: no gradient through the softmax
    ],
)
def test_attention_is_autograd_of_the_literal_form(place, sizes, dtype, index_dtype):
    place(check_attention, sizes, dtype, index_dtype)


def check_long_walks(device):
    """Many segments in a hub's list, and programs that walk several blocks of targets."""
    from c2srt.model.kernels import gat

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gat, "SEGMENT", 8)
        patch.setattr(gat, "RESIDENT_WARPS", 2)
        check_attention(device, (24, 6, 2, 8, 64), torch.float32, torch.int64)


@needs_triton
def test_long_walks(place):
    place(check_long_walks)


def check_empty(device):
    rows, attention = torch.zeros(3, 32, device=device), torch.ones(2, 16, device=device)
    table = torch.zeros(0, 2, dtype=torch.int64, device=device)
    aggregated, alpha = kernels.attention_forward(rows[:0], rows, attention, table)
    grads = kernels.attention_backward(
        rows[:0], rows[:0], rows, attention, alpha, table, kernels.reversed_adjacency(table, 3)
    )
    assert (
        aggregated.shape == (0, 32)
        and [len(grad) for grad in grads] == [0, 3, 2]
        and not any(grad.any() for grad in grads)
    )
    assert kernels.assignment(rows[None], rows[:0], 1.0, 0.5, 2, False).shape == (1, 0, 3)


@needs_triton
def test_nothing_to_do(place):
    place(check_empty)


# Scores


def check_scores(device, width, dtype, residual, images, categories):
    """Against autograd of the literal form; rows that lie apart, a text of all images or of
    each.
    """
    generator = torch.Generator().manual_seed(6)
    nodes, scale = images * categories, 4.0
    mixed, rows = (
        torch.randn(nodes, 2 * width, generator=generator).to(dtype).to(device)[:, :width]
        for _ in range(2)
    )
    mixed, upstream = mixed.contiguous(), torch.randn(nodes, generator=generator).to(device)
    mixed[0] *= 1e-3  # where exp(y) − 1 would cancel
    every = F.normalize(torch.randn(images, categories, width, generator=generator), dim=-1)
    for text in (every.to(device), every.to(device)[:1].expand(images, -1, -1)):
        leaves = [mixed.double().requires_grad_(), rows.double().requires_grad_()][: 1 + residual]
        output = F.elu(leaves[0]) + (leaves[1] if residual else 0)
        exact = F.cosine_similarity(output.view(text.shape), text.double(), dim=-1).flatten()
        want = torch.autograd.grad(scale * exact, leaves, upstream.double())
        given = (mixed, rows if residual else None, text, scale)
        got = kernels.scores(*given)
        torch.testing.assert_close(got.double(), scale * exact.detach(), rtol=2e-5, atol=1e-6)
        grad_rows, grad_mixed = kernels.scores_backward(upstream, *given)
        assert (grad_rows is None) == (not residual)
        for found, right in zip((grad_mixed, grad_rows), want, strict=False):
            near = 1e-5 * right.abs().max().item()
            torch.testing.assert_close(found.double(), right, rtol=RELATIVE[dtype], atol=near)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "width, residual, images, categories",
    [(32, True, 3, 7), (48, False, 2, 5), (1152, True, 2, 3), (640, True, 1, 1)],
)
def test_scores_are_autograd_of_the_literal_form(place, width, dtype, residual, images, categories):
    place(check_scores, width, dtype, residual, images, categories)


def test_reversed_adjacency_lists_every_edge_once():
    table = make_graph(40, 12, 3, 1)
    offsets, edges = kernels.reversed_adjacency(table, 12)
    lists = [
        [i for i, node in enumerate(table.flatten().tolist()) if node == source]
        for source in range(12)
    ]
    assert [edges[a:b].tolist() for a, b in pairwise(offsets)] == lists
    assert offsets.dtype == edges.dtype == torch.int32
    with pytest.raises(UserError, match="names row 10 of 10 sources"):
        kernels.reversed_adjacency(table, 10)


# Where they can run


def check_supported(device):
    patches, nodes = torch.zeros(1, 196, 512, device=device), torch.zeros(4, 512, device=device)
    assert kernels.supported(patches) and kernels.supported(nodes.bfloat16(), 8, 5)
    assert not kernels.supported(patches.double()) and not kernels.supported(patches.half())
    assert not kernels.supported(torch.zeros(1, 1025, 8, device=device))
    assert not kernels.supported(nodes, 3) and kernels.supported(nodes, 64)
    assert not kernels.supported(torch.zeros(1, 8192, device=device), 8)
    assert not kernels.supported(nodes, 8, 65)


@needs_triton
def test_supported_shapes(place):
    place(check_supported)


def check_all_supported(device, shapes):
    for (count, width), dtype in product(shapes, (torch.float32, torch.bfloat16)):
        patches = torch.empty(1, count, width, dtype=dtype, device=device)
        assert kernels.supported(patches) and kernels.supported(patches[0], 8, 5), (count, width)


@needs_triton
@pytest.mark.skipif(find_spec("open_clip") is None, reason="needs open_clip")
def test_every_vit_of_open_clip_is_supported(place):
    from c2srt.backbone.shapes import head_shapes

    shapes = list(head_shapes())
    assert sorted({count for count, _ in shapes}) == COUNTS
    assert sorted({width // 8 for _, width in shapes}) == WIDTHS
    place(check_all_supported, shapes)


@pytest.mark.skipif(kernels.interpreted(), reason="the whole suite runs under the interpreter")
def test_a_cpu_takes_the_torch_path():
    assert not kernels.supported(torch.zeros(1, 4, 8)) and not kernels.supported(
        torch.zeros(4, 32), 2
    )


def test_triton_is_imported_by_the_kernels_only():
    assert all(path.startswith("c2srt/model/kernels/") for path in importers("triton"))


def compile_all(count):
    """{kernel: (shared bytes, has wgmma, stack bytes)} of what an H100 or H200 would run in
    bfloat16.
    """
    from c2srt.model.kernels.compiled import compile_attention, compile_isr

    sizes = (90, count, 512, 8, torch.bfloat16)
    found = compile_isr(*sizes) + compile_attention(*sizes)
    return {one.kernel: (one.shared, "wgmma" in one.ptx, one.stack) for one in found}


@needs_triton
@pytest.mark.parametrize("count", [49, pytest.param(196, marks=pytest.mark.long)])
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path, count):
    with process(TRITON_CACHE_DIR=str(tmp_path)) as call:
        compiled = call(compile_all, count)
    assert set(compiled) == {
        "assignment_kernel",
        "forward_kernel",
        "target_kernel",
        "segment_kernel",
        "source_kernel",
    }
    assert compiled["assignment_kernel"][1], "the tensor cores of Hopper are not used"
    assert all(shared <= LEAST_SHARED and stack == 0 for shared, _, stack in compiled.values())


# the head through the kernels


def check_head(device, fold):
    """Loss and gradients of the whole head with the kernels, against the torch path of the same
    tiles in float64.
    """
    torch.manual_seed(0)
    config = ModelConfig(max_patches=5, heads=2, neighbours=3, init="literal")
    exact, graph = Head(32, config, 5.0).double(), random_graph(37, 37, 32, 3, dtype=torch.double)
    patches, global_ = (
        torch.randn(3, 9, 32, dtype=torch.double),
        torch.randn(3, 32, dtype=torch.double),
    )
    labels, plan = torch.randint(-1, 2, (3, 37)), Tiling(2, 37, 0, fold)
    found = []
    for dtype in (torch.float64, torch.float32):
        head = copy.deepcopy(exact).to(device, dtype)
        near = Graph(graph.text.to(device, dtype), graph.table.to(device))
        leaves = [
            patches.to(device, dtype).requires_grad_(),
            global_.to(device, dtype).requires_grad_(),
        ]
        assert kernels.supported(leaves[0]) == (dtype == torch.float32)
        loss, _ = head(
            *leaves,
            labels.to(device),
            torch.ones(3, device=device, dtype=dtype),
            near,
            LossConfig(),
            plan,
        )
        found.append([loss, *torch.autograd.grad(loss, [*leaves, *head.parameters()])])
    for want, got in zip(*found, strict=True):
        assert (got.double() - want).norm() <= 2e-5 * want.norm()


@needs_triton
@pytest.mark.parametrize("fold", [True, False])
def test_the_head_takes_the_kernels_and_agrees_with_torch(place, fold):
    place(check_head, fold)
