"""The tile planner."""

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch

from c2srt.errors import UserError
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.head import Head
from c2srt.model.tiling import (
    MIB,
    Shape,
    Tiling,
    budget_bytes,
    bytes_per_image,
    choose_tiling,
    chunk_limit,
    flops_per_image,
)
from c2srt.profiling import allocator_peak
from c2srt.train.checkpoints import Record
from c2srt.train.config import Config as Training
from c2srt.train.tiles import settle_tiles
from tests.tiny import random_graph

OPEN_IMAGES = Shape(7186, 196, 512, 4, 512)


def test_a_tile_fits_its_budget_and_grows_with_it():
    config, nodes = ModelConfig(), 0
    for mib in (180, 192, 256, 512, 1024, 4096):
        plan = choose_tiling(Shape(7186, 196, 512, 4), config, 64, mib * MIB)
        assert plan.bytes <= mib * MIB
        assert plan.images * plan.categories >= nodes
        nodes = plan.images * plan.categories
    assert plan.images > 1 and plan.categories == 7186


def test_tiles_of_a_batch_are_of_one_size():
    shape = Shape(100, 16, 32, 4, 1400)
    assert [
        choose_tiling(shape, ModelConfig(heads=4), images, 256 * MIB).images
        for images in (14, 15, 16, 29)
    ] == [14, 8, 8, 10]


def test_folding_is_given_up_where_it_does_not_fit():
    assert choose_tiling(OPEN_IMAGES, ModelConfig(), 8, 256 * MIB).fold
    assert not choose_tiling(OPEN_IMAGES, ModelConfig(), 8, 185 * MIB).fold
    assert not choose_tiling(OPEN_IMAGES, ModelConfig(input_layers=2), 8, 4096 * MIB).fold


def test_the_default_tile_does_not_grow_with_the_batch():
    config = ModelConfig()
    plans = {choose_tiling(OPEN_IMAGES, config, images, 256 * MIB) for images in (2, 8, 64)}
    assert len(plans) == 1


def test_too_small_a_budget_says_what_is_needed():
    with pytest.raises(UserError, match="at least 1[0-9]{2} MiB .*raise model.tile_mib"):
        choose_tiling(OPEN_IMAGES, ModelConfig(), 8, 64 * MIB)
    with pytest.raises(UserError, match="raise model.tile_mib"):
        choose_tiling(OPEN_IMAGES, ModelConfig(ist=False), 8, 2 * MIB)


def test_tile_mib_is_the_budget():
    assert budget_bytes(ModelConfig(tile_mib=300), torch.device("cpu")) == 300 * MIB
    assert 0 < budget_bytes(ModelConfig(), torch.device("cpu")) <= 256 * MIB


def test_tiles_are_the_same_whatever_is_free(monkeypatch):
    card, machine = SimpleNamespace(total_memory=80_000 * MIB), SimpleNamespace(total=2**33)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr("psutil.virtual_memory", lambda: machine)
    found = set()
    for free in (70_000, 6_000, 50):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_, free=free: (free * MIB, 2**40))
        machine.available = free * MIB
        for device in ("cuda", "cpu"):
            budget = budget_bytes(ModelConfig(), torch.device(device))
            found.add((device, budget, choose_tiling(OPEN_IMAGES, ModelConfig(), 64, budget)))
    assert len(found) == 2
    assert {budget for _, budget, _ in found} == {20_000 * MIB, 256 * MIB}


@dataclass
class Ranks:
    """What `settle_tiles` asks of a World, on a device that leaves its tiles so many bytes."""

    own: tuple[int, ...]
    first: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def gather(self, _: int) -> tuple[int, ...]:
        return self.own


@pytest.mark.parametrize(
    "told, before, own, settled, says",
    [
        (None, None, (400, 300), 300, ""),
        (None, 200, (400, 300), 200, ""),
        (None, 350, (400, 300), 300, "had 350 MiB when this run began"),
        (100, 350, (100, 100), 100, ""),
    ],
)
def test_a_run_keeps_the_tiles_that_it_began_with_where_they_fit(
    tmp_path, caplog, told, before, own, settled, says
):
    folders = dict.fromkeys(("shards", "text", "relations", "teacher", "work", "out"), "x")
    config = Training(**folders, model=ModelConfig(tile_mib=told))
    record = Record(1, 2, {}, {}, tile_bytes=None if before is None else before * MIB)
    with caplog.at_level("INFO"):
        found = settle_tiles(config, Ranks(tuple(one * MIB for one in own)), record)
    assert found == replace(record, tile_bytes=settled * MIB)
    assert (says in caplog.text) if says else not caplog.text


def test_100_000_categories_fit_the_same_budget_at_a_small_width():
    config, shape = (
        ModelConfig(heads=4),
        Shape(100_000, 16, 16, 4, chunk_limit(16, torch.device("cpu"))),
    )
    plan = choose_tiling(shape, config, 8, 256 * MIB)
    assert plan.images == 1 and 64 <= plan.categories < 100_000
    torch.manual_seed(0)
    head, graph = Head(16, config, 10.0), random_graph(100_000, 100_000, 16, 4)
    patches, global_ = (
        torch.randn(2, 16, 16, requires_grad=True),
        torch.randn(2, 16, requires_grad=True),
    )
    labels = (torch.rand(2, 100_000) < 1e-4).to(torch.int8)
    assert (
        allocator_peak(
            lambda: head(patches, global_, labels, torch.ones(2), graph, LossConfig(), plan)[
                0
            ].backward()
        )
        <= 256 * MIB
    )
    assert patches.grad.abs().sum() > 0


def test_without_ist_less_is_kept():
    assert bytes_per_image(OPEN_IMAGES, ModelConfig(ist=False), False) < bytes_per_image(
        OPEN_IMAGES, ModelConfig(), True
    )


def test_the_description_names_tiles_bytes_and_work():
    plan = choose_tiling(OPEN_IMAGES, ModelConfig(), 8, 256 * MIB)
    text, numbers = (
        plan.describe(OPEN_IMAGES, ModelConfig()),
        plan.numbers(OPEN_IMAGES, ModelConfig()),
    )
    assert "1 image ×" in text and "of 7,186 categories" in text and "GFLOP" in text
    assert (
        numbers["head/tile_mib"] == plan.bytes / MIB
        and 10 < numbers["head/gflop_forward"] < numbers["head/gflop_backward"]
    )


def test_counted_flops_are_those_of_torch():
    """torch's own counter sees only matrix products: the rest of the estimate, over edges, is set
    to nothing here.
    """
    from torch.utils.flop_counter import FlopCounterMode

    in_place = {torch.ops.aten.addmm_: product_flop, torch.ops.aten.baddbmm_: product_flop}
    config, shape = ModelConfig(heads=4, neighbours=0), Shape(500, 49, 64, 4, 100)
    torch.manual_seed(0)
    head, graph = Head(64, config, 10.0), random_graph(500, 500, 64, 1)
    graph.table = graph.table[:, :0]
    patches, global_ = (
        torch.randn(1, 49, 64, requires_grad=True),
        torch.randn(1, 64, requires_grad=True),
    )
    labels = (torch.rand(1, 500) < 0.02).to(torch.int8)
    for fold in (True, False):
        with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            head(
                patches,
                global_,
                labels,
                torch.ones(1),
                graph,
                LossConfig(),
                Tiling(1, 100, 0, fold),
            )[0].backward()
        expected = sum(flops_per_image(shape, config, fold)) - config.layers * 20 * 500 * 64
        once = (
            2 * 2 * 500 * 64 * 64 * (3 if fold else 1) + fold * 3 * 2 * 2 * 64 * 64 * 129
        )  # text rows, folded map; and back
        assert counter.get_total_flops() == pytest.approx(expected + once, rel=0.01)


def product_flop(_total, left, right, out_shape=None, **_) -> int:
    return 2 * math.prod(left) * right[-1]


def peak_bytes(images: int, plan: Tiling) -> int:
    config, seen, width = ModelConfig(heads=4, max_patches=8), 4000, 32
    torch.manual_seed(0)
    head, graph = Head(width, config, 10.0), random_graph(seen, seen, width, 4)
    patches, global_ = (
        torch.randn(images, 16, width, requires_grad=True),
        torch.randn(images, width, requires_grad=True),
    )
    labels = (torch.rand(images, seen) < 0.01).to(torch.int8)
    return allocator_peak(
        lambda: head(patches, global_, labels, torch.ones(images), graph, LossConfig(), plan)[
            0
        ].backward()
    )


def test_head_memory_is_flat_in_the_batch_and_near_the_plan():
    config, shape = ModelConfig(heads=4, max_patches=8), Shape(4000, 16, 32, 4, 1024)
    plan = choose_tiling(shape, config, 8, 12 * MIB)
    assert (plan.images, plan.categories) == (1, 1024)
    small, large = peak_bytes(2, plan), peak_bytes(8, plan)
    assert large <= 1.05 * small
    assert 0.6 * plan.bytes <= large <= 1.2 * plan.bytes
    assert peak_bytes(8, Tiling(8, 4000, 0, True)) > 4 * large  # the control: untiled, it does grow
