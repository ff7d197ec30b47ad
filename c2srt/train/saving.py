"""Checkpoints are taken between two steps and written beside the next ones, at most one behind."""

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from c2srt.storage import mirror
from c2srt.tracking import JOURNAL
from c2srt.train import checkpoints
from c2srt.train.checkpoints import Record, Snapshot
from c2srt.train.config import Config
from c2srt.train.engine import Engine
from c2srt.train.recorder import METRICS
from c2srt.train.sample_log import SAMPLES, file_of
from c2srt.train.standing import at
from c2srt.train.world import World

log = logging.getLogger(__name__)


class Saver:
    """Every rank has one, and calls `save` for the same steps; a thread of rank 0 writes.

    What the writer met (a full disk, a store that is gone) is raised on rank 0 by the next call of
    any method.
    """

    def __init__(self, config: Config, world: World, engine: Engine) -> None:
        self.config, self.world, self.engine = config, world, engine
        self.thread = ThreadPoolExecutor(1, "c2srt-checkpoints") if world.first else None
        self.writing: Future[None] | None = None
        self.said = False

    def save(self, record: Record) -> None:
        """Takes a checkpoint; all ranks call it together. Waits for the one before, if that is
        still being written: rank 0 holds one copy at most.

        In a store, what was written down up to this step lies there before the checkpoint does: the
        samples of each rank are sent before the writer begins, and it sends the rest first.
        """
        at("taking a checkpoint")
        mirror.send_changed(file_of(self.config.folder / SAMPLES, self.world.rank))
        self.wait(record.step)
        snapshot = checkpoints.snapshot(self.engine, record)
        self.world.barrier()
        if self.thread:
            self.writing = self.thread.submit(self.write, snapshot)

    def write(self, snapshot: Snapshot) -> None:
        """On the thread of rank 0."""
        folder, step = self.config.folder / "checkpoints", snapshot.record.step
        mirror.send_changed(*records_of(self.config.folder))
        checkpoints.write(folder, snapshot)
        checkpoints.prune(folder, self.config.checkpoints.keep, step)

    def wait(self, step: int | None = None) -> None:
        """Until nothing is being written; says once in a run that `step` had to wait for it."""
        if self.writing:
            if step and not self.writing.done() and not self.said:
                log.info(
                    f"step {step:,} waits for the checkpoint before it, which is still being"
                    " written: storage is slower than checkpoints.seconds or checkpoints.every asks"
                )
                self.said = True
            self.ended(self.writing)

    def check(self) -> None:
        """Raises what the writer met, without waiting for it."""
        if self.writing and self.writing.done():
            self.ended(self.writing)

    def ended(self, writing: Future[None]) -> None:
        """Waits, and raises what the writer met: once, on whatever way it is found."""
        self.writing = None
        writing.result()


@contextmanager
def saving(config: Config, world: World, engine: Engine) -> Iterator[Saver]:
    """A Saver whose last checkpoint is whole at the end, also when the training fails meanwhile."""
    saver = Saver(config, world, engine)
    try:
        yield saver
    except BaseException:
        try:
            saver.wait()
        except Exception as error:  # never hide the first error behind a second one
            log.warning(f"a checkpoint could not be written: {error}")
        raise
    else:
        saver.wait()
    finally:
        if saver.thread:
            saver.thread.shutdown()


def records_of(folder: Path) -> list[Path]:
    """The files of rank 0 to which lines are added."""
    return [folder / name for name in (METRICS, JOURNAL)]


def send_lines(config: Config, world: World) -> None:
    """Sends what this rank wrote down, where the run's folder is in a store."""
    mirror.send_changed(file_of(config.folder / SAMPLES, world.rank))
    if world.first:
        mirror.send_changed(*records_of(config.folder))
