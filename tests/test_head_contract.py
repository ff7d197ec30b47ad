"""What the head's code relies on and says so: a tile's lifetime, pooling weights that sum to 1."""

import pytest
import torch
import torch.nn.functional as F

from c2srt.model import tile as tile_module
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.head import Head
from c2srt.model.isr import assignment, check_pooling
from c2srt.model.sums import empty_sums
from c2srt.model.tiled import MicroBatch, TiledHead, ranking_of
from c2srt.model.tiling import Tiling
from tests.tiny import random_graph

B, P, C, D = 4, 9, 12, 16


def tiled(images: int = 1, **changes) -> tuple[TiledHead, MicroBatch]:
    """A head with one image a tile, and a micro-batch for it."""
    torch.manual_seed(0)
    config = ModelConfig(**{"heads": 4, "neighbours": 3, "init": "literal", **changes})
    head, plan = Head(D, config, 3.0).requires_grad_(False), Tiling(images, C, 0, config.ist)
    batch = MicroBatch(
        torch.randn(B, P, D), torch.randn(B, D), torch.randint(-1, 2, (B, C)), torch.ones(B)
    )
    return TiledHead(head.shared(torch.float32, plan), random_graph(C, C, D, 3), plan), batch


def tiles(head: TiledHead, batch: MicroBatch):
    for images, nodes in head.tiles(batch.labels, LossConfig()):
        yield images, head.tile(images, nodes, batch.patches, batch.global_)


@torch.no_grad()
def test_a_tile_is_refused_once_the_next_has_taken_its_buffers():
    head, batch = tiled()
    found = tiles(head, batch)
    images, one = next(found)
    _, upstream = ranking_of(one, images, batch, LossConfig())
    before = one.patch_counts()
    next(found)
    with pytest.raises(AssertionError, match="after the next had begun"):
        one.backward(upstream, {})
    with pytest.raises(AssertionError, match="after the next had begun"):
        one.patch_counts()
    assert before.shape == (1, C)


@torch.no_grad()
def test_what_a_tile_returns_outlives_the_next():
    head, batch = tiled()
    kept = []
    for _, one in tiles(head, batch):
        scores = one.scores(keep=True)
        sums = empty_sums(head.shared.tensors, C)
        counts, found = one.patch_counts(), one.backward(torch.ones_like(scores), sums)
        kept.append([(tensor, tensor.clone()) for tensor in (scores, counts, *found)])
    assert len(kept) == B
    assert all(torch.equal(*pair) for pairs in kept for pair in pairs)


@pytest.mark.parametrize("pooling", ["mean", "weighted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ways_of_pooling_that_there_are_sum_to_one(pooling, dtype):
    text = F.normalize(torch.randn(50, D), dim=1)
    patches = torch.randn(2, 40, D).to(dtype)
    check_pooling(assignment(patches, text, 20.0, 0.9, 32, pooling == "weighted"))
    broken = patches.clone()
    broken[0, 0, 0] = float("nan")  # such an image's scores are NaN, and no fault of the pooling
    check_pooling(assignment(broken, text, 20.0, 0.9, 32, pooling == "weighted"))


@pytest.mark.parametrize("scale", [0.9, 2.0])
@torch.no_grad()
def test_another_way_of_pooling_is_refused_at_the_first_tile(monkeypatch, scale):
    head, batch = tiled()
    monkeypatch.setattr(
        tile_module, "assignment", lambda *arguments: scale * assignment(*arguments)
    )
    with pytest.raises(AssertionError, match="do not sum to 1"):
        head.scores(batch.patches, batch.global_)
    with pytest.raises(AssertionError, match="do not sum to 1"):
        tiled()[0].gradients(batch, LossConfig())


@torch.no_grad()
def test_the_strongest_patch_alone_is_no_mean(monkeypatch):
    """Max pooling by its score: rows sum to that score, not to 1."""

    def strongest(patches, text, scale, threshold, most, weighted):
        scores = (scale * text.expand(len(patches), -1, -1) @ patches.transpose(1, 2)).softmax(-1)
        return scores * (scores == scores.amax(-1, keepdim=True))

    monkeypatch.setattr(tile_module, "assignment", strongest)
    head, batch = tiled()
    with pytest.raises(AssertionError, match="do not sum to 1"):
        head.gradients(batch, LossConfig())
