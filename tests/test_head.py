"""The tiled head against its literal twin (sort + gather, PyG's GATv2Conv, pairwise loss), in
float64.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from c2srt.errors import UserError
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.head import Head
from c2srt.model.isr import assignment, count_patches, largest
from c2srt.model.ist import with_self_loops
from c2srt.model.literal import literal_scores, local_features
from c2srt.model.loss import pairwise_ranking_loss
from c2srt.model.subgraph import dense, k_hop, subgraph_tiles
from c2srt.model.tiling import Tiling
from tests.tiny import random_graph

B, P, C, SEEN, D, K = 3, 9, 23, 20, 16, 3
TILES = [
    Tiling(1, 5, 0),
    Tiling(2, 7, 0, True),
    Tiling(3, 23, 0, True),
    Tiling(3, 23, 0),
    Tiling(2, 1, 0, True),
]


def named(tiling: Tiling) -> str:
    """In the names of tests: as before the class had this one."""
    return f"Plan{str(tiling).removeprefix('Tiling')}"


CONFIGS = {
    "full": {},
    "literal init": {"init": "literal"},
    "weighted, deep input, no residual": {
        "init": "literal",
        "pooling": "weighted",
        "input_layers": 3,
        "residual": False,
    },
    "one head, one layer, no self-loops": {
        "init": "literal",
        "heads": 1,
        "layers": 1,
        "self_loops": False,
    },
    "heads of width 1": {"init": "literal", "heads": 16},
    "only self-loops": {"init": "literal", "neighbours": 0},
    "all patches": {"threshold": 1.0, "max_patches": P},
    "no cap": {"threshold": 1.0, "max_patches": 1 << 16},
    "one patch": {"threshold": 1e-6},
    "no ISR": {"isr": False, "init": "literal"},
    "no IST": {"ist": False},
    "neither": {"isr": False, "ist": False},
}


def inputs(config: ModelConfig, seed: int = 0, graph: Graph | None = None):
    torch.manual_seed(seed)
    head = Head(D, config, 3.0).double()
    graph = graph or random_graph(C, SEEN, D, K, seed, torch.double)
    graph = Graph(graph.text, graph.table[:, : config.neighbours])
    patches, global_ = (
        torch.randn(B, P, D, dtype=torch.double),
        torch.randn(B, D, dtype=torch.double),
    )
    return (
        head,
        graph,
        patches.requires_grad_(),
        global_.requires_grad_(),
        torch.randint(-1, 2, (B, C)),
    )


@pytest.mark.parametrize("plan", TILES, ids=named)
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_values_and_gradients_equal_the_literal_head(changes, plan):
    config, loss = (
        ModelConfig(**{"max_patches": 3, "heads": 4, "neighbours": K, **changes}),
        LossConfig(),
    )
    plan = replace(plan, fold=plan.fold and config.ist and config.input_layers == 1)
    head, graph, patches, global_, labels = inputs(config)
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.double)
    leaves = [patches, global_, *head.parameters()]

    scores, counts = literal_scores(head, patches, global_, graph)
    literal = (weights * pairwise_ranking_loss(scores, labels, loss)).mean()
    expected = torch.autograd.grad(literal, leaves, allow_unused=True)
    tiled, statistics = head(patches, global_, labels, weights, graph, loss, plan)
    found = torch.autograd.grad(tiled, leaves, allow_unused=True)

    assert tiled.item() == pytest.approx(literal.item(), abs=1e-12)
    for mine, theirs, leaf in zip(found, expected, leaves, strict=True):
        zero = torch.zeros_like(leaf)
        torch.testing.assert_close(
            zero if mine is None else mine, zero if theirs is None else theirs, rtol=0, atol=1e-9
        )
    tiled_scores, tiled_counts = head.scores(patches, global_, graph, plan)
    torch.testing.assert_close(tiled_scores, scores, rtol=0, atol=1e-9)
    if config.isr:
        assert torch.equal(tiled_counts, counts)
        assert statistics[0].item() == pytest.approx(counts.double().mean().item(), rel=1e-6)
        assert statistics[1].item() == pytest.approx(
            (counts >= config.max_patches).double().mean().item(), abs=1e-6
        )


@pytest.mark.parametrize("unverified", ["negative", "ignore"])
def test_the_plain_sum_over_pairs_too(unverified):
    config, loss = (
        ModelConfig(max_patches=3, heads=4, neighbours=K, init="literal"),
        LossConfig(reduction="sum", unverified=unverified),
    )
    head, graph, patches, global_, labels = inputs(config)
    leaves, weights = [patches, global_, *head.parameters()], torch.ones(B, dtype=torch.double)
    scores, _ = literal_scores(head, patches, global_, graph)
    expected = torch.autograd.grad(
        pairwise_ranking_loss(scores, labels, loss).mean(), leaves, allow_unused=True
    )
    found = torch.autograd.grad(
        head(patches, global_, labels, weights, graph, loss, Tiling(1, 9, 0, True))[0],
        leaves,
        allow_unused=True,
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-9)


def test_gradients_scale_with_the_upstream_gradient():
    head, graph, patches, global_, labels = inputs(
        ModelConfig(max_patches=5, heads=4, neighbours=K, init="literal")
    )
    plan, loss, weights = Tiling(2, 7, 0), LossConfig(), torch.ones(B, dtype=torch.double)
    once = torch.autograd.grad(
        head(patches, global_, labels, weights, graph, loss, plan)[0], [patches, head.source]
    )
    scaled = torch.autograd.grad(
        1024 * head(patches, global_, labels, weights, graph, loss, plan)[0], [patches, head.source]
    )
    for one, many in zip(once, scaled, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(1024 * one, many, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 2e-5), (torch.bfloat16, 6e-2), (torch.float16, 2e-3)]
)
def test_lower_precision_stays_near_float64(dtype, tolerance):
    config = ModelConfig(max_patches=5, heads=4, neighbours=K, init="literal")
    head, graph, patches, global_, labels = inputs(config)
    plan, loss, weights = Tiling(2, 7, 0), LossConfig(), torch.ones(B)
    exact = torch.autograd.grad(
        head(patches, global_, labels, weights.double(), graph, loss, plan)[0], head.output
    )[0]
    low = Head(D, config, 3.0)
    low.load_state_dict(head.state_dict())
    low.to(dtype)
    graph32 = Graph(graph.text.float(), graph.table)
    total, _ = low(
        patches.detach().to(dtype).requires_grad_(),
        global_.detach().to(dtype).requires_grad_(),
        labels,
        weights,
        graph32,
        loss,
        plan,
    )
    found = torch.autograd.grad(total, low.output)[0]
    assert found.dtype == dtype
    assert (found.double() - exact).norm() / exact.norm() < tolerance


def test_scores_of_a_nan_image_do_not_touch_its_neighbours():
    head, graph, patches, global_, _ = inputs(ModelConfig(max_patches=5, heads=4, neighbours=K))
    broken = patches.detach().clone()
    broken[1] = float("nan")
    clean, _ = head.scores(patches, global_, graph, Tiling(3, 7, 0))
    scores, _ = head.scores(broken, global_, graph, Tiling(3, 7, 0))
    assert scores[1].isnan().all()
    assert torch.equal(scores[[0, 2]], clean[[0, 2]])


def test_initially_the_full_model_scores_like_its_image_feature():
    """init=clip: step 0 is cosine((f_L + f_G) / 2, text), and without ISR CLIP's own zero-shot
    score.
    """
    head, graph, patches, global_, _ = inputs(
        ModelConfig(isr=False, heads=4, neighbours=K, score_scale=3.0)
    )
    scores, _ = head.scores(patches, global_, graph, Tiling(3, 7, 0))
    torch.testing.assert_close(scores, 3 * F.normalize(global_, dim=-1).detach() @ graph.text.T)


def test_a_category_hears_itself_and_its_neighbours_only():
    head, graph, patches, global_, _ = inputs(
        ModelConfig(max_patches=5, heads=4, layers=1, neighbours=K, init="literal")
    )
    scores, _ = head.scores(patches, global_, graph, Tiling(3, 7, 0))
    moved = graph.text.clone()
    moved[5] = F.normalize(torch.randn(D, dtype=torch.double), dim=-1)
    after, _ = head.scores(patches, global_, Graph(moved, graph.table), Tiling(3, 7, 0))
    changed = ((after - scores).abs() > 1e-12).any(0)
    listeners = (graph.table == 5).any(1)
    listeners[5] = True
    assert torch.equal(changed, listeners)


def test_isr_takes_the_fewest_best_patches_that_reach_the_threshold():
    text = F.normalize(torch.randn(4, 6, dtype=torch.double), dim=-1)
    patches = torch.randn(2, 8, 6, dtype=torch.double)
    pooling = assignment(patches, text, 5.0, 0.6, 8, weighted=False)
    softmax = (5 * F.normalize(patches, dim=-1) @ text.T).transpose(1, 2).softmax(-1)
    for scores, row in zip(softmax.flatten(0, 1), pooling.flatten(0, 1), strict=True):
        order, taken = scores.argsort(descending=True), []
        while scores[taken].sum() < 0.6:
            taken.append(order[len(taken)].item())
        assert sorted(taken) == row.nonzero().flatten().tolist()
        assert row.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("most", (1, 5, 16))
def test_the_largest_scores_are_those_of_topk(most):
    scores = torch.rand(3, 40, 16, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    scores[0, 0, 3] = float("nan")
    for some in (scores, scores.double(), scores[:, :, ::2].repeat(1, 1, 2)):
        found, _ = largest(some, most)
        assert torch.equal(found.nan_to_num(-1), some.topk(most, dim=-1).values.nan_to_num(-1))


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_the_threshold_1_takes_every_patch_that_the_cap_lets_it(dtype):
    """At CLIP's own scale rounded sums of softmax scores reach 1 after a few patches."""
    torch.manual_seed(0)
    patches = torch.randn(2, 49, 16, dtype=dtype)
    text = F.normalize(torch.randn(20, 16, dtype=dtype), dim=-1)
    softmax = (100 * F.normalize(patches, dim=-1) @ text.T).softmax(1)
    assert (softmax.sort(1, descending=True).values.cumsum(1)[:, -2] >= 1).any()
    for most, expected in ((1 << 16, 49), (7, 7)):
        config = ModelConfig(threshold=1.0, max_patches=most, heads=4)
        pooling = assignment(patches, text, 100.0, config.enough, most, weighted=False)
        assert ((pooling > 0).sum(-1) == expected).all()
        head = Head(16, config, 100.0).to(dtype)
        assert (local_features(head, patches[0], text)[1] == expected).all()
    assert ModelConfig(threshold=0.75).enough == 0.75


def test_literal_isr_pools_what_the_assignment_pools():
    head, graph, patches, _, _ = inputs(ModelConfig(max_patches=4, heads=4, threshold=0.6))
    local, counts = local_features(head, patches[0].detach(), graph.text)
    pooling = assignment(patches[:1].detach(), graph.text, 3.0, 0.6, 4, weighted=False)
    torch.testing.assert_close((pooling @ patches[:1].detach())[0], local)
    assert counts.max() == 4 and counts.min() < 4


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="heads=5 does not divide the joint width 16"):
        Head(16, ModelConfig(heads=5), 1.0)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"threshold": 0.0}, "isr=false"),
        ({"form": "fast"}, "not one of"),
        ({"residual": False}, "residual=true"),
        ({"neighbours": 0, "self_loops": False}, "neighbours"),
        ({"score_scale": 0.0}, "above 0"),
        ({"layers": 0}, "at least 1"),
    ],
)
def test_senseless_settings_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        ModelConfig(**changes)


IGNORE = LossConfig(unverified="ignore")


def sparse_labels(verified: list[int]) -> torch.Tensor:
    """[B, C] with so many verified categories an image, half of them present."""
    labels = torch.zeros(len(verified), C, dtype=torch.long)
    for row, count in zip(labels, verified, strict=True):
        row[torch.randperm(C)[:count]] = torch.tensor([1, -1])[torch.arange(count) % 2]
    return labels


@pytest.mark.parametrize(
    "plan",
    [Tiling(1, 5, 0), Tiling(3, 23, 0, True), Tiling(1, 2, 0, True), Tiling(2, 23, 0)],
    ids=named,
)
@pytest.mark.parametrize(
    "changes",
    [
        CONFIGS[name]
        for name in (
            "full",
            "weighted, deep input, no residual",
            "no ISR",
            "no IST",
            "one head, one layer, no self-loops",
        )
    ],
)
@pytest.mark.parametrize("verified", [[2, 3, 1], [0, 2, C], [0, 0, 0]], ids=str)
def test_closures_of_verified_categories_give_the_dense_values_and_gradients(
    changes, plan, verified
):
    config = ModelConfig(**{"max_patches": 3, "heads": 4, "neighbours": K, **changes})
    plan = replace(plan, fold=plan.fold and config.ist and config.input_layers == 1)
    head, graph, patches, global_, _ = inputs(config, seed=1)
    graph.table[graph.table == 0] = 7  # a hub would fill every closure
    labels, weights = sparse_labels(verified), torch.tensor([1.0, 0.5, 2.0], dtype=torch.double)
    leaves = [patches, global_, *head.parameters()]
    scores, _ = literal_scores(head, patches, global_, graph)
    literal = (weights * pairwise_ranking_loss(scores, labels, IGNORE)).mean()
    expected = torch.autograd.grad(literal, leaves, allow_unused=True)
    tiled, _ = head(patches, global_, labels, weights, graph, IGNORE, plan)
    assert tiled.item() == pytest.approx(literal.item(), abs=1e-12)
    for mine, theirs, leaf in zip(
        torch.autograd.grad(tiled, leaves, allow_unused=True), expected, leaves, strict=True
    ):
        torch.testing.assert_close(
            mine, torch.zeros_like(leaf) if theirs is None else theirs, rtol=0, atol=1e-9
        )


def test_a_closure_holds_what_the_scores_need_and_no_more():
    table = with_self_loops(random_graph(200, 200, 4, 2, seed=3).table, True)
    table[table == 0] = 5
    labels = torch.zeros(2, 200, dtype=torch.long)
    labels[0, 17], labels[1, 3] = 1, -1
    mask = k_hop(labels, table, 2)
    for row, start in zip(mask, (17, 3), strict=True):
        heard = {start}
        for _ in range(2):
            heard |= {int(j) for i in heard for j in table[i] if j >= 0}
        assert set(row.nonzero().flatten().tolist()) == heard
    tiles = subgraph_tiles(mask, table, 1000)
    assert [tile.images.numel() for tile in tiles] == [2]
    for image, categories, present, places in zip(
        tiles[0].images, tiles[0].categories, tiles[0].present, tiles[0].table, strict=True
    ):
        assert categories[present].tolist() == mask[image].nonzero().flatten().tolist()
        for category, row in zip(categories[present], places[present], strict=True):
            inside = [int(j) for j in table[category] if j >= 0 and mask[image, j]]
            assert categories[row[row >= 0]].tolist() == inside
    assert not mask.all() and dense(torch.ones(2, 5, dtype=torch.bool)) == [0, 1]


def test_features_that_are_not_finite_give_nan_and_not_a_number_that_looks_right():
    head, graph, patches, global_, labels = inputs(
        ModelConfig(max_patches=5, heads=4, neighbours=K)
    )
    broken = patches.detach().clone()
    broken[1, 0, 0] = float("inf")
    broken.requires_grad_()
    loss, _ = head(
        broken,
        global_,
        labels,
        torch.ones(B, dtype=torch.double),
        graph,
        LossConfig(),
        Tiling(2, 7, 0, True),
    )
    loss.backward()
    assert loss.isnan() and all(
        p.grad.isnan().all()
        for p in (broken, global_, *(p for p in head.parameters() if p.dim() < 3))
    )


def test_equal_scores_at_the_border_are_taken_as_often_as_needed():
    patches = torch.ones(1, 6, 4, dtype=torch.double)
    text = torch.full((2, 4), 0.5, dtype=torch.double)
    assert count_patches(assignment(patches, text, 5.0, 0.5, 6, weighted=False)).tolist() == [
        [3, 3]
    ]
    assert count_patches(assignment(patches, text, 5.0, 1.0, 2, weighted=True)).tolist() == [[2, 2]]


@pytest.mark.parametrize("batch, sentence", [(0, "no image"), (B, "labels are")])
def test_an_empty_batch_and_labels_of_another_vocabulary_are_refused(batch, sentence):
    head, graph, patches, global_, labels = inputs(
        ModelConfig(max_patches=5, heads=4, neighbours=K)
    )
    with pytest.raises(UserError, match=sentence):
        head(
            patches[:batch],
            global_[:batch],
            labels[:batch, : C - 1],
            torch.ones(batch),
            graph,
            LossConfig(),
            Tiling(2, 7, 0),
        )
