"""Whole trainings whose processes are killed at random: they end, lose and repeat no sample, and
give the weights of an undisturbed training bit for bit.

C2SRT_CHAOS_TRAININGS: how many (3); C2SRT_CHAOS_SEED: other kills. `pytest -m long -s
tests/test_chaos.py` prints what was killed. By hand: in CI a killed rank is in
tests/test_failures.py on a real Ray, and so is a whole training that loses one.
"""

import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.train.config import Config
from c2srt.train.sample_log import SAMPLES, read_samples
from tests.train_case import make_case
from tests.train_command import (
    command,
    end,
    ended,
    family,
    launch,
    loaders,
    newest,
    ranks,
    title,
    wait_until,
)

TRAININGS, SEED = (
    int(os.environ.get("C2SRT_CHAOS_TRAININGS", 3)),
    int(os.environ.get("C2SRT_CHAOS_SEED", 0)),
)
EPOCHS, STEPS_PER_EPOCH = 20, 4
STEPS = EPOCHS * STEPS_PER_EPOCH
TARGETS = ("worker", "loader", "driver", "head")
KEYS = (
    f"epochs={EPOCHS}",
    "checkpoint_every=3",
    "record_samples=true",
    "collective_timeout=60",
    "max_failures=5",
)
# Ray's driver waits a minute for a lost head to come back, which a local one never does.
IMPATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: the process, once this step has begun."""

    target: str
    step: int


def planned(number: int) -> list[Kill]:
    """One to three kills of training `number`, by step; over four trainings every target has its
    turn.
    """
    choose = random.Random(f"{SEED}/{number}")
    targets = [TARGETS[number % len(TARGETS)], *choose.choices(TARGETS, k=choose.randint(0, 2))]
    choose.shuffle(targets)
    return [
        Kill(target, step)
        for target, step in zip(
            targets, sorted(choose.sample(range(2, STEPS - 30), len(targets))), strict=True
        )
    ]


def begun(out: Path) -> int:
    """The newest step whose samples rank 0 has handed over."""
    path = out / SAMPLES / "rank-0.jsonl"
    lines = (
        [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if path.exists()
        else []
    )
    return json.loads(lines[-1])["step"] if lines else 0


def victim(process: psutil.Popen, target: str, choose: random.Random) -> psutil.Process | None:
    """A process of that kind, or None while there is none."""
    found = {
        "worker": lambda: ranks(process),
        "loader": lambda: loaders(process),
        "driver": lambda: [process],
        "head": lambda: [
            member
            for member in family(process)
            if title(member).split(" ")[0].endswith(("/gcs_server", "/raylet"))
        ],
    }[target]()
    return choose.choice(found) if found else None


def await_victim(
    process: psutil.Popen, kill: Kill, out: Path, choose: random.Random
) -> psutil.Process | None:
    """A living process of the kind, at the step: it is looked up before, since steps are faster
    than a look at all processes.

    None when the training is over: workers whose head was killed go on until their driver notices,
    up to the last step.
    """
    while True:
        wait_until(
            lambda: victim(process, kill.target, choose) or process.poll() == 0,
            f"a {kill.target}",
            seconds=600,
        )
        if process.poll() == 0:
            return None
        chosen = victim(process, kill.target, choose)
        if chosen:
            wait_until(
                lambda chosen=chosen: begun(out) >= kill.step or gone(process, chosen),
                f"step {kill.step}",
                seconds=600,
            )
            if not gone(process, chosen):
                return chosen


def gone(*processes: psutil.Process) -> bool:
    return any(
        not one.is_running() or isinstance(one, psutil.Popen) and one.poll() is not None
        for one in processes
    )


def storm(case: Config, number: int, log: Path) -> list[str]:
    """One training with its kills, started again whenever its command died; returns what
    happened.
    """
    out, choose, story = Path(case.work) / f"storm-{number}", random.Random(number), []
    arguments = command(case, out.name, *KEYS)
    process = launch(arguments, log, **IMPATIENT)
    try:
        for kill in planned(number):
            chosen = await_victim(process, kill, out, choose)
            if chosen is None:
                assert any("head" in what for what in story)
                story.append(f"no {kill.target} was left to kill")
                continue
            what = f"{kill.target} ({Path(title(chosen).split(' ')[0]).name}, pid {chosen.pid})"
            at, saved = begun(out), newest(out)
            chosen.kill()
            story.append(f"{what} in step {at}, step {saved} saved")
            if kill.target in ("driver", "head"):
                process.wait(300)
                story[-1] += f": exit status {process.returncode}"
                process = launch(arguments, log, **IMPATIENT)
        ended(process, 0, log, 900)
        return story
    finally:
        end(process)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Config:
    return make_case(tmp_path_factory.mktemp("chaos"))


@pytest.fixture(scope="module")
def calm(case, tmp_path_factory) -> Path:
    """The undisturbed training's folder."""
    log = tmp_path_factory.mktemp("calm") / "log"
    ended(launch(command(case, "calm", *KEYS), log), 0, log, 900)
    return Path(case.work) / "calm"


def all_ids(case: Config) -> list[str]:
    index = load_index(Path(case.shards))
    return sorted(
        image_id
        for shard in index.split("train")
        for image_id in ShardReader(index.folder, shard).ids
    )


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(TRAININGS))
def test_a_training_with_random_kills_ends_as_if_nothing_had_happened(case, calm, number, tmp_path):
    began = time.monotonic()
    story = storm(case, number, tmp_path / "log")
    out = calm.with_name(f"storm-{number}")
    print(f"\ntraining {number}: {'; '.join(story)}; {time.monotonic() - began:.0f} s")
    samples, undisturbed = read_samples(out / SAMPLES), read_samples(calm / SAMPLES)
    assert list(samples) == list(range(1, STEPS + 1))
    for epoch in range(EPOCHS):
        steps = range(epoch * STEPS_PER_EPOCH + 1, (epoch + 1) * STEPS_PER_EPOCH + 1)
        assert sorted(sample for step in steps for sample in samples[step]) == all_ids(case)
    assert samples == undisturbed
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (out, calm)]
    assert weights[0] == weights[1]


def test_the_kills_are_spread_over_all_targets():
    targets = Counter(kill.target for number in range(20) for kill in planned(number))
    assert set(targets) == set(TARGETS) and min(targets.values()) >= 5
    assert all(1 < kill.step < STEPS - 30 for number in range(20) for kill in planned(number))
