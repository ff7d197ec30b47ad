"""RAM: its plan, its ladder, its scores and its loss, each against its formula written out."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.backbone.clip import load_clip
from c2srt.errors import UserError
from c2srt.model.baselines.ladder import LocalAdapter
from c2srt.model.baselines.ram import contrastive
from c2srt.model.baselines.transport import (
    HELD,
    Knowledge,
    Transport,
    kernel_of,
    plan_of,
    presence,
    sinkhorn,
    transported,
)
from c2srt.model.build import build_student
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.profiling import allocator_peak
from tests.test_backbone import TINY, config_file
from tests.test_baselines import ROOMY, SEEN, batch, student
from tests.tiny import random_graph, tiny_clip

B, P, C, D = 3, 4, 5, 6
TRAINED = Transport(20.0, 0.1, 0.05)
FREE = Transport(20.0, 0.1, 0.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def units(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.double), dim=-1)


def softmax(values: list[float]) -> list[float]:
    whole = sum(math.exp(value) for value in values)
    return [math.exp(value) / whole for value in values]


def cosines_of(patches: Tensor, classes: Tensor) -> list[list[float]]:
    return [[float(patch @ category) for category in classes] for patch in patches]


def literal_plan(
    patches: Tensor,
    classes: Tensor,
    transport: Transport,
    frozen: Tensor | None = None,
    positive: Tensor | None = None,
) -> list[list[float]]:
    """The plan of one image, entry by entry, from the equations."""
    cosines = cosines_of(patches, classes)
    cost = [[1 - share for share in softmax([20 * s for s in row])] for row in cosines]
    entropy, (rows, columns) = transport.entropy, (range(len(patches)), range(len(classes)))
    if frozen is not None and positive is not None:
        shares = [softmax([20 * s for s in row]) for row in cosines_of(frozen, classes)]
        q = [softmax([20 * shares[p][c] for p in rows]) for c in columns]  # [C][P]
        least = min(min(column) for column in q)
        told = [[q[c][p] if positive[c] else least for c in columns] for p in rows]
        entropy += transport.knowledge
        cost = [
            [cost[p][c] - transport.knowledge * math.log(told[p][c]) for c in columns] for p in rows
        ]
    gives = softmax([max(row) / 0.1 for row in cosines])
    kernel = [[math.exp(-value / entropy) for value in row] for row in cost]
    r, c = [1.0] * len(rows), [1.0] * len(columns)
    for _ in range(100):
        before = r
        r = [gives[p] / sum(kernel[p][k] * c[k] for k in columns) for p in rows]
        c = [1 / len(columns) / sum(kernel[p][k] * r[p] for p in rows) for k in columns]
        if sum(abs(new - old) for new, old in zip(r, before, strict=True)) / len(rows) < 1e-3:
            break
    return [[r[p] * kernel[p][k] * c[k] for k in columns] for p in rows]


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("budget", [1, ROOMY])
def test_a_score_is_the_plan_s_mean_of_cosines_in_value_and_gradient(taught, budget):
    patches, classes = units(B, P, D).requires_grad_(), units(C, D, seed=1)
    frozen, positive = units(B, P, D, seed=2), torch.tensor([[1, 0, 1, 0, 0]] * 2 + [[0] * C]) == 1
    transport = TRAINED if taught else FREE
    knowledge = Knowledge(frozen, positive) if taught else None
    plans = torch.tensor(
        [
            literal_plan(image, classes, transport, *((frozen[i], positive[i]) if taught else ()))
            for i, image in enumerate(patches.detach())
        ],
        dtype=torch.double,
    )
    literal = C * (plans * (patches @ classes.T)).sum(1)
    found = transported(patches, classes, transport, budget, knowledge)
    torch.testing.assert_close(found, literal)
    upstream = units(B, C, seed=3)
    torch.testing.assert_close(
        torch.autograd.grad(found, patches, upstream),
        torch.autograd.grad(literal, patches, upstream),
    )


def test_a_plan_is_the_optimum_of_the_entropic_problem():
    """Its sums are the given ones, and no cycle of four matches lowers ⟨T, M⟩ − ε H(T)."""
    cosines, classes = units(1, P, D) @ units(C, D, seed=1).T, units(C, D, seed=1)
    kernel = kernel_of(cosines, classes, FREE, None)
    cost = -FREE.entropy * kernel.log()
    plan = plan_of(kernel, *sinkhorn(kernel, presence(cosines)))[0]
    torch.testing.assert_close(plan.sum(0), torch.full((C,), 1 / C, dtype=torch.double))
    torch.testing.assert_close(plan.sum(1), presence(cosines)[0], atol=2e-3, rtol=0)
    slope = cost[0] + FREE.entropy * plan.log()
    cycles = slope[1:, 1:] + slope[:1, :1] - slope[1:, :1] - slope[:1, 1:]
    assert cycles.abs().max() < 1e-12


def test_an_image_s_plan_is_its_own_whatever_else_is_in_the_batch():
    patches, classes = units(B, P, D), units(C, D, seed=1)
    patches[2] = patches[2, :1]  # all patches alike: still at once
    together = transported(patches, classes, FREE, ROOMY)
    alone = [transported(image[None], classes, FREE, ROOMY) for image in patches]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("images", [1, 3])
def test_what_is_held_for_the_plans_is_what_the_budget_allows(images):
    patches, classes = units(8, 64, D).float().requires_grad_(), units(2000, D).float()
    knowledge = Knowledge(units(8, 64, D).float(), torch.rand(8, 2000) < 0.01)
    budget = images * HELD * 4 * 64 * 2000

    def peak(budget: int) -> int:
        return allocator_peak(
            lambda: transported(patches, classes, TRAINED, budget, knowledge).sum().backward()
        )

    scores = 3 * 4 * 8 * 2000  # with c, and the upstream gradient
    assert peak(budget) <= budget + 2 * scores
    assert peak(ROOMY) > 2 * budget  # the control


def literal_adapter(adapter: LocalAdapter, patches: Tensor, text: Tensor) -> Tensor:
    """One image [P, W] on a grid of 2 × 2, patch by patch."""
    places = [(row, column) for row in (0, 1) for column in (0, 1)]
    words = adapter.text_norm(text)
    streams = []
    for stream in adapter.streams:
        weight = stream.convolution.weight
        reach = weight.shape[2] // 2
        outs = []
        for row, column in places:
            summed = sum(
                weight[:, :, r - row + reach, c - column + reach] @ patches[place]
                for place, (r, c) in enumerate(places)
                if abs(r - row) <= reach and abs(c - column) <= reach
            )
            normed = F.layer_norm(summed, summed.shape, stream.norm.weight, stream.norm.bias)
            region = normed * (1 + torch.erf(normed / math.sqrt(2))) / 2
            query = F.layer_norm(
                region, region.shape, stream.query_norm.weight, stream.query_norm.bias
            )
            share = (words @ query / math.sqrt(len(query))).exp()
            outs.append(region + share @ words / share.sum())
        streams.append(torch.stack(outs))
    both = torch.cat(streams, 1)
    pooled, weight, result = torch.stack([both.mean(1), both.max(1)[0]]), adapter.gate.weight, []
    for place, (row, column) in enumerate(places):
        gates = [
            sum(
                weight[number, source, r - row + 1, c - column + 1] * pooled[source, other]
                for source in (0, 1)
                for other, (r, c) in enumerate(places)
            ).sigmoid()
            for number in (0, 1)
        ]
        mixed = sum(gate * stream[place] for gate, stream in zip(gates, streams, strict=True))
        result.append(adapter.exit.weight @ mixed)
    return torch.stack(result)


def test_an_adapter_is_its_equations():
    torch.manual_seed(0)
    adapter = LocalAdapter(8, D, (2, 2)).double()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    patches, text = torch.randn(2, 4, 8, dtype=torch.double), units(C, D)
    expected = torch.stack([literal_adapter(adapter, image, text) for image in patches])
    torch.testing.assert_close(adapter(patches, text), expected)


def literal_values(block: nn.Module, tokens: Tensor) -> Tensor:
    """Value-value attention of one image [R, W], head by head and token by token."""
    width, heads = tokens.shape[1], block.attn.num_heads
    rows, biases = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
    values = block.ln_1(tokens) @ rows.T + biases
    mixed = []
    for head in values.split(width // heads, 1):
        share = (head @ head.T / math.sqrt(width // heads)).exp()
        mixed.append(share / share.sum(1, keepdim=True) @ head)
    return torch.cat(mixed, 1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias


def literal_towers(model, images: Tensor, text: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per image: global feature, patches of the ladder, patches of the frozen CLIP, unit rows."""
    steps, ladder, found = model.steps, model.head.ladder, []
    first = len(steps.blocks) - len(ladder.adapters)
    for tokens in steps.embedded(model.pixels(images)):
        local, count, adapted, frozen = tokens, len(tokens), tokens, tokens[1:]
        frozen_tokens = tokens
        for number, block in enumerate(steps.blocks):
            frozen = frozen + literal_values(block, frozen_tokens)[1:]
            frozen_tokens = block(frozen_tokens[None])[0]
            local = local + literal_values(block, adapted)
            if number < first:
                adapted = block(adapted[None])[0]
                continue
            beside = torch.cat([adapted, ladder.prompts[number - first]])
            adapted = block(beside[None])[0, :count]
            adapter = ladder.adapters[number - first]
            added = adapter(adapted[None, 1:], text)[0]
            local = local + torch.cat([adapted[:1], added])
        features = (steps.joint(part[None])[0] for part in (adapted[:1], local[1:], frozen))
        found.append(tuple(F.normalize(part, dim=1) for part in features))
    return found


def test_scores_are_the_mean_of_both_softmaxes(clip):
    model = student(clip, "ram", torch.double)
    images, _ = batch(2)
    text = model.graph_on(images.device).text
    transport = Transport(clip.logit_scale, 0.1, 0.05)
    for found, (global_, patches, _) in zip(
        model.scores(images)[0], literal_towers(model, images, text), strict=True
    ):
        whole = (global_ @ text.T)[0] * model.head.log_scale.exp()
        local = transported(patches[None], text, transport, ROOMY)[0]
        local = local * model.head.local_log_scale.exp()
        torch.testing.assert_close(found, (whole.softmax(0) + local.softmax(0)) / 2)


@pytest.mark.parametrize("unverified", ["negative", "ignore"])
def test_the_loss_is_that_of_both_scores_with_the_frozen_clip_s_knowledge(clip, unverified):
    model = student(clip, "ram", torch.double)
    model.loss = LossConfig(unverified=unverified, distillation=0)
    images, labels = batch(2)
    text = model.graph_on(images.device).text[:SEEN]
    transport, expected = Transport(clip.logit_scale, 0.1, 0.05), 0
    for (global_, patches, frozen), image in zip(
        literal_towers(model, images, text), labels, strict=True
    ):
        knowledge = Knowledge(frozen[None], image[None] == 1)
        local = transported(patches[None], text, transport, ROOMY, knowledge)[0]
        for logits in (
            (global_ @ text.T)[0] * model.head.log_scale.exp(),
            local * model.head.local_log_scale.exp(),
        ):
            known = logits if unverified == "negative" else logits[image != 0]
            positives = logits[image == 1]
            expected += (known.exp().sum().log() - positives).mean() / 2
    ones = torch.ones(2, dtype=torch.double)
    torch.testing.assert_close(model(images, labels, None, ones)["loss"], expected)


def test_an_image_of_which_nothing_is_known_costs_nothing():
    logits = torch.randn(2, C, requires_grad=True)
    positive = torch.zeros(2, C, dtype=torch.bool)
    loss = contrastive(logits, positive, torch.tensor([[False] * C, [True] * C]))
    loss.sum().backward()
    assert not loss.any() and not logits.grad.any()


def test_prompts_of_none_and_adapters_of_zero_are_clip_s_own_global_scores(clip):
    """The rest of the road is the frozen tower's."""
    model = build_student(
        clip,
        ModelConfig(kind="ram", baseline={"blocks": 1, "prompts": 0}, neighbours=3),
        LossConfig(distillation=0),
        random_graph(20, SEEN, clip.width, 3),
        SEEN,
    )
    images, _ = batch(2)
    text, global_ = model.graph_on(images.device).text, clip.encode_images(images)[1]
    logits = model.head(*model.features(images), text, ROOMY)[0]
    torch.testing.assert_close(logits, clip.logit_scale * F.normalize(global_, dim=1) @ text.T)


def test_a_copy_goes_through_the_blocks_of_its_own_tower(clip):
    """The head names blocks that the tower holds: validation measures a copy."""
    model = student(clip, "ram")
    images, _ = batch(1)
    before, copied = model.scores(images)[0], copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.tower.parameters():
            parameter.zero_()
    assert torch.equal(copied.scores(images)[0], before)
    assert not torch.equal(model.scores(images)[0], before)
    names = {name for name, _ in copied.named_parameters() if name.startswith("head.")}
    assert not any("attn" in name or "mlp" in name for name in names)


def test_a_tower_whose_blocks_are_not_known_is_refused(tmp_path):
    other = load_clip(config_file(tmp_path, TINY))
    with pytest.raises(UserError, match="is timm's, whose blocks differ from model to model"):
        build_student(
            other,
            ModelConfig(kind="ram"),
            LossConfig(distillation=0),
            random_graph(12, 9, other.width, 4),
            9,
        )
