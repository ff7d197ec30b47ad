"""The tile planner."""

import pytest
import torch

from c2srt.errors import UserError
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.head import Head
from c2srt.model.plan import MIB, Plan, Shape, budget_bytes, bytes_per_image, make_plan
from tests.tiny import random_graph

OPEN_IMAGES = Shape(7186, 196, 512, 4)


def test_a_tile_fits_its_budget_and_grows_with_it():
    config, chunk, images = ModelConfig(), 0, 0
    for mib in (192, 256, 512, 1024, 4096):
        plan = make_plan(OPEN_IMAGES, config, 64, mib * MIB)
        assert plan.bytes <= mib * MIB
        assert plan.images > images or (plan.images, plan.categories) >= (images, chunk)
        images, chunk = plan.images, plan.categories
    assert images > 1 and chunk > 64


def test_the_default_tile_does_not_grow_with_the_batch():
    config = ModelConfig()
    plans = {make_plan(OPEN_IMAGES, config, images, 256 * MIB) for images in (2, 8, 64)}
    assert len(plans) == 1


def test_too_small_a_budget_says_what_is_needed():
    with pytest.raises(UserError, match="at least 1[0-9]{2} MiB .*raise model.tile_mib"):
        make_plan(OPEN_IMAGES, ModelConfig(), 8, 64 * MIB)


def test_tile_mib_is_the_budget():
    assert budget_bytes(ModelConfig(tile_mib=300), torch.device("cpu")) == 300 * MIB
    assert 0 < budget_bytes(ModelConfig(), torch.device("cpu")) <= 256 * MIB


def test_100_000_categories_fit_the_same_budget_at_a_small_width():
    plan = make_plan(Shape(100_000, 49, 16, 4), ModelConfig(heads=4), 8, 256 * MIB)
    assert plan.images >= 1 and plan.categories == 1024


def test_without_ist_less_is_kept():
    assert bytes_per_image(OPEN_IMAGES, ModelConfig(ist=False)) < bytes_per_image(OPEN_IMAGES, ModelConfig())


def test_the_description_names_tiles_bytes_and_work():
    text = make_plan(OPEN_IMAGES, ModelConfig(), 8, 256 * MIB).describe(OPEN_IMAGES, ModelConfig())
    assert "1 images" in text and "of 7,186 categories" in text and "GFLOP" in text


def peak_bytes(images: int, plan: Plan) -> int:
    """Peak of what torch's CPU allocator hands out during one forward and backward of the head."""
    config, seen, width = ModelConfig(heads=4, max_patches=8), 4000, 32
    torch.manual_seed(0)
    head, graph = Head(width, config, 10.0), random_graph(seen, seen, width, 4)
    patches, global_ = torch.randn(images, 16, width, requires_grad=True), torch.randn(images, width, requires_grad=True)
    labels = (torch.rand(images, seen) < 0.01).to(torch.int8)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        head(patches, global_, labels, torch.ones(images), graph, LossConfig(), plan)[0].backward()
    events = sorted((e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    current = peak = 0
    for event in events:
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def test_head_memory_is_flat_in_the_batch_and_near_the_plan():
    config, shape = ModelConfig(heads=4, max_patches=8), Shape(4000, 16, 32, 4)
    plan = make_plan(shape, config, 8, 9 * MIB)
    assert (plan.images, plan.categories) == (1, 1024)
    small, large = peak_bytes(2, plan), peak_bytes(8, plan)
    assert large <= 1.05 * small
    assert large <= 1.5 * plan.bytes
    assert peak_bytes(8, Plan(8, 4000, 0)) > 4 * large  # the control: untiled, it does grow
