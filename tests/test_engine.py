"""Every ZeRO stage, precision and offload on real ranks with the tiled head, against plain torch
with the literal head in one process.
"""

import itertools
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.lazily import COMPILER
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.network import C2SRT
from c2srt.order import BatchPartition
from c2srt.train import checkpoints
from c2srt.train.checkpoints import Record
from c2srt.train.engine_config import EngineConfig, check_combination
from c2srt.train.groups import parameter_groups
from c2srt.train.inputs import load_trained
from c2srt.train.key_groups import OptimizerConfig
from c2srt.train.schedule import learning_rate_factor
from tests.covering import covering, marked, part_of
from tests.ranks import run_ranks
from tests.tiny import random_graph, tiny_clip_config

RANKS, MICRO, ACCUMULATION, SEEN, STEPS, CLIP_NORM = 2, 2, 2, 12, 3, 0.5
EVERY = itertools.product(("fp32", "bf16", "fp16"), range(4), (False, True))
POSSIBLE = [
    (precision, zero, offload)
    for precision, zero, offload in EVERY
    if not (zero == 0 and (offload or precision == "fp16"))
]
QUICK = [
    ("fp32", 0, False),
    ("fp32", 1, False),
    ("fp32", 2, True),
    ("fp32", 3, False),
    ("bf16", 0, False),
    ("bf16", 1, False),
    ("fp16", 2, False),
]


def facets(combination: tuple) -> set[tuple]:
    """Each pair of a combination's three values: with QUICK the sample holds every one that is
    possible.
    """
    return set(itertools.combinations(enumerate(combination), 2))


SAMPLE = covering(POSSIBLE, QUICK, facets)
REST = [combination for combination in POSSIBLE if combination not in QUICK + SAMPLE]
COMBINATIONS = marked(QUICK, SAMPLE, REST, lambda combination: "-".join(map(str, combination)))
ALONE, OF_FOUR = ([0, 3], [1, 2]), ([1, 3], [0, 2])
"""ZeRO stages of one rank and of four, in CI and by hand: the lightest and the heaviest that differ
there; two ranks run all.
"""


def build(folder: Path, form: str = "tiled") -> C2SRT:
    clip = load_clip(ClipConfig(str(folder / "tiny.json"), "random"))
    torch.manual_seed(0)
    config, graph = (
        ModelConfig(form=form, layers=1, heads=2, trainable_blocks=1),
        random_graph(15, SEEN, clip.width, 4),
    )
    return C2SRT(clip, config, LossConfig(), graph, SEEN)


def groups(model: C2SRT) -> list[dict]:
    return parameter_groups(model, model.parameter_depth, OptimizerConfig(1e-3, 2e-3, 1e-2, 0.65))


def global_batch(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """images, labels, teacher, weights of one global batch; the last sample is padding (weight
    0).
    """
    generator = torch.Generator().manual_seed(step)
    size = RANKS * MICRO * ACCUMULATION
    images = torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(-1, 2, (size, SEEN), generator=generator, dtype=torch.int8)
    weights = torch.full((size,), size / (size - 1))
    weights[-1] = 0
    return images, labels, torch.randn(size, 16, generator=generator).half(), weights


def micro_batches(step: int, rank: int, size: int) -> list[tuple]:
    parts = [tensor.split(MICRO) for tensor in global_batch(step)]
    return list(zip(*parts, strict=True))[rank::size]


def plain_torch(folder: Path) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """The same steps in one process on whole batches: (losses, gradient norms, trainable
    weights).
    """
    model = build(folder, "literal")
    optimizer = torch.optim.AdamW(groups(model), betas=(0.9, 0.999), eps=1e-8)
    losses, norms = [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"]
        optimizer.zero_grad()
        loss = model(*global_batch(step))["loss"]
        loss.backward()
        norms.append(
            float(
                torch.nn.utils.clip_grad_norm_(
                    [p for p in model.parameters() if p.requires_grad], CLIP_NORM
                )
            )
        )
        optimizer.step()
        losses.append(loss.item())
    return (
        losses,
        norms,
        {name: p.detach() for name, p in model.named_parameters() if p.requires_grad},
    )


def optimizer_state(engine) -> list[Tensor]:
    """Every tensor of the innermost optimizer's state, copied."""
    optimizer = engine._engine.optimizer
    optimizer = getattr(optimizer, "optimizer", optimizer)
    return [
        value.clone()
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    ]


def try_engine(
    rank: int, folder: Path, size: int, precision: str, zero: int, offload: bool
) -> dict:
    """Trains, meets a NaN on rank 1 only, saves, goes on, and goes on again from the saved
    state.
    """
    from c2srt.train.engine import Engine

    model = build(folder)
    config, partition = (
        EngineConfig(precision, zero, offload),
        BatchPartition(RANKS * MICRO * ACCUMULATION, MICRO, size),
    )
    engine = Engine(model, groups(model), config, partition, CLIP_NORM)
    found = {"start": engine.full_weights()}
    found["updates"] = [
        engine.train_step(micro_batches(step, rank, size), 1.0) for step in range(STEPS)
    ]
    found["weights"], state = engine.full_weights(), optimizer_state(engine)
    for name, place in (("nan_input", 3), ("infinite_loss", 3)):
        batch = micro_batches(50, rank, size)
        if rank == size - 1:
            bad = torch.full((MICRO,), torch.nan if name == "nan_input" else torch.inf)
            batch[0] = (*batch[0][:place], bad)
        found[name] = engine.train_step(batch, 1.0)
    found["after_nan"] = engine.full_weights()
    found["state_kept"] = len(state) > 0 and all(map(torch.equal, state, optimizer_state(engine)))
    root = folder / f"{size}-{precision}-{zero}-{offload}"
    taken = checkpoints.snapshot(engine, Record(STEPS, size, {}, {}))
    found["counters"] = engine.counters()
    engine.train_step(micro_batches(60, rank, size), 0.5)
    found["went_on"] = engine.full_weights()
    if rank == 0:  # what is written is the state when it was taken
        checkpoints.write(root, taken)
    torch.distributed.barrier()
    checkpoint = checkpoints.folder_of(root, STEPS)
    model = build(folder)
    load_trained(model, checkpoints.read_weights(checkpoint), checkpoint)
    engine = Engine(model, groups(model), config, partition, CLIP_NORM)
    engine.restore(
        checkpoints.open_moments(checkpoint), checkpoints.read_record(checkpoint).optimizer
    )
    found["counters restored"] = engine.counters()
    engine.train_step(micro_batches(60, rank, size), 0.5)
    found["resumed"] = engine.full_weights()
    found["compiler loaded"] = COMPILER in sys.modules
    return found


def try_all(rank: int, folder: Path, size: int, combinations: list) -> dict:
    from c2srt.train.engine import get_accelerator

    get_accelerator().is_fp16_supported = lambda: (
        True
    )  # slow on a CPU without AVX512-FP16, and still the same code
    return {
        combination: try_engine(rank, folder, size, *combination) for combination in combinations
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    tiny_clip_config(folder)
    return folder


class Results:
    """What ranks found, by combination; each part of the combinations runs once, when one of it is
    first asked for.
    """

    def __init__(self, folder: Path, size: int, *parts: list[tuple]) -> None:
        self.folder, self.size, self.parts, self.found = folder, size, parts, {}

    def __getitem__(self, combination: tuple) -> list[dict]:
        if combination not in self.found:
            part = part_of(combination, *self.parts)
            ranks = run_ranks(self.size, try_all, self.folder, self.size, part)
            self.found |= {c: [rank[c] for rank in ranks] for c in part}
        return self.found[combination]


def plain(stages: list[int]) -> list[tuple]:
    return [("fp32", zero, False) for zero in stages]


@pytest.fixture(scope="module")
def two_ranks(folder) -> Results:
    return Results(folder, RANKS, QUICK, SAMPLE, REST)


@pytest.fixture(scope="module")
def one_rank(folder) -> Results:
    return Results(folder, 1, *map(plain, ALONE))


@pytest.fixture(scope="module")
def four_ranks(folder) -> Results:
    return Results(folder, 4, *map(plain, OF_FOUR))


@pytest.fixture(scope="module")
def reference(folder) -> tuple[list[float], list[float], dict[str, Tensor]]:
    return plain_torch(folder)


def check_weights(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal but for float32 rounding. The key part of an attention bias is left out: softmax
    ignores it, its gradient is rounding noise, and AdamW makes steps of full size of it.
    """
    assert set(found) == set(expected)
    for name, weight in expected.items():
        weights = [weight, found[name]]
        if name.endswith("attn.in_proj_bias"):
            weights = [torch.cat(w.chunk(3)[::2]) for w in weights]
        torch.testing.assert_close(
            *weights, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_two_ranks_train_like_plain_torch_on_the_whole_batch(two_ranks, reference, combination):
    losses, norms, weights = reference
    ranks = two_ranks[combination]
    updates = list(zip(*(rank["updates"] for rank in ranks), strict=True))
    found = [sum(update.values["loss"] for update in step) / RANKS for step in updates]
    if combination[0] == "fp16":  # the first steps may look for the loss scale
        assert found[0] == pytest.approx(losses[0], rel=0.01) and updates[-1][0].applied
    else:
        assert found == pytest.approx(losses, rel=1e-5 if combination[0] == "fp32" else 0.02)
        assert all(update.applied for update in updates[0])
    assert set(ranks[0]["weights"]) == set(weights) and ranks[1]["weights"] == {}
    if combination[0] == "fp32":
        assert [update.gradient_norm for update in ranks[1]["updates"]] == pytest.approx(
            norms, rel=1e-4
        ) and min(norms) > 1
        check_weights(ranks[0]["weights"], weights)


@pytest.mark.parametrize("zero", marked([], *ALONE, str))
def test_one_rank_trains_like_plain_torch(one_rank, reference, zero):
    found = one_rank["fp32", zero, False][0]
    assert [update.values["loss"] for update in found["updates"]] == pytest.approx(
        reference[0], rel=1e-5
    )
    check_weights(found["weights"], reference[2])


@pytest.mark.parametrize("zero", marked([], *OF_FOUR, str))
def test_four_ranks_train_like_plain_torch(four_ranks, reference, zero):
    check_weights(four_ranks["fp32", zero, False][0]["weights"], reference[2])


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_a_non_finite_loss_on_one_rank_changes_nothing_on_any(two_ranks, combination):
    for rank in two_ranks[combination]:
        assert not rank["nan_input"].applied and not rank["infinite_loss"].applied
        assert rank["state_kept"]
    before, after = two_ranks[combination][0]["weights"], two_ranks[combination][0]["after_nan"]
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_resumed_equals_uninterrupted_bit_for_bit(two_ranks, combination):
    found = two_ranks[combination][0]
    assert all(
        torch.equal(found["went_on"][name], found["resumed"][name]) for name in found["went_on"]
    )
    assert not all(
        torch.equal(found["went_on"][name], found["after_nan"][name]) for name in found["went_on"]
    )
    assert found["counters"] == found["counters restored"] and found["counters"]["applied"] > 0
    assert ("loss_scaler" in found["counters"]) == (combination[0] == "fp16")


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_first_weights_are_exact_in_float32(folder, two_ranks, combination):
    """16-bit training starts from the CLIP's own float32 weights, not from their rounding."""
    expected = {name: p for name, p in build(folder).named_parameters() if p.requires_grad}
    start = two_ranks[combination][0]["start"]
    assert set(start) == set(expected) and all(
        torch.equal(start[name], expected[name]) for name in expected
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="was looked at on CPUs only")
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_no_rank_loads_the_compiler(two_ranks, combination):
    assert not any(rank["compiler loaded"] for rank in two_ranks[combination])


def test_ci_runs_every_possible_pair_of_precision_stage_and_offload():
    run, possible = (set().union(*map(facets, cases)) for cases in (QUICK + SAMPLE, POSSIBLE))
    assert run == possible and len(QUICK + SAMPLE + REST) == len(POSSIBLE) == 20
    assert {*ALONE[0], *OF_FOUR[0]} == {0, 1, 3} and all(
        sorted(sum(stages, [])) == [*range(4)] for stages in (ALONE, OF_FOUR)
    )


def test_what_deepspeed_cannot_do_is_refused():
    for arguments, sentence in (
        ((("fp32", 0, True)), "offload=true needs engine.zero"),
        (("fp16", 0, False), "precision=fp16 needs engine.zero"),
        (("fp32", 4, False), "not a ZeRO stage"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_combination(*arguments)


def test_learning_rate_warms_up_and_falls_to_nearly_nothing():
    factors = [learning_rate_factor(step, 100, 10) for step in range(100)]
    assert (
        factors[0] == pytest.approx(0.1)
        and factors[9] == pytest.approx(1.0)
        and max(factors) == factors[9] == factors[10]
    )
    assert all(a >= b for a, b in pairwise(factors[10:])) and 0 < factors[-1] < 0.001
    assert learning_rate_factor(0, 1, 0) == 1.0


def test_groups_decay_with_depth_and_spare_vectors(folder):
    model = build(folder)
    found = {id(p): group for group in groups(model) for p in group["params"]}
    named = {name: found[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert set(found) == {id(p) for p in model.parameters() if p.requires_grad}
    assert named["head.source"]["peak_lr"] == 2e-3 and named["tower.proj"]["peak_lr"] == 1e-3
    assert named["tower.vit.transformer.resblocks.2.mlp.c_fc.weight"]["peak_lr"] == pytest.approx(
        1e-3 * 0.65
    )
    assert (
        named["tower.vit.ln_post.weight"]["weight_decay"] == 0
        and named["tower.proj"]["weight_decay"] == 1e-2
    )
    assert named["tower.vit.transformer.resblocks.2.mlp.c_fc.bias"]["weight_decay"] == 0
