"""`c2srt plan`: its formulas against counted truths, and what it says."""

import json
import os
from dataclasses import replace
from functools import cache
from itertools import islice, pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from c2srt.backbone.clip import build_model
from c2srt.backbone.config import ClipConfig
from c2srt.backbone.vit import VitTower
from c2srt.cluster.cli import main
from c2srt.compose import to_config
from c2srt.errors import UserError
from c2srt.files import write_json
from c2srt.model.config import ModelConfig
from c2srt.model.head import Head
from c2srt.order import Order
from c2srt.plan.caching import Caching
from c2srt.plan.calibrate import slope
from c2srt.plan.config import Config
from c2srt.plan.estimate import Estimate, estimate
from c2srt.plan.hardware import STORAGE, Cluster, calibrated, worker_threads
from c2srt.plan.lasting import Lasting, lasting_of
from c2srt.plan.outline import Outline, count, outline
from c2srt.plan.speed import sync_bytes
from c2srt.plan.storage_rates import storage_rates
from c2srt.profiling import allocator_peak
from c2srt.train.memory import engine_bytes
from tests.shard_folder import make_shards, make_vocabulary
from tests.train_case import told
from tests.verbs import compose_verb

EVERYTHING = None


def clip_of(
    folder, width: int = 32, layers: int = 3, quick: bool = False, size: int = 32
) -> ClipConfig:
    content = {
        "embed_dim": width // 2,
        "quick_gelu": quick,
        "vision_cfg": {
            "image_size": size,
            "layers": layers,
            "width": width,
            "patch_size": 8,
            "head_width": 16,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    path = folder / f"{width}-{layers}-{quick}-{size}.json"
    path.write_text(json.dumps(content))
    return ClipConfig(str(path), "random")


def real_tower(clip: ClipConfig, trainable_blocks: int | None) -> VitTower:
    with open(clip.name) as file:
        visual = build_model(json.load(file)).visual
    tower = VitTower(visual)
    tower.freeze(trainable_blocks)
    return tower.train()


def backward(tower: VitTower, pixels: torch.Tensor) -> None:
    patches, global_ = tower(pixels)
    (patches.sum() + global_.sum()).backward()


@cache
def composed(*overrides: str) -> Config:
    return to_config(Config, compose_verb("plan", list(overrides)))


@cache
def vit_b() -> Outline:
    return outline(ClipConfig("ViT-B-16", "openai"), ModelConfig())


def plan_of(*overrides: str, **changes) -> Estimate:
    config = composed(*overrides)
    return estimate(
        told(config, **changes).training(),
        config.cluster,
        config.sizes,
        None if "model" in changes else vit_b(),
    )


@pytest.mark.parametrize("blocks", [0, 1, 3, EVERYTHING])
@pytest.mark.parametrize("width", [32, 128])
def test_flops_of_the_vit_are_those_that_torch_counts(tmp_path, width, blocks):
    clip = clip_of(tmp_path, width)
    shape, tower = (
        outline(clip, ModelConfig(heads=4, trainable_blocks=blocks)),
        real_tower(clip, blocks),
    )
    with FlopCounterMode(display=False) as forward:
        patches, global_ = tower(torch.randn(2, 3, 32, 32))
    with FlopCounterMode(display=False) as back:
        (patches.sum() + global_.sum()).backward()
    assert 2 * shape.forward_flops() == pytest.approx(forward.get_total_flops(), rel=0.02)
    assert 2 * shape.backward_flops() == pytest.approx(back.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("blocks", [0, 2, EVERYTHING])
def test_parameters_are_those_of_the_real_model(tmp_path, blocks):
    clip, model = clip_of(tmp_path), ModelConfig(heads=4, trainable_blocks=blocks)
    shape, tower, head = outline(clip, model), real_tower(clip, blocks), Head(16, model, 10.0)
    assert (shape.tower_parameters, shape.tower_trained) == (count(tower), count(tower, True))
    assert shape.head_parameters == count(head)
    with open(clip.name) as file:
        assert shape.clip_parameters == count(build_model(json.load(file)))
    assert not any(parameter.is_meta for parameter in tower.parameters())


def test_openai_s_vits_have_its_activation():
    shape = outline(ClipConfig("ViT-B-16", "openai"), ModelConfig())
    assert (
        shape.quick_gelu and not outline(ClipConfig("ViT-B-16", "random"), ModelConfig()).quick_gelu
    )
    assert (shape.tokens, shape.width, shape.blocks, shape.joint, shape.tower_parameters) == (
        197,
        768,
        12,
        512,
        86_192_640,
    )
    assert 34e9 < shape.forward_flops() < 36e9


@pytest.mark.parametrize(
    "width, layers, size, images, blocks, quick",
    [
        (32, 3, 32, 8, EVERYTHING, False),
        (32, 3, 32, 8, 2, True),
        (128, 4, 64, 8, 2, False),
        (128, 4, 64, 8, EVERYTHING, True),
    ],
)
def test_activations_are_near_the_allocator_s_peak(
    tmp_path, width, layers, size, images, blocks, quick
):
    clip = clip_of(tmp_path, width, layers, quick, size)
    shape, tower = (
        outline(clip, ModelConfig(heads=4, trainable_blocks=blocks)),
        real_tower(clip, blocks),
    )
    pixels = torch.randn(images, 3, size, size)
    backward(tower, pixels)  # gradients exist from now on, as they do in the engine
    expected = shape.saved_bytes(images, 4) + shape.working_bytes(images, 4)
    peak = allocator_peak(lambda: backward(tower, pixels))
    assert 0.85 * peak <= expected <= 1.25 * peak
    twice = allocator_peak(lambda: backward(tower, pixels.repeat(2, 1, 1, 1)))
    assert (
        shape.saved_bytes(images, 4) <= (twice - peak) * 1.1
    )  # what grows with the batch is at least what is saved


def test_engine_bytes_are_those_of_real_tensors():
    parameter = torch.nn.Parameter(torch.randn(1000))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    state = sum(tensor.nbytes for tensor in optimizer.state[parameter].values() if tensor.dim())
    parts = engine_bytes("fp32", 0, 4, 1000, 1000)
    names = ("weights", "gradients", "master weights", "AdamW's moments")
    assert parts == dict(
        zip(names, (parameter.nbytes, parameter.grad.nbytes, 0, state), strict=True)
    )
    assert engine_bytes("bf16", 3, 4, 1000, 400) == dict(
        zip(names, (500, 400, 400, 800), strict=True)
    )


def test_zero_and_offload_move_memory():
    plain = plan_of(workers=8, precision="bf16", zero=0).memory
    sharded = plan_of(workers=8, precision="bf16", zero=3).memory
    offloaded = plan_of(workers=8, precision="bf16", zero=1, offload=True).memory
    assert sharded.parts["weights"] == plain.parts["weights"] / 8
    assert sharded.parts["AdamW's moments"] == plain.parts["AdamW's moments"] / 8
    assert (
        "AdamW's moments" not in offloaded.parts
        and offloaded.host["AdamW's moments"] == plain.parts["AdamW's moments"]
    )


def test_gradient_bytes_are_the_ring_s():
    one, eight = plan_of(workers=1, precision="fp32"), plan_of(workers=8, precision="fp32")
    assert sync_bytes(one.config, one.outline) == 0 and one.speed.parts["gradient sync"] == 0
    assert sync_bytes(eight.config, eight.outline) == 2 * 4 * eight.outline.trained * 7 / 8


@pytest.mark.parametrize("cluster", ["h200", "h100", "a100"])
def test_more_gpus_are_never_slower(cluster):
    for scaled in (False, True):
        speeds = []
        for workers in (1, 2, 4, 8, 16, 64, 256, 512):
            batch = 64 * workers if scaled else 4096
            changes = {"workers": workers, "batch": batch, "precision": "bf16", "loader_workers": 4}
            speeds.append(plan_of(f"cluster={cluster}", **changes).speed.images_s)
        assert all(after >= 0.98 * before for before, after in pairwise(speeds))  # 2 %: latency
        assert speeds[3] > 5 * speeds[0]


def test_slower_loaders_mean_waiting():
    fed, starved = (
        plan_of(workers=8, precision="bf16", loader_workers=workers).speed for workers in (4, 1)
    )
    assert fed.waiting == 0 and starved.waiting > 0 and starved.images_s == pytest.approx(8 * 1400)
    slow = plan_of("cluster=cpu", workers=1, loader_workers=0).speed
    assert slow.step == slow.computing + slow.loader


@pytest.mark.parametrize(
    ("rate", "binds", "cure"),
    [
        ("read_latency_ms=2000", "the latency of the storage", "loader.workers="),
        ("disk_gb_s=0.001", "the bandwidth of the storage", "a faster storage"),
        ("reads_s=100", "the requests a second of the storage", "a faster storage"),
        ("decode_images_s=10", "decoding", "loader.workers="),
    ],
)
def test_the_plan_says_what_binds(capsys, rate, binds, cure):
    keys = ["plan", "data=openimages", "workers=8", "engine.precision=bf16", "loader.workers=8"]
    assert main([*keys, f"cluster.{rate}"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "waits for data" in line]
    assert f"bound by {binds}" in line and cure in line
    assert main(keys) == 0
    assert "The computing binds" in capsys.readouterr().out


def test_more_reads_under_way_hide_the_latency():
    slow = [
        plan_of("cluster.read_latency_ms=20", workers=8, precision="bf16", loader_workers=workers)
        for workers in (1, 4)
    ]
    one, four = (plan.speed.loading["the latency of the storage"] for plan in slow)
    assert one == pytest.approx(4 * four)
    images = slow[0].config.partition.accumulation * slow[0].config.partition.micro_batch
    assert one == pytest.approx(2 * images * 0.02 / 32)  # a picture and its cached feature


CACHED = ("plan", "data=openimages", "workers=16", "engine.precision=bf16", "loader.workers=4")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ([], "copies 176.2 GiB of shards to each node; later ones read the node's own disk alone"),
        (["schedule.streams=512"], "copies 88.1 GiB of shards to each node; later ones read"),
        (["loader.cache_gb=100"], "the cache holds 53% of them, so each later epoch copies 83%"),
        (["schedule.streams=512", "loader.cache_gb=10"], "89% of a node's pictures find no room"),
        (["cluster.disk_gb_s=0.2"], "which makes it 134% slower; later ones read"),
        (["gpus=[8,64]"], "8 GPUs: loader.cache: the first epoch copies 176.2 GiB"),
    ],
)
def test_the_plan_says_what_fills_the_cache(capsys, keys, sentence):
    assert main([*CACHED, "loader.cache=/nvme", *keys]) == 0
    assert sentence in capsys.readouterr().out
    assert main([*CACHED, *keys]) == 0
    assert "loader.cache:" not in capsys.readouterr().out


def test_a_cache_costs_the_first_epoch_and_spares_the_others():
    slow = {"workers": 16, "precision": "bf16", "loader_workers": 4}
    without = plan_of("cluster.disk_gb_s=0.05", **slow)
    cached = plan_of("cluster.disk_gb_s=0.05", "loader.cache=/nvme", **slow)
    assert cached.speed.step < without.speed.step < cached.first.step
    epochs = cached.steps - cached.epoch
    assert cached.seconds == cached.epoch * cached.first.step + epochs * cached.speed.step
    assert without.seconds == pytest.approx(without.steps * without.speed.step)
    one, other = (plan.reads / plan.speed.images_s for plan in (cached, without))
    assert other == 2 * one  # a picture, and its cached feature
    assert cached.read / cached.speed.images_s < without.read / without.speed.images_s


@pytest.mark.parametrize("streams, share", [(0, (0.0, 1.0)), (64, (0.25, 0.5))])
@pytest.mark.parametrize("room", [0.3, 0.6, 0.9, 1.0])
def test_what_is_copied_again_is_what_the_order_asks_for(streams, share, room):
    """A cache that holds what comes next, and nothing else, over four epochs of a real order."""
    order = Order((20,) * 200, 64, 8, 1, streams)
    needed = len(set(order.coming(0, *share)))
    held: set[int] = set()
    copies = 0
    for step in range(4 * order.steps_per_epoch):
        coming = dict.fromkeys(order.coming(step, *share))
        wanted = set(islice(coming, int(room * needed)))
        copies += len(wanted - held) if step > order.steps_per_epoch else 0
        held = wanted
    expected = Caching(1, room, streams > 0, 1).again
    assert copies / needed / 3 == pytest.approx(expected, abs=0.06)


def test_the_rates_of_the_shards_storage_are_measured(tmp_path):
    make_shards(tmp_path, {"train": 40}, 10, make_vocabulary(), short_side=200)
    rates = storage_rates(tmp_path)
    assert set(rates) == set(STORAGE) and all(rate > 0 for rate in rates.values())
    cluster = replace(Cluster(name="x", kind="cpu"), **rates)
    write_json(tmp_path / "rates.json", {"kind": "cpu", "values": rates})
    assert calibrated(Cluster(name="x", kind="cpu"), str(tmp_path / "rates.json")) == cluster


LONG = {
    **{"kind": "gpu", "tflops": {"bf16": 1e15}, "host_link_gb_s": 10, "write_gb_s": 1},
    **{"start_s": 100, "record_ms": 5, "failures_gpu_day": 0.01},
}


def long_run(config: Config, devices: int, computing: float, **cluster) -> Lasting:
    """Of a model with 1/12 G trained parameters, so that a checkpoint has 1 GB; a step a second."""
    shape = SimpleNamespace(trained=10**9 // 12)
    return lasting_of(config, shape, Cluster(**{**LONG, **cluster}), devices, 1.0, computing)


def test_what_lasts_longer_than_the_steps_by_hand():
    config = composed("checkpoints.seconds=500", "tracking.seconds=5")
    found = long_run(config, 864, 50_000)  # a failure every 10,000 s
    assert found.writing == pytest.approx(1, rel=1e-3) and found.apart == 500
    assert found.checkpoints == pytest.approx(100 * 0.1, rel=1e-3)
    assert found.records == pytest.approx(10_000 * 0.005)
    # each takes 100 s to start, 250 s on average since the last checkpoint, 1 s of its writing
    undisturbed = 50_000 + 10 + 50 + 100
    assert found.failures == pytest.approx(undisturbed / 1e4 / (1 - 351 / 1e4), rel=1e-4)
    assert found.starts == pytest.approx(100 * (1 + found.failures))
    assert found.repeated == pytest.approx(251 * found.failures, rel=1e-4)
    assert found.failures == pytest.approx(found.total / 1e4, rel=1e-4)  # of all that it takes
    assert found.best_apart == pytest.approx((2 * 0.1 * 1e4) ** 0.5, rel=1e-3)


def test_the_best_time_between_checkpoints_costs_least():
    def cost(seconds: float) -> float:
        return long_run(composed(f"checkpoints.seconds={seconds}"), 864, 50_000).total

    best = long_run(composed(), 864, 50_000).best_apart
    assert cost(best) < min(cost(best / 1.5), cost(best * 1.5))


def test_what_is_written_too_slowly_is_waited_for_and_no_failures_cost_nothing():
    config = composed("checkpoints.seconds=20")
    slow = long_run(config, 8, 1000, write_gb_s=0.02)
    assert slow.checkpoints == pytest.approx(50 * (0.1 + 30), rel=1e-3)
    calm = long_run(config, 8, 1000, failures_gpu_day=0)
    assert (calm.failures, calm.repeated, calm.starts, calm.best_apart) == (0, 0, 100, None)
    counted = composed("checkpoints.seconds=0", "checkpoints.every=0")
    assert long_run(counted, 8, 1000).apart == 1000  # one, at the end


def test_a_trained_part_less_is_less_work():
    full = plan_of(workers=8)
    for change in ({"isr": False}, {"ist": False}, {"trainable_blocks": 0}, {"layers": 1}):
        less = plan_of(workers=8, model=replace(full.config.model, **change))
        assert less.work.image < full.work.image and less.speed.computing < full.speed.computing
        assert less.memory.total <= full.memory.total


def test_the_screen_says_what_it_rests_on(capsys):
    assert main(["plan", "workers=8", "precision=bf16", "loader_workers=4"]) == 0
    text = capsys.readouterr().out
    assert (
        max(map(len, text.split("Assumptions:")[0].splitlines())) <= 140
        and len(text.splitlines()) < 60
    )
    for part in (
        "Memory of a GPU's worker",
        "9,011,219",
        "GPU-hours",
        "left",
        "It fits.",
        "published sizes",
        "5,501,586",
        "MB/s",
        "teacher cache",
        "failures expected",
        "costs least",
    ):
        assert part in text


def test_the_comparison_is_a_markdown_table(capsys):
    assert main(["plan", "gpus=[1,8,64,512]", "precision=bf16", "loader_workers=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 6 and {row.count("|") for row in rows} == {rows[0].count("|")}
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["1", "8", "64", "512"]
    assert "512 GPUs are hardly faster than 64" in "\n".join(lines)


def test_what_does_not_fit_says_what_would_help(capsys):
    small = [
        "plan",
        "workers=8",
        "cluster.memory_gib=5",
        "cluster=h100",
        "model.trainable_blocks=null",
        "model.tile_mib=400",
    ]
    assert main(small) == 1
    text = capsys.readouterr().out
    assert (
        "DOES NOT FIT: a worker needs" in text
        and "micro_batch=" in text.split("any of these would:")[1]
    )
    first = text.split("any of these would: schedule.micro_batch=")[1]
    micro = int(first.split(";")[0].split(".")[0])
    assert (
        main([*small, f"micro_batch={micro}"]) == 0
        and main([*small, f"micro_batch={2 * micro}"]) == 1
    )
    capsys.readouterr()
    assert main([*small[:2], "cluster.memory_gib=0.2", "json=true"]) == 1
    assert json.loads(capsys.readouterr().out)["plans"][0]["help"] == []


def test_what_has_no_kernel_is_said(capsys):
    few = ["plan", "cluster=h200", "precision=bf16", "images=1000"]
    assert main(few) == 0 and "not in our kernel" not in capsys.readouterr().out
    assert main([*few, "model.neighbours=80"]) == 0
    assert "IST runs in torch, not in our kernel (K = 81 is outside" in capsys.readouterr().out
    assert main([*few, "model.tile_mib=200"]) == 0
    assert "not in our kernel (a tile holds" in capsys.readouterr().out


def test_json_holds_the_same_figures(capsys):
    assert main(["plan", "gpus=[8]", "precision=bf16", "images=1000", "json=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    (plan,) = found["plans"]
    assert plan["steps"] == 8 * 2 and plan["gpus"] == 8 and plan["fits"]
    assert plan["step_seconds"] >= sum(plan["step_parts_seconds"].values())
    assert plan["computing_hours"] == pytest.approx(16 * plan["step_seconds"] / 3600)
    parts = ("records", "checkpoints", "starts", "repeated")
    beyond = sum(plan["lasting"][part] for part in parts) / 3600
    assert plan["hours"] == pytest.approx(plan["computing_hours"] + beyond)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["model=mkt"], "only C²SRT's own head is counted"),
        (["gpus=[0]"], "must be a list of numbers of at least 1"),
        (["gpus=[1024]"], "batch=512 is less than one image"),
        (["cluster=tpu"], "choose one of a100, cpu, h100, h200"),
        (["clip.name=nope"], "not an open_clip model"),
        (["cluster.cores=0"], "cluster.cores=0 must be above 0"),
        (["calibrate=true"], "needs calibration="),
        (
            ["calibration=/nowhere.json"],
            "make it with `c2srt plan calibration=/nowhere.json calibrate=true`",
        ),
        (["sizes.train=0"], "give sizes.train="),
        (["model.trainable_blocks=99"], "outside 0…12"),
        (["clock=sun"], "clock='sun' is not one of"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, capsys):
    assert main(["plan", *arguments]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err and len(printed.err.splitlines()) == 1 and not printed.out


def test_a_gpu_is_not_measured_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments in (["check=true"], ["calibrate=true", "calibration=/nowhere/c.json"]):
        assert (
            main(["plan", *arguments]) == 2 and "torch finds none here" in capsys.readouterr().err
        )


def test_sizes_come_from_the_shards_once_they_are_there(tmp_path, capsys):
    from tests.shard_folder import make_shards, make_vocabulary

    make_shards(tmp_path / "shards", {"train": 30, "test": 12}, 10, make_vocabulary(10, 3))
    assert main(["plan", f"shards={tmp_path / 'shards'}", "json=true"]) == 0
    sizes = json.loads(capsys.readouterr().out)["sizes"]
    assert (sizes["train"], sizes["test"], sizes["seen"], sizes["unseen"]) == (
        30,
        12,
        10,
        3,
    ) and sizes["trained"] is None


def test_a_calibration_replaces_rates_of_its_kind_only(tmp_path):
    cluster = Cluster("x", kind="cpu", tflops={"fp32": 1.0, "bf16": 2.0})
    path = tmp_path / "c.json"
    path.write_text(
        json.dumps({"kind": "cpu", "values": {"tflops": {"fp32": 3.0}, "vit_efficiency": 0.5}})
    )
    found = calibrated(cluster, str(path))
    assert (
        found.tflops == {"fp32": 3.0, "bf16": 2.0}
        and found.vit_efficiency == 0.5
        and found.cores == cluster.cores
    )
    with pytest.raises(UserError, match="was measured on a cpu"):
        calibrated(replace(cluster, kind="gpu"), str(path))
    path.write_text(json.dumps({"kind": "cpu", "values": {"cores": 9}}))
    with pytest.raises(UserError, match="not a calibration of this version"):
        calibrated(cluster, str(path))


def test_a_line_through_two_timings():
    assert slope({"x-1": 3.0, "x-4": 9.0}, "x", 1, 4, {1: 1.0, 4: 4.0}) == (2.0, 1.0)
    assert slope({"x-1": 1.0, "x-4": 8.0}, "x", 1, 4, {1: 1.0, 4: 4.0}) == (2.0, 0.0)


def test_threads_follow_the_training_s_rule(monkeypatch):
    from c2srt.train import world

    chosen = []
    monkeypatch.setattr(world.torch, "set_num_threads", chosen.append)
    for cores, workers, loaders in ((2, 1, 0), (2, 1, 1), (2, 2, 1), (16, 2, 3), (16, 2, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        world.World(0, workers, workers, torch.device("cpu")).set_threads(loaders)
        assert chosen[-1] == worker_threads(cores, workers, loaders)
