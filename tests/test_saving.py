"""Checkpoints are written beside the training: in which order, at most one behind, and what becomes
of a training whose writer fails, or which fails while one is written.
"""

import logging
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from c2srt.errors import UserError
from c2srt.train import checkpoints
from c2srt.train.checkpoints import Record, Snapshot
from c2srt.train.config import Config
from tests.ranks import run_ranks
from tests.train_case import make_case, told, train_rank

STEPS, EVERY, PATIENCE_S = 8, 3, 120
RECORD = Record(3, 1, {}, {})


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Config:
    """8 steps, checkpoints after 3, 6 and 8."""
    return replace(make_case(tmp_path_factory.mktemp("saving")), workers=1)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


class Story(logging.Handler):
    """What happens in a training, in order; the writer of a checkpoint begins to write once
    `awaited[step]` has happened.
    """

    def __init__(self, awaited: dict[int, str]) -> None:
        super().__init__()
        self.awaited, self.told, self.steps = awaited, [], 0
        self.news = threading.Condition()

    def tell(self, what: str) -> None:
        with self.news:
            self.told.append(what)
            self.news.notify_all()

    def emit(self, record: logging.LogRecord) -> None:
        if "waits for the checkpoint" in record.getMessage():
            self.tell("waits")

    def follow(self, fails_in: int = 0) -> None:
        """Listens to this process's training; step `fails_in` raises."""
        from c2srt.train.engine import Engine

        step, take, write = Engine.train_step, checkpoints.snapshot, checkpoints.write

        def stepped(*given):
            self.steps += 1
            if self.steps == fails_in:
                self.tell("fails")
                raise ArithmeticError("a step failed")
            update = step(*given)
            self.tell(f"step {self.steps}")
            return update

        def taken(engine, record):
            self.tell(f"take {record.step}")
            return take(engine, record)

        def written(root, snapshot):
            number = snapshot.record.step
            with self.news:
                event = self.awaited.get(number)
                seen = self.news.wait_for(lambda: not event or event in self.told, PATIENCE_S)
            self.tell(f"writes {number}" if seen else f"{event} never came")
            folder = write(root, snapshot)
            self.tell(f"wrote {number}")
            return folder

        Engine.train_step, checkpoints.snapshot, checkpoints.write = stepped, taken, written
        logging.getLogger("c2srt.train.saving").addHandler(self)


def train_and_listen(rank: int, config: Config, awaited: dict[int, str], fails_in: int) -> tuple:
    """The story, and the error that ended it."""
    story, error = Story(awaited), None
    story.follow(fails_in)
    try:
        train_rank(rank, config)
    except (UserError, ArithmeticError) as raised:
        error = raised
    return story.told, error


def told_by(case: Config, out: Path, awaited: dict[int, str], fails_in: int = 0) -> tuple:
    (found,) = run_ranks(1, train_and_listen, replace(case, out=str(out)), awaited, fails_in)
    return found


def kept(out: Path) -> list[int]:
    return [int(folder.name[-8:]) for folder in checkpoints.complete(out / "checkpoints")]


def test_steps_go_on_while_a_checkpoint_is_written_and_the_next_one_waits_for_it(case, tmp_path):
    """That of step 3 is not begun before step 5 is done, that of step 6 not before the training has
    said that it waits.
    """
    story, error = told_by(case, tmp_path / "out", {3: "step 5", 6: "waits"})
    assert error is None and kept(tmp_path / "out") == [6, 8]
    place = {what: number for number, what in enumerate(story)}
    order = ["take 3", "step 4", "step 5", "writes 3", "wrote 3", "take 6", "writes 6", "wrote 6"]
    order += ["take 8", "writes 8", "wrote 8"]
    assert [place[what] for what in order] == sorted(place[what] for what in order), story
    assert story.count("waits") == 1 and place["waits"] < place["writes 6"]


def test_what_is_written_is_the_state_after_its_step_however_late_it_is_written(case, tmp_path):
    late, soon = tmp_path / "late", tmp_path / "soon"
    keeping = replace(case, checkpoints=replace(case.checkpoints, keep=9))
    told_by(keeping, late, {3: "step 5"})
    told_by(keeping, soon, {})
    for name in (checkpoints.WEIGHTS, checkpoints.OPTIMIZER):
        files = [
            checkpoints.folder_of(out / "checkpoints", 3).joinpath(name) for out in (late, soon)
        ]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_training_that_fails_leaves_the_checkpoint_that_was_being_written(case, tmp_path):
    story, error = told_by(case, tmp_path / "out", {3: "fails"}, fails_in=5)
    assert isinstance(error, ArithmeticError) and story[-1] == "wrote 3"
    assert kept(tmp_path / "out") == [3]
    assert checkpoints.newest(tmp_path / "out" / "checkpoints").name == "step-00000003"


def fill_and_train(rank: int, config: Config) -> tuple:
    """The disk is full from step 5 on."""
    from c2srt.train.engine import Engine

    step, done = Engine.train_step, []

    def stepped(*given):
        done.append(1)
        if len(done) == 5:
            with suppress(OSError), (config.folder / "ballast").open("wb", buffering=0) as file:
                while file.write(bytes(1 << 12)):
                    pass
        return step(*given)

    Engine.train_step = stepped
    try:
        train_rank(rank, config)
    except UserError as error:
        return len(done), str(error)
    return len(done), "finished"


def test_a_disk_that_fills_up_ends_the_training_with_a_sentence_and_leaves_the_checkpoint_before(
    case, small_disk
):
    out = small_disk / "out"
    quiet = told(case, steps=12, log_every=0)
    ((steps, said),) = run_ranks(1, fill_and_train, replace(quiet, out=str(out)))
    assert said.startswith(f"the disk is full while writing {out}/checkpoints/step-00000006"), said
    assert 6 <= steps <= 9 and kept(out) == [3]  # the checkpoint of step 9 waits for that of 6


def test_a_full_disk_is_one_sentence_and_leaves_no_checkpoint(small_disk):
    taken = Snapshot(RECORD, {"weight": torch.ones(2)}, {"exp_avg.weight": torch.ones(1 << 23)})
    with pytest.raises(UserError, match=r"the disk is full while writing .*step-00000003"):
        checkpoints.write(small_disk, taken)
    assert checkpoints.newest(small_disk) is None
    checkpoints.clean(small_disk)
    assert not list(small_disk.iterdir())
