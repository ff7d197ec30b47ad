"""One long training whose ranks are killed over and over, as over weeks on many nodes: it ends by
itself, loses and repeats no sample, and gives the weights of an undisturbed one bit for bit.

`pytest -m long -s tests/test_weeks.py` prints what was killed; C2SRT_WEEKS_STEPS (2,000) and
C2SRT_WEEKS_KILLS (20): how long, and how often. By hand: it takes a quarter of an hour alone on two
cores.
"""

import os
import random
import time
from pathlib import Path

import pytest

from c2srt.train.config import Config
from c2srt.train.sample_log import SAMPLES, read_samples
from tests.test_chaos import STEPS_PER_EPOCH, Kill, all_ids, await_victim, begun
from tests.train_case import make_case
from tests.train_command import command, end, ended, launch, newest

EPOCHS = int(os.environ.get("C2SRT_WEEKS_STEPS", 2000)) // STEPS_PER_EPOCH
KILLS = int(os.environ.get("C2SRT_WEEKS_KILLS", 20))
STEPS = EPOCHS * STEPS_PER_EPOCH
KEYS = (
    f"epochs={EPOCHS}",
    f"checkpoint_every={max(3, STEPS // 80)}",
    "record_samples=true",
    "collective_timeout=60",
    # a kill may come again before the next checkpoint
    f"max_failures={KILLS}",
)


def kills() -> list[Kill]:
    """Of random ranks at random steps; the last leaves some steps to be done after it."""
    steps = random.Random(0).sample(range(2, STEPS - max(3, STEPS // 50)), KILLS)
    return [Kill("worker", step) for step in sorted(steps)]


def storm(case: Config, name: str, log: Path) -> list[str]:
    """One command, never started again; returns what was killed, and when."""
    out, choose, story = Path(case.work) / name, random.Random(1), []
    process = launch(command(case, name, *KEYS), log)
    try:
        for kill in kills():
            chosen = await_victim(process, kill, out, choose)
            assert chosen is not None, f"the training ended before the kill in step {kill.step}"
            at, saved = begun(out), newest(out)
            chosen.kill()
            story.append(f"pid {chosen.pid} in step {at}, step {saved} saved")
        ended(process, 0, log, 3600)
        return story
    finally:
        end(process)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_twenty_kills_in_two_thousand_steps_leave_no_trace_in_samples_and_weights(tmp_path):
    case, began = make_case(tmp_path), time.monotonic()
    ended(
        launch(command(case, "calm", *KEYS), tmp_path / "calm.log"), 0, tmp_path / "calm.log", 3600
    )
    calm, log = Path(case.work) / "calm", tmp_path / "log"
    story = storm(case, "storm", log)
    out = calm.with_name("storm")
    print(f"\n{len(story)} kills: {'; '.join(story)}; {time.monotonic() - began:.0f} s")
    failures = (out / "failures.jsonl").read_text().splitlines()
    assert len(story) == KILLS and 0 < len(failures) <= KILLS
    samples, undisturbed = read_samples(out / SAMPLES), read_samples(calm / SAMPLES)
    assert list(samples) == list(range(1, STEPS + 1)) and samples == undisturbed
    everything = all_ids(case)
    for epoch in range(EPOCHS):
        steps = range(epoch * STEPS_PER_EPOCH + 1, (epoch + 1) * STEPS_PER_EPOCH + 1)
        assert sorted(sample for step in steps for sample in samples[step]) == everything
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (out, calm)]
    assert weights[0] == weights[1]
