"""The baselines: each piece against its formula written out, and what all of them must do as
students of the one system.
"""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from c2srt import tune
from c2srt.backbone.ensemble import embed
from c2srt.errors import UserError
from c2srt.evaluation.scorers import ClipScorer, ModelScorer, Subject
from c2srt.export.read import load_export
from c2srt.export.write import save_export
from c2srt.loader import train_batches
from c2srt.model.baselines.biam import BiamHead
from c2srt.model.baselines.lesa import LesaHead, distribution, span
from c2srt.model.baselines.mkt import MktHead
from c2srt.model.baselines.qks import Layer, QksHead, asymmetric, cross_entropy
from c2srt.model.baselines.ram import RamHead
from c2srt.model.baselines.top import top_mean
from c2srt.model.baselines.zs_sdl import SoftplusPairs, ZsSdlHead, diversity
from c2srt.model.build import build_student, network_of
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.kinds import KINDS, BiamSettings, QksSettings, RamSettings
from c2srt.model.loss import pairwise_ranking_loss
from c2srt.profiling import allocator_peak
from c2srt.shards import load_index
from c2srt.tracking.config import TrackingConfig
from c2srt.view_config import ViewConfig
from c2srt.vocabulary import Vocabulary
from tests.shard_folder import make_shards, make_vocabulary
from tests.tiny import random_graph, tiny_clip, tiny_clip_config

C, SEEN, D, P = 20, 15, 16, 16
SMALL = {
    "mkt": {"topk": 4},
    "lesa": {"attentions": 3},
    "biam": {"channels": 8, "heads": 2, "topk": 3},
    "zs_sdl": {"rows": 3},
    "qks": {"queries": 3, "layers": 2},
    "ram": {"blocks": 2, "prompts": 2},
}
ROOMY, TEMPLATE = 1 << 30, "a photo of a {}."


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def config_of(kind: str, **changes) -> ModelConfig:
    return ModelConfig(kind=kind, baseline=SMALL[kind] | changes, neighbours=3, trainable_blocks=1)


def student(clip, kind: str, dtype=torch.float32, seed: int = 0, **changes):
    """A baseline whose weights have all moved from where they start, so that nothing is hidden by
    zeros.
    """
    torch.manual_seed(seed)
    loss = LossConfig(
        unverified="ignore" if kind in ("mkt", "lesa", "biam") else "negative",
        distillation=float(kind == "mkt"),
    )
    model = build_student(
        clip, config_of(kind, **changes), loss, random_graph(C, SEEN, D, 3, dtype=dtype), SEEN
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return model.to(dtype)


def batch(images: int, seed: int = 0):
    """Pixels and labels with positives, absences and unverified categories in every image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 2, (images, SEEN), generator=generator, dtype=torch.int8)
    labels[:, :4] = torch.tensor([1, 1, -1, 0], dtype=torch.int8)
    return torch.randint(
        0, 256, (images, 3, 32, 32), generator=generator, dtype=torch.uint8
    ), labels


def features(images: int = 2, patches: int = P, width: int = D, seed: int = 0):
    """Patch features, global features and text in double precision."""
    generator = torch.Generator().manual_seed(seed)
    text = F.normalize(torch.randn(C, width, generator=generator, dtype=torch.double), dim=1)
    return (
        torch.randn(images, patches, width, generator=generator, dtype=torch.double),
        torch.randn(images, width, generator=generator, dtype=torch.double),
        text,
    )


# Pieces and their formulas


@pytest.mark.parametrize("count", [1, 4, 99])
@pytest.mark.parametrize("budget", [1, 12 * 2 * 16 * 3, ROOMY])
def test_top_mean_is_the_literal_one_in_value_and_gradients(count, budget):
    rows, _, classes = (tensor.requires_grad_() for tensor in features())
    upstream = torch.randn(2, C, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    literal = (
        torch.einsum("brd,cd->brc", rows, classes).sort(1, descending=True)[0][:, :count].mean(1)
    )
    found = top_mean(rows, classes, count, budget)
    torch.testing.assert_close(found, literal)
    expected = torch.autograd.grad(literal, (rows, classes), upstream)
    torch.testing.assert_close(torch.autograd.grad(found, (rows, classes), upstream), expected)


def test_memory_of_the_scores_grows_by_their_own_size_only():
    rows = torch.randn(4, 64, 8, requires_grad=True)

    def peak(categories: int, budget: int) -> int:
        classes = torch.randn(categories, 8, requires_grad=True)
        return allocator_peak(lambda: top_mean(rows, classes, 4, budget).sum().backward())

    a_category = (
        4 * (4 * 4 + 4 * 4 * 2) + 4 * 8 * 4
    )  # scores and places (and their parts, before they are put together); classes
    small, large = peak(512, 1 << 18), peak(4096, 1 << 18)
    assert large - small <= (4096 - 512) * a_category
    assert peak(4096, ROOMY) > 3 * large  # the control


def test_mkt_scores_are_two_streams_of_unit_length():
    patches, global_, text = features()
    local = torch.stack(
        [
            torch.stack(
                [(image @ category).sort(descending=True)[0][:4].mean() for category in text]
            )
            for image in patches
        ]
    )
    whole = global_ @ text.T
    expected = (
        local / local.norm(dim=1, keepdim=True) + whole / whole.norm(dim=1, keepdim=True)
    ) / 2
    torch.testing.assert_close(MktHead(4)(patches, global_, text, ROOMY)[0], expected)


def test_lesa_is_its_equations():
    torch.manual_seed(0)
    patches, global_, text = features(patches=6)
    head = LesaHead(D, D, 3, (2, 3)).double()
    scores, attended, classes, average, logits = head(patches, global_, text, ROOMY)
    for image in range(2):
        grid = {(place // 3, place % 3): patches[image, place] for place in range(6)}
        regions = []
        for place in range(6):
            sums = sum(
                head.convolution.weight[:, :, i, j] @ grid[place // 3 + i, place % 3 + j]
                for i in (0, 1)
                for j in (0, 1)
                if (place // 3 + i, place % 3 + j) in grid
            )
            unit = (sums - sums.mean()) / (sums.var(unbiased=False) + 1e-5).sqrt()
            regions.append((unit * head.norm.weight + head.norm.bias).clamp(min=0))
        regions = torch.stack(regions)
        e = (
            head.outer.weight @ torch.tanh(head.inner.weight @ regions.T + head.inner.bias[:, None])
            + head.outer.bias[:, None]
        )
        h = (e.exp() / e.exp().sum(1, keepdim=True)) @ regions
        products = torch.stack([h @ (head.classes.weight @ category) for category in text], 1)
        torch.testing.assert_close(scores[image], products.max(0)[0])
        torch.testing.assert_close(logits[image], e)
        torch.testing.assert_close(average[image], regions.mean(0))
        torch.testing.assert_close(attended[image], h)


def test_lesa_s_regularisers_are_the_release_s_at_its_batch_of_32(clip):
    """Its global term is a sum over the batch and its span one norm over it, for 32 images that are
    alike.
    """
    model = student(clip, "lesa", torch.double)
    images, labels = batch(1)
    images, labels, text = (
        images.expand(32, -1, -1, -1),
        labels.expand(32, -1),
        model.graph_on(images.device).text[:SEEN],
    )
    scores, attended, classes, average, logits = found = model.head(
        *model.features(images), text, ROOMY
    )
    terms = model.terms(found, text, labels)
    weighted = {name: (factor * value).mean() for name, (factor, value) in terms.items()}
    shares = torch.einsum("btd,cd->btc", attended, classes).softmax(1) * (labels == 1)[:, None]
    torch.testing.assert_close(
        weighted["distribution"], 0.1 * shares.sum(2).square().mean(1).mean()
    )
    of_average = average @ classes.T
    torch.testing.assert_close(
        weighted["global"], 0.001 * (-(scores - of_average) * labels).clamp(min=0).sum()
    )
    unit = logits / logits.norm(dim=2, keepdim=True)
    gram = torch.einsum("btp,bup->btu", unit, unit)
    gram[:, range(3), range(3)] = 0
    torch.testing.assert_close(weighted["span"], 0.01 * gram.norm())
    torch.testing.assert_close(
        weighted["ranking"], pairwise_ranking_loss(scores, labels, model.loss).mean()
    )


def test_lesa_s_terms_have_nothing_to_say_without_positives_or_other_attentions():
    patches, _, text = features()
    assert not distribution(patches[:, :3], text, torch.zeros(2, C)).any()
    assert not span(torch.randn(2, 1, 9)).any()


def test_biam_is_its_equations():
    torch.manual_seed(0)
    patches, _, text = features(patches=6)
    global_ = torch.randn(2, 7, dtype=torch.double)
    settings = BiamSettings(channels=8, heads=2, topk=3)
    head = BiamHead(D, 7, D, (2, 3), settings).double()
    entered = literal_convolution(head.entry, patches)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        attention.in_proj_weight.copy_(
            torch.cat(
                [
                    head.attention.query.weight,
                    head.attention.key.weight,
                    head.attention.value.weight,
                ]
            )
        )
        attention.in_proj_bias.copy_(
            torch.cat(
                [head.attention.query.bias, head.attention.key.bias, head.attention.value.bias]
            )
        )
        attention.out_proj.load_state_dict(head.attention.output.state_dict())
    o = attention(entered, entered, entered)[0] + entered
    region = o + head.narrower(torch.relu(head.wider(o)))
    v = F.leaky_relu(head.scene(entered), 0.2)
    c = v * torch.sigmoid(v.mean(1) * head.gate(global_))[:, None, :]
    e = F.leaky_relu(
        head.fusion(torch.cat([region, c + literal_convolution(head.context, c)], -1)), 0.2
    )
    products = e @ head.classes(text).T
    torch.testing.assert_close(
        head(patches, global_, text, ROOMY)[0], products.topk(3, dim=1)[0].mean(1)
    )


def literal_convolution(layer, regions):
    """3×3 with zeros around, ReLU, norm over channels, place by place on a 2×3 grid."""
    found = torch.zeros(len(regions), 6, len(layer.convolution.bias), dtype=regions.dtype)
    for place in range(6):
        row, column = divmod(place, 3)
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                if 0 <= row + i < 2 and 0 <= column + j < 3:
                    found[:, place] += (
                        regions[:, 3 * (row + i) + column + j]
                        @ layer.convolution.weight[:, :, i + 1, j + 1].T
                    )
    return F.layer_norm(
        torch.relu(found + layer.convolution.bias),
        found.shape[2:],
        layer.norm.weight,
        layer.norm.bias,
    )


def test_zs_sdl_scores_by_the_best_row_and_weighs_by_the_variance_of_positives():
    torch.manual_seed(0)
    _, global_, text = features()
    head = ZsSdlHead(D, D, 3).double()
    scores, matrix = head(None, global_, text, ROOMY)
    rows = (global_ @ head.embedding.weight.T).view(2, 3, D)
    torch.testing.assert_close(scores, (rows @ text.T).amax(1))
    torch.testing.assert_close(matrix, rows)
    labels = torch.zeros(3, C)
    labels[0, [2, 5, 6]] = 1
    labels[1, 3] = 1
    expected = torch.stack(
        [
            text[[2, 5, 6]].var(0).sum(),
            torch.zeros((), dtype=text.dtype),
            torch.zeros((), dtype=text.dtype),
        ]
    )
    torch.testing.assert_close(diversity(labels, text), expected)


def test_zs_sdl_s_pairs_are_the_literal_ones_with_their_gradient():
    scores = torch.randn(
        4, C, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    labels = torch.randint(-1, 2, (4, C), generator=torch.Generator().manual_seed(1))
    labels[2], labels[3] = -1, 1  # none positive; none negative
    positive, negative = labels == 1, labels == -1
    literal = torch.stack(
        [
            sum(
                (
                    (torch.log(1 + torch.exp(image[n] - image[p])))
                    for p in ps.nonzero()[:, 0]
                    for n in ns.nonzero()[:, 0]
                ),
                image.sum() * 0,
            )
            / max(1, int(ps.sum()))
            for image, ps, ns in zip(scores, positive, negative, strict=True)
        ]
    )
    found = SoftplusPairs.apply(scores, positive, negative)
    torch.testing.assert_close(found, literal)
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.double)
    torch.testing.assert_close(
        torch.autograd.grad(found, scores, upstream), torch.autograd.grad(literal, scores, upstream)
    )


def test_zs_sdl_s_loss_is_the_release_s(clip):
    model = student(clip, "zs_sdl", torch.double)
    images, labels = batch(2)
    text = model.graph_on(images.device).text[:SEEN]
    expected = 0
    for scores, matrix, image in zip(
        *model.head(*model.features(images), text, ROOMY), labels, strict=True
    ):
        pairs = scores[image != 1][None] - scores[image == 1][:, None]
        ranking = (
            (1 + text[image == 1].var(0).sum())
            * torch.log(1 + pairs.exp()).sum()
            / (image == 1).sum()
        )
        expected += 2 * (0.7 * ranking + 0.3 * matrix.var(0).abs().sum()) / 2
    torch.testing.assert_close(
        model(images, labels, None, torch.ones(2, dtype=torch.double))["loss"], expected
    )


def test_qks_layer_is_torch_s_post_norm_decoder_layer():
    torch.manual_seed(0)
    layer = Layer(128).double()  # two heads
    twin = nn.TransformerDecoderLayer(128, 2, 512, 0.0, "gelu", 1e-12, batch_first=True).double()
    with torch.no_grad():
        for ours, theirs in ((layer.own, twin.self_attn), (layer.cross, twin.multihead_attn)):
            theirs.in_proj_weight.copy_(
                torch.cat([ours.query.weight, ours.key.weight, ours.value.weight])
            )
            theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
            theirs.out_proj.load_state_dict(ours.output.state_dict())
        twin.linear1.load_state_dict(layer.wider.state_dict())
        twin.linear2.load_state_dict(layer.narrower.state_dict())
        for norm, theirs in zip(layer.norms, (twin.norm1, twin.norm2, twin.norm3), strict=True):
            theirs.load_state_dict(norm.state_dict())
    hidden, tokens = (
        torch.randn(2, 3, 128, dtype=torch.double),
        torch.randn(2, 9, 128, dtype=torch.double),
    )
    torch.testing.assert_close(layer(hidden, tokens), twin(hidden, tokens))


def test_qks_reads_all_tokens_and_scores_by_the_best_query(clip):
    model = student(clip, "qks", torch.double)
    images, _ = batch(2)
    (tokens,) = model.features(images)
    patches, global_ = model.tower(model.pixels(images))
    torch.testing.assert_close(tokens @ model.tower.proj, torch.cat([global_[:, None], patches], 1))
    hidden = model.head.norm(model.head.queries)[None].expand(2, -1, -1)
    for layer in model.head.layers:
        hidden = layer(hidden, tokens)
    products = hidden @ model.head.projection @ model.graph_on(images.device).text.T
    torch.testing.assert_close(model.scores(images)[0], products.amax(1))


def test_qks_losses_are_their_formulas():
    scores = 4 * torch.randn(3, C, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    scores.requires_grad_()
    positive = torch.rand(3, C, generator=torch.Generator().manual_seed(1)) < 0.3
    p = 1 / (1 + (-scores).exp())
    literal = -torch.where(positive, p.log(), (1 - p).log())
    torch.testing.assert_close(cross_entropy(scores, positive), literal)
    focused = 1000 * torch.where(positive, literal, literal * p.detach() ** 4)
    torch.testing.assert_close(asymmetric(scores, positive), focused)
    gradients = [
        torch.autograd.grad(loss.sum(), scores, retain_graph=True)[0]
        for loss in (asymmetric(scores, positive), focused)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", ["bce", "asl"])
def test_qks_takes_unverified_as_negative_or_leaves_them_out(clip, kind):
    model = student(clip, "qks", torch.double, loss=kind)
    images, labels = batch(1)
    scores = model.head(*model.features(images), model.graph_on(images.device).text[:SEEN], ROOMY)[
        0
    ]
    each = (cross_entropy if kind == "bce" else asymmetric)(scores, labels == 1)
    ones = torch.ones(1, dtype=torch.double)
    torch.testing.assert_close(model(images, labels, None, ones)["loss"], each.mean())
    model.loss = replace(model.loss, unverified="ignore")
    torch.testing.assert_close(model(images, labels, None, ones)["loss"], each[labels != 0].mean())


# What the releases' own layers hold at the releases' own sizes; none of the papers at hand prints a
# count of the head


class BlocksOfWidth:
    """What RAM's head asks of a tower to know the sizes of its parameters."""

    def __init__(self, width: int) -> None:
        self.width, self.blocks = width, [nn.Identity()] * 12


def test_parameters_are_as_many_as_the_releases_have():
    with torch.device("meta"):
        heads = {
            "mkt": MktHead(16),
            "lesa": LesaHead(512, 300, 10, (14, 14)),
            "biam": BiamHead(512, 4096, 300, (14, 14), BiamSettings()),
            "zs_sdl": ZsSdlHead(2048, 300, 7),
            "qks": QksHead(torch.empty(768, 512), QksSettings()),
            "ram": RamHead(BlocksOfWidth(768), 512, (14, 14), 100, RamSettings()),
        }
    counts = {
        name: sum(parameter.numel() for parameter in head.parameters())
        for name, head in heads.items()
    }
    convolution = {
        256: 9 * 256 * 256 + 256 + 512,
        512: 9 * 512 * 256 + 256 + 512,
    }  # with BatchNorm's scale and shift
    attention, norm = 4 * (768 * 768 + 768), 2 * 768
    assert counts == {
        "mkt": 0,
        "lesa": 2 * 2 * 512 * 512 + 2 * 512 + 513 * 512 + 513 * 10 + 512 * 300,
        "biam": convolution[512]
        + 4 * (256 * 256 + 256)
        + (256 * 512 + 512)
        + (512 * 256 + 256)
        + (256 * 256 + 256)
        + (4096 * 256 + 256)
        + convolution[256]
        + (512 * 512 + 512)
        + (300 * 512 + 512),
        "zs_sdl": 2048 * 7 * 300,
        "qks": 8 * (2 * attention + 3 * norm + 2 * 768 * 3072 + 3072 + 768)
        + 22 * 768
        + norm
        + 768 * 512,
        # two convolutions with BatchNorm's scale and shift, the gate, the last one, three norms
        "ram": 3 * ((1 + 9 + 1) * 768 * 512 + 2 * 2 * 512 + 2 * 2 * 9 + 3 * 2 * 512 + 8 * 768) + 2,
    }


# As students


@pytest.mark.parametrize("kind", SMALL)
def test_gradients_reach_what_the_original_trains_and_nothing_else(clip, kind):
    model = student(clip, kind)
    images, labels = batch(3)
    model(images, labels, torch.zeros(3, D), torch.ones(3))["loss"].backward()
    moved = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    # a bias before a softmax, or one that all queries share, changes nothing
    still = {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    } - moved
    assert all(name.endswith(("key.bias", "attn.in_proj_bias")) for name in still)
    assert any(name.startswith("tower.") for name in moved) == (kind in ("mkt", "zs_sdl"))
    assert any(name.startswith("head.") for name in moved) == (kind != "mkt")
    assert not any("resblocks.0" in name or "conv1" in name for name in moved)


@pytest.mark.parametrize("kind", SMALL)
def test_padding_and_the_deal_change_nothing(clip, kind):
    """Five images in one micro-batch, or in two with an image of weight 0 that is unlike all
    others.
    """
    model = student(clip, kind, torch.double)
    images, labels = batch(6)
    images[5], labels[5] = 255, 1
    weights, teacher = torch.tensor([6 / 5] * 5 + [0], dtype=torch.double), torch.zeros(6, D)
    whole = model(images[:5], labels[:5], teacher[:5], torch.ones(5, dtype=torch.double))
    dealt = [
        model(images[part], labels[part], teacher[part], weights[part])
        for part in (slice(0, 3), slice(3, 6))
    ]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for name, value in whole.items():
        torch.testing.assert_close((dealt[0][name] + dealt[1][name]) / 2, value)
    expected = torch.autograd.grad(whole["loss"], parameters)
    torch.testing.assert_close(
        torch.autograd.grad((dealt[0]["loss"] + dealt[1]["loss"]) / 2, parameters), expected
    )


@pytest.mark.parametrize("kind", SMALL)
def test_categories_in_another_order_get_the_same_scores_in_that_order(clip, kind):
    model = student(clip, kind)
    images, _ = batch(2)
    graph, order = (
        model.graph_on(images.device),
        torch.randperm(C, generator=torch.Generator().manual_seed(3)),
    )
    scores, counts = model.scores(images)
    assert counts is None and scores.dtype == torch.float32 and scores.shape == (2, C)
    torch.testing.assert_close(
        model.scores(images, Graph(graph.text[order], graph.table))[0], scores[:, order]
    )


@pytest.mark.parametrize("kind", SMALL)
def test_training_sees_only_seen_categories(clip, kind):
    model = student(clip, kind)
    images, labels = batch(2)
    before = model(images, labels, torch.zeros(2, D), torch.ones(2))["loss"]
    graph = model.graph_on(images.device)
    model._graph = Graph(torch.cat([graph.text[:SEEN], -graph.text[SEEN:]]), graph.table)
    assert torch.equal(model(images, labels, torch.zeros(2, D), torch.ones(2))["loss"], before)


@pytest.mark.parametrize("kind", SMALL)
def test_sixteen_bits_score_nearly_alike_and_the_loss_stays_float32(clip, kind):
    model = student(clip, kind)
    images, labels = batch(2)
    scores, low = model.scores(images)[0], model.bfloat16()
    assert low.scores(images)[0].dtype == torch.float32
    assert (low.scores(images)[0] - scores).abs().max() < 0.1 * scores.abs().max()
    value = low(images, labels, torch.zeros(2, D), torch.ones(2))["loss"]
    assert value.dtype == torch.float32 and value.isfinite()
    value.backward()
    assert all(
        parameter.grad.isfinite().all()
        for parameter in low.parameters()
        if parameter.grad is not None
    )


@pytest.mark.parametrize("kind", SMALL)
def test_an_export_loads_with_equal_scores_and_takes_new_words(clip, kind, tmp_path):
    model = student(clip, kind).requires_grad_(
        False
    )  # torch may take another attention kernel where parameters train
    vocabulary = Vocabulary(
        tuple(f"/m/{column}" for column in range(C)),
        tuple(f"thing {column}" for column in range(C)),
        SEEN,
    )
    save_export(
        tmp_path / "model", model, model.state_dict(), clip, vocabulary, [TEMPLATE], {"step": 3}
    )
    exported = load_export(tmp_path / "model")
    images, _ = batch(2)
    assert type(exported.model) is network_of(kind) and asdict(exported.model.config) == asdict(
        model.config
    )
    assert torch.equal(exported.scores(images)[0], model.scores(images)[0])
    graph, columns = exported.graph_for(["thing 3", "red car"])
    scores = exported.scores(images, graph)[0]
    assert scores.shape == (2, C + 1) and columns.tolist() == [3, C]
    scorer = ModelScorer(Subject(str(tmp_path / "model"), vocabulary), torch.device("cpu"))
    assert (
        torch.equal(torch.from_numpy(scorer.scores(images)[0]), model.scores(images)[0])
        and scorer.scores(images)[1] is None
    )


def test_every_kind_of_the_configuration_exists():
    for kind in KINDS:
        ModelConfig(kind=kind)
    with pytest.raises(UserError, match="model.kind='resnet' is not one of c2srt, mkt"):
        ModelConfig(kind="resnet")


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        (
            "mkt",
            {"attentions": 3},
            "model.baseline.attentions is no setting of model.kind=mkt, which has topk",
        ),
        ("mkt", {"topk": 0}, "model.baseline.topk=0 must be at least 1"),
        ("zs_sdl", {"rows": 1}, "model.baseline.rows=1 must be at least 2"),
        ("zs_sdl", {"regulariser": 1}, "outside"),
        ("biam", {"heads": 3}, "model.baseline.heads=3 does not divide the width 8"),
        ("qks", {"loss": "mse"}, "model.baseline.loss='mse' is not one of bce, asl"),
        ("ram", {"blocks": 4}, "model.baseline.blocks=4 are more than the 3 of this ViT"),
        ("ram", {"entropy": 0.01}, "model.baseline.entropy=0.01 must be at least 0.02"),
        ("ram", {"temperature": 0.0}, "model.baseline.temperature=0.0 must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(clip, kind, changes, sentence):
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        student(clip, kind, **changes)


def test_what_a_kind_cannot_do_is_refused(clip):
    with pytest.raises(UserError, match="model.baseline is set, but model.kind=c2srt"):
        ModelConfig(baseline={"topk": 3})
    images, labels = batch(1)
    model = student(clip, "lesa")
    model.loss = LossConfig()
    with pytest.raises(
        UserError, match="model.kind=lesa has no distillation: set loss.distillation=0"
    ):
        model(images, labels, None, torch.ones(1))
    with pytest.raises(UserError, match="model.kind=lesa has no prompt tuning"):
        model.text_gradient(images, labels, torch.ones(1), torch.zeros(SEEN, D), LossConfig())
    with pytest.raises(UserError, match="needs a teacher"):
        student(clip, "mkt")(images, labels, None, torch.ones(1))


def test_mkt_is_distilled_from_a_cache_or_online(clip):
    images, labels = batch(2)
    online = build_student(
        clip, config_of("mkt"), LossConfig(), random_graph(C, SEEN, D, 3), SEEN, online_teacher=True
    )
    assert online(images, labels, None, torch.ones(2))["distillation"] < 1e-6  # still CLIP itself
    values = student(clip, "mkt")(
        images, labels, online.teacher_features(images) + 1, torch.ones(2)
    )
    assert values["distillation"] > 0.5
    torch.testing.assert_close(values["loss"], values["ranking"] + values["distillation"])


@pytest.mark.parametrize("kind", SMALL)
def test_model_equals_a_word_on_the_command_line(kind):
    from c2srt.compose import to_config
    from c2srt.train.config import Config
    from tests.verbs import compose_verb

    config = to_config(Config, compose_verb("train", [f"model={kind}"]))
    assert config.model.kind == kind and config.loss.distillation == float(kind == "mkt")
    settings = KINDS[kind].settings()
    assert config.model.baseline == asdict(
        settings
    )  # whole, so that a later default changes no old run
    assert compose_verb("relations-mine", ["model=some-llm"]).model == "some-llm"


# MKT's second stage


def test_mkt_s_text_gradient_is_that_of_the_literal_loss(clip):
    model = student(clip, "mkt", torch.double).requires_grad_(False)
    images, labels = batch(3)
    weights, loss = torch.tensor([0.5, 2.5, 0.0], dtype=torch.double), LossConfig()
    text = F.normalize(torch.randn(SEEN, D, dtype=torch.double), dim=1).requires_grad_()
    patches, global_ = model.tower(model.pixels(images))
    local = (patches @ text.T).topk(4, dim=1)[0].mean(1)
    scores = (F.normalize(local, dim=1) + F.normalize(global_ @ text.T, dim=1)) / 2
    expected = (weights * pairwise_ranking_loss(scores, labels, loss)).mean()
    value, gradient = model.text_gradient(images, labels, weights, text, loss)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, text)[0])


@pytest.fixture(scope="module")
def exports(clip, tmp_path_factory):
    """Shards, and untrained exports of MKT and LESA."""
    folder, vocabulary = tmp_path_factory.mktemp("tune"), make_vocabulary(8, 3)
    make_shards(folder / "shards", {"train": 12}, 12, vocabulary)
    graph = Graph(embed(clip, list(vocabulary.names), [TEMPLATE]), random_graph(11, 8, D, 3).table)
    for kind in ("mkt", "lesa"):
        torch.manual_seed(0)
        model = build_student(clip, config_of(kind), LossConfig(), graph, 8)
        made_from = {"config": {"loss": asdict(LossConfig(reduction="sum"))}}
        save_export(
            folder / kind, model, model.state_dict(), clip, vocabulary, [TEMPLATE], made_from
        )
    return folder


def tuning(folder, **changes) -> tune.Config:
    config = tune.Config(
        str(folder / "mkt"),
        str(folder / "shards"),
        str(folder / "tuned"),
        str(folder),
        batch=12,
        micro_batch=4,
        lr=2e-4,
        views=ViewConfig(count=0),
        loader_workers=0,
        log_every=1,
        steps=4,
        tracking=TrackingConfig(model=False),
    )
    return replace(config, **changes)


def test_prompt_tuning_takes_mkt_and_refuses_the_others(exports):
    """The gradient that `c2srt tune` follows lowers the loss."""
    exported = load_export(exports / "mkt")
    assert tune.template_of(tuning(exports), exported) == TEMPLATE
    loader = tune.loader_config(tuning(exports), 32)
    images = next(
        iter(
            train_batches(loader, load_index(exports / "shards"), exported.vocabulary, stop_step=1)
        )
    )
    text, loss = exported.graph.text[:8], tune.ranking_of(exported)
    value, gradient = tune.loss_and_gradient(exported, text, images, loss)
    assert (
        loss.reduction == "sum"
        and tune.loss_and_gradient(exported, text - 1e-3 * gradient, images, loss)[0] < value
    )
    with pytest.raises(UserError, match="a model of kind lesa, which has no prompt tuning"):
        tune.template_of(tuning(exports, checkpoint="x"), load_export(exports / "lesa"))


@pytest.mark.slow
def test_the_verb_tunes_mkt(exports):
    tune.run(tuning(exports))
    losses = [
        loss for _, loss in load_export(exports / "tuned" / "model").made_from["tuned"]["loss"]
    ]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 1e-4


# CLIP without training


def test_clip_has_two_forms_of_score_that_rank_an_image_s_categories_alike(tmp_path):
    from c2srt import text

    vocabulary, config = make_vocabulary(8, 3), tiny_clip_config(tmp_path)
    make_shards(tmp_path / "shards", {"test": 4}, 8, vocabulary)
    text.run(
        text.Config(
            clip=config,
            templates=["{}"],
            shards=str(tmp_path / "shards"),
            out=str(tmp_path / "text"),
        )
    )
    images, _ = batch(3)
    cosine, softmax = (
        torch.from_numpy(
            ClipScorer(
                Subject("clip", vocabulary, config, str(tmp_path / "text"), form),
                torch.device("cpu"),
            ).scores(images)[0]
        )
        for form in ("cosine", "softmax")
    )
    scale = tiny_clip(tmp_path).logit_scale
    literal = (scale * cosine).exp() / (scale * cosine).exp().sum(1, keepdim=True)
    torch.testing.assert_close(softmax.exp(), literal)
    assert torch.equal(softmax.argsort(1, descending=True), cosine.argsort(1, descending=True))


def test_clip_s_form_is_in_the_identity_of_the_results(tmp_path):
    from c2srt import text
    from c2srt.cluster.evaluate import Config
    from c2srt.evaluation.scorers import identity
    from c2srt.shards import load_index

    vocabulary, config = make_vocabulary(8, 3), tiny_clip_config(tmp_path)
    make_shards(tmp_path / "shards", {"test": 4}, 8, vocabulary)
    text.run(
        text.Config(
            clip=config,
            templates=["{}"],
            shards=str(tmp_path / "shards"),
            out=str(tmp_path / "text"),
        )
    )
    subject, index = (
        Subject("clip", vocabulary, config, str(tmp_path / "text")),
        load_index(tmp_path / "shards"),
    )
    assert identity(subject, index) != identity(replace(subject, form="softmax"), index)
    with pytest.raises(UserError, match="clip_scores='max' is not one of cosine, softmax"):
        Config(out="x", clip_scores="max")


# The real loop


def train_all(rank: int, case) -> dict:
    """Four updates of each kind on two ranks: ZeRO stages, precisions, a batch that leaves one rank
    padding.
    """
    from tests.train_case import told, train_rank

    found = {}
    for kind, changes in {
        "mkt": {},
        "lesa": {"zero": 3},
        "biam": {"zero": 1, "precision": "bf16"},
        "zs_sdl": {"zero": 2},
        "qks": {"zero": 3, "precision": "bf16"},
        "ram": {"zero": 3},
    }.items():
        loss = LossConfig(distillation=float(kind == "mkt"))
        model = replace(config_of(kind), neighbours=4)
        config = told(
            case,
            model=model,
            loss=loss,
            steps=4,
            out=str(Path(case.work) / kind),
            log_every=1,
            **changes,
        )
        found[kind] = train_rank(rank, config)
    return found


@pytest.mark.slow
def test_each_trains_in_the_real_loop_on_two_ranks_and_its_export_scores(tmp_path):
    from tests.ranks import run_ranks
    from tests.train_case import make_case

    case = make_case(tmp_path, workers=2)
    for found in run_ranks(2, train_all, case):
        assert found == dict.fromkeys(SMALL, "finished")
    for kind in SMALL:
        lines = [
            json.loads(line)
            for line in (tmp_path / kind / "metrics.jsonl").read_text().splitlines()
        ]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert len(losses) == 4 and all(map(math.isfinite, losses))
        exported, start = (
            load_export(tmp_path / kind / "model"),
            load_file(tmp_path / kind / "model" / "model.safetensors"),
        )
        assert exported.scores(batch(2)[0])[0].isfinite().all()
        clip_proj = tiny_clip(tmp_path).tower.proj
        assert torch.equal(start["visual.proj"], clip_proj) == (kind not in ("mkt", "zs_sdl"))
