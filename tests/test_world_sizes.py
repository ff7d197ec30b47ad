"""A run saved by N workers goes on with M, across ZeRO stages and micro-batches: the same samples,
schedule and optimizer.
"""

import itertools
import json
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from c2srt.errors import UserError
from c2srt.files import sha256_of_file
from c2srt.loader import LoaderConfig, training_order
from c2srt.order import BatchPartition, global_order
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.train import checkpoints
from c2srt.train.config import Config
from c2srt.train.sample_log import SAMPLES, forget_samples_after, read_samples
from tests.covering import covering, marked, part_of
from tests.ranks import run_ranks
from tests.train_case import make_case, said_while_training, told, train_rank

SAVED, STEPS = 2, 5  # an epoch has 4 steps, the last one short: the resumed part crosses its end
RTOL, ATOL = (
    1e-4,
    2e-6,
)  # most of the whole matrix after 3 steps at a learning rate of 1e-3: 0.36 of it, 3.7e-6
pytestmark = pytest.mark.timeout(3000)


@dataclass(frozen=True)
class Resume:
    """From a run of `before` workers at stage `zero_before` to `after` workers at `zero`."""

    before: int
    after: int
    zero_before: int
    zero: int
    precision: str = "fp32"
    micro_batch: int = 2
    offload: bool = False

    @property
    def source(self) -> tuple[str, int, int]:
        return self.precision, self.before, self.zero_before

    @property
    def name(self) -> str:
        stages = f"zero-{self.zero_before}-{self.zero}{'-offload' if self.offload else ''}"
        return f"{self.precision}-{self.before}-to-{self.after}-{stages}-by-{self.micro_batch}"


QUICK = [
    Resume(2, 1, 3, 3),
    Resume(1, 2, 3, 3),
    Resume(3, 2, 0, 0),
    Resume(2, 2, 0, 0),
    Resume(2, 2, 0, 2, micro_batch=1, offload=True),
    Resume(2, 2, 1, 1, "bf16"),
]
MATRIX = [
    Resume(*sizes, zero, zero)
    for sizes in itertools.product(range(1, 5), repeat=2)
    for zero in range(4)
]
MATRIX += [
    Resume(2, 2, 0, 3),
    *(Resume(3, 4, *stages) for stages in itertools.product(range(4), repeat=2)),
]
MATRIX += [Resume(2, 3, 1, zero, micro_batch=3, offload=True) for zero in (1, 2, 3)]
MATRIX += [
    Resume(*sizes, zero, zero, "bf16")
    for sizes in ((2, 2), (3, 3), (2, 3), (4, 1))
    for zero in range(4)
]


def facets(resume: Resume) -> set[tuple]:
    """What CI must have seen of a resume: every number of workers before and after, growth and
    shrinkage at every stage, every stage before, precision, micro-batch, offload, and some change
    of stage. A checkpoint is the same plain file whoever wrote it; their pairs are left to `pytest
    -m long`.
    """
    change = (resume.after > resume.before) - (resume.after < resume.before)
    return {
        ("before", resume.before),
        ("after", resume.after),
        ("change", change, resume.zero),
        ("writer", resume.zero_before),
        ("precision", resume.precision),
        ("offload", resume.offload),
        ("micro_batch", resume.micro_batch),
        ("other stage", resume.zero_before != resume.zero),
    }


SAMPLE = covering(
    sorted(MATRIX, key=lambda resume: resume.before + resume.after), QUICK, facets
)  # small worlds cost least
REST = [resume for resume in dict.fromkeys(MATRIX) if resume not in QUICK + SAMPLE]
EVERY = marked(QUICK, SAMPLE, REST, lambda resume: resume.name)


def undisturbed(case: Config, precision: str, workers: int, zero: int) -> Config:
    return told(
        case,
        workers=workers,
        zero=zero,
        precision=precision,
        out=str(Path(case.work) / f"whole-{precision}-{workers}-{zero}"),
    )


def resumed(case: Config, resume: Resume) -> Config:
    return told(
        case,
        workers=resume.after,
        zero=resume.zero,
        precision=resume.precision,
        micro_batch=resume.micro_batch,
        offload=resume.offload,
        out=str(Path(case.work) / resume.name),
    )


def stage(config: Config) -> int:
    return config.engine.zero


def train_all(rank: int, configs: list[Config]) -> None:
    """ZeRO-3 must come last: DeepSpeed puts a linear layer of its own, which rounds otherwise, in
    torch's place for good.
    """
    assert configs == sorted(configs, key=stage)
    for config in configs:
        train_rank(rank, config)


def checkpoint(config: Config, step: int) -> Path:
    return checkpoints.folder_of(config.folder / "checkpoints", step)


class Runs:
    """Trainings, each done once: all that a set of resumes needs, in one group of processes for
    each number of workers.
    """

    def __init__(self, case: Config) -> None:
        self.case, self.done = case, set()

    def train(self, configs: list[Config]) -> None:
        fresh = {config.out: config for config in configs if config.out not in self.done}
        for workers in sorted(
            {config.workers for config in fresh.values()}
        ):  # by stage: see train_all
            run_ranks(
                workers,
                train_all,
                sorted((c for c in fresh.values() if c.workers == workers), key=stage),
            )
        self.done |= set(fresh)

    def prepare(self, resumes: list[Resume]) -> None:
        self.train([undisturbed(self.case, *resume.source) for resume in resumes])
        for resume in resumes:
            target = resumed(self.case, resume)
            if target.out not in self.done:
                copy_start(undisturbed(self.case, *resume.source), target)
        self.train([resumed(self.case, resume) for resume in resumes])

    def __getitem__(self, resume: Resume) -> tuple[Config, Config]:
        """The undisturbed run and the resumed one."""
        self.prepare(part_of(resume, QUICK, SAMPLE, REST))
        return undisturbed(self.case, *resume.source), resumed(self.case, resume)


def copy_start(source: Config, target: Config) -> None:
    """Leaves in `target` what `source`, killed after its checkpoint of step SAVED and some more
    steps, would have left.
    """
    shutil.copytree(checkpoint(source, SAVED), checkpoint(target, SAVED))
    shutil.copytree(source.folder / SAMPLES, target.folder / SAMPLES)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Config:
    work = tmp_path_factory.mktemp("worlds")
    return make_case(work, steps=STEPS, checkpoint_every=SAVED, keep_last=3, record_samples=True)


@pytest.fixture(scope="module")
def runs(case) -> Runs:
    return Runs(case)


def state(config: Config) -> dict[str, Tensor]:
    """Weights and moments after the last step."""
    folder = checkpoint(config, STEPS)
    return load_file(folder / checkpoints.WEIGHTS) | load_file(folder / checkpoints.OPTIMIZER)


def comparable(name: str, tensor: Tensor) -> Tensor:
    """Without the key part of an attention bias: softmax ignores it, its gradient is rounding
    noise, and AdamW makes steps of full size of it.
    """
    return torch.cat(tensor.chunk(3)[::2]) if name.endswith("attn.in_proj_bias") else tensor


def check_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(
            comparable(name, found[name]),
            comparable(name, tensor),
            rtol=RTOL,
            atol=ATOL,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("resume", EVERY)
def test_another_number_of_workers_goes_on_like_the_undisturbed_run(runs, resume):
    whole, again = runs[resume]
    counters = [
        checkpoints.read_record(checkpoint(config, STEPS)).optimizer for config in (whole, again)
    ]
    assert counters[0] == counters[1] == {"applied": STEPS}
    found, expected = state(again), state(whole)
    same = (resume.before, resume.zero_before, 2, False) == (
        resume.after,
        resume.zero,
        resume.micro_batch,
        resume.offload,
    )
    if same:
        assert all(torch.equal(found[name], expected[name]) for name in expected) and set(
            found
        ) == set(expected)
    elif resume.precision == "fp32":
        check_close(found, expected)
    else:  # the gradients themselves are rounded to 8 bits; at most 0.016 of the way was seen
        start = load_file(checkpoint(whole, SAVED) / checkpoints.WEIGHTS)
        distance = sum(float((found[name] - expected[name]).square().sum()) for name in start)
        way = sum(float((expected[name] - start[name]).square().sum()) for name in start)
        assert distance < 0.1 * way


@pytest.mark.parametrize("resume", EVERY)
def test_the_samples_are_those_of_the_global_order(runs, resume):
    """Those that the killed run took after its checkpoint, too, are recorded once."""
    whole, again = runs[resume]
    index = load_index(Path(whole.shards))
    order = training_order(LoaderConfig(32, whole.schedule.batch, seed=whole.seed), index)
    shards = index.split("train")
    ids = [ShardReader(index.folder, shard).ids for shard in shards]
    epochs = [
        [ids[shard][sample] for shard, sample in global_order(order, [epoch])] for epoch in (0, 1)
    ]
    for config in (whole, again):
        steps = read_samples(config.folder / SAMPLES)
        assert list(steps) == list(range(1, STEPS + 1))
        assert (
            sum((steps[step] for step in range(1, 5)), []) == epochs[0]
            and steps[5] == epochs[1][:8]
        )


def test_ci_runs_every_value_of_every_dimension():
    matrix = {*QUICK, *MATRIX}
    assert {*QUICK, *SAMPLE, *REST} == matrix and len(QUICK + SAMPLE + REST) == len(matrix)
    for dimension in fields(Resume):
        run, every = (
            {getattr(resume, dimension.name) for resume in resumes}
            for resumes in (QUICK + SAMPLE, matrix)
        )
        assert run == every, dimension.name
    grown, shrunk = (
        {
            resume.zero
            for resume in QUICK + SAMPLE
            if (resume.after > resume.before) == more and resume.after != resume.before
        }
        for more in (True, False)
    )
    assert grown == shrunk == set(range(4))


def rewrite(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Replaces a checkpoint's file, hash included."""
    save_file(tensors, folder / name)
    content = json.loads((folder / checkpoints.COMPLETE).read_text())
    content["files"][name] = sha256_of_file(folder / name)
    (folder / checkpoints.COMPLETE).write_text(json.dumps(content))


def drop_moments(folder: Path) -> None:
    moments = load_file(folder / checkpoints.OPTIMIZER)
    rewrite(
        folder,
        checkpoints.OPTIMIZER,
        {name: torch.zeros_like(tensor) for name, tensor in moments.items()},
    )


def drop_step_count(folder: Path) -> None:
    content = json.loads((folder / checkpoints.COMPLETE).read_text())
    content["optimizer"]["applied"] = 0
    (folder / checkpoints.COMPLETE).write_text(json.dumps(content))


@pytest.mark.parametrize("zero", (pytest.param(0, marks=pytest.mark.long), 3))
def test_the_comparison_fails_where_optimizer_state_is_dropped(runs, case, zero):
    """The broken controls: without the moments, or the step count of the bias correction, the
    weights do differ.
    """
    whole, good = runs[Resume(1, 2, zero, zero)]
    broken = []
    for drop in (drop_moments, drop_step_count):
        config = replace(good, out=str(Path(case.work) / f"{drop.__name__}-{zero}"))
        copy_start(whole, config)
        drop(checkpoint(config, SAVED))
        broken.append(config)
    runs.train(broken)
    expected = load_file(checkpoint(whole, STEPS) / checkpoints.WEIGHTS)
    check_close(load_file(checkpoint(good, STEPS) / checkpoints.WEIGHTS), expected)
    for config in broken:
        with pytest.raises(AssertionError, match="not close"):
            check_close(load_file(checkpoint(config, STEPS) / checkpoints.WEIGHTS), expected)


def test_a_damaged_newest_checkpoint_costs_its_steps_only(runs, case):
    whole, _ = runs[Resume(2, 2, 0, 0)]
    config, nothing_left = (
        replace(whole, out=str(Path(case.work) / name)) for name in ("damaged", "nothing-left")
    )
    shutil.copytree(checkpoint(whole, 2), checkpoint(config, 2))
    for folder in (checkpoint(config, 4), checkpoint(nothing_left, 4)):
        shutil.copytree(checkpoint(whole, 4), folder)
        path = folder / checkpoints.OPTIMIZER
        path.write_bytes(path.read_bytes()[:1000])
    said, other = run_ranks(2, said_while_training, config)
    assert (
        said.count(f"checkpoint {checkpoint(config, 4)} is damaged") == 1
        and "of which 2 are done" in said
        and not other
    )
    expected, found = state(whole), state(config)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert checkpoints.damage(checkpoint(config, 4)) is None  # written anew
    assert all(
        "is damaged: restore one, or remove the folder" in said
        for said in run_ranks(2, said_while_training, nothing_left)
    )


def test_other_workers_are_announced(runs, case):
    whole, _ = runs[Resume(2, 2, 0, 0)]
    config = replace(whole, workers=1, out=str(Path(case.work) / "announced"))
    copy_start(whole, config)
    (said,) = run_ranks(1, said_while_training, config)
    assert (
        "checkpoint of 2 workers goes on with 1" in said
        and "8 = 2 images × 1 workers × 4 accumulated" in said
    )
    assert checkpoints.read_record(checkpoint(config, STEPS)).world_size == 1
    assert json.loads((config.folder / "train.json").read_text())["workers"] == 1


def test_samples_of_undone_steps_are_forgotten_and_a_cut_line_too(tmp_path):
    for rank, steps in ((0, (1, 2, 3)), (1, (1, 2)), (2, (1,))):
        lines = [json.dumps({"step": step, "ids": [f"{step}-{rank}"]}) for step in steps]
        (tmp_path / f"rank-{rank}.jsonl").write_text("\n".join([*lines, '{"step": 4, "id']))
    assert read_samples(tmp_path) == {1: ["1-0", "1-1", "1-2"], 2: ["2-0", "2-1"], 3: ["3-0"]}
    forget_samples_after(tmp_path, 1)
    with (tmp_path / "rank-0.jsonl").open("a") as file:
        file.write('{"step": 2, "ids": ["all"]}\n')
    assert read_samples(tmp_path) == {1: ["1-0", "1-1", "1-2"], 2: ["all"]}
    with (tmp_path / "rank-0.jsonl").open("a") as file:
        file.write('{"step": 2, "ids": ["again"]}\n')
    with pytest.raises(UserError, match="has step 2 twice"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    "batch, most, world", itertools.product((1, 7, 8, 64, 100), (1, 2, 5, 16, 200), (1, 2, 3, 4, 7))
)
def test_a_deal_covers_the_batch_with_little_padding(batch, most, world):
    if batch < world:
        with pytest.raises(UserError, match="less than one image"):
            BatchPartition(batch, most, world)
        return
    partition = BatchPartition(batch, most, world)
    runs = [partition.span(number) for number in range(partition.micro_batches)]
    assert [position for start, stop in runs for position in range(start, stop)] == list(
        range(batch)
    )
    assert all(
        partition.micro_batch - 1 <= stop - start <= partition.micro_batch <= most
        for start, stop in runs
    )
    assert partition.accumulation == -(
        -batch // (most * world)
    )  # as many as the memory asks for, no more
    assert 0 <= partition.padded - batch < partition.micro_batches and (
        batch % (most * world) or partition.padded == batch
    )
