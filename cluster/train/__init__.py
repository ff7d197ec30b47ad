"""`c2srt train`: DeepSpeed ranks as workers of Ray Train; failures start them again (attempts.py).

    c2srt train data=miniature workers=2
    ray job submit --working-dir . -- python -m c2srt.cluster.train data=openimages \\
        work=/shared/c2srt workers=8 resources.gpus_per_worker=1

Exit status: 0 finished, 75 stopped by SIGTERM or SIGUSR1 after saving (run the same command to go
on), 130 by Ctrl-C likewise (a second one ends at once), 2 bad input, a full disk, too few nodes or
too many failures in a row (the sentence on stderr says which).
"""

import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from c2srt import progress
from c2srt.cluster.address import check_address
from c2srt.cluster.failures import FAILURES, say
from c2srt.cluster.paths import check_lasting
from c2srt.cluster.rank import LOG, RAY_FOLDER
from c2srt.files import remove_leftovers
from c2srt.hints import Command
from c2srt.interrupts import INTERRUPTED, SAVED, patiently
from c2srt.lazily import uncollected
from c2srt.lock import LOCK, only_command
from c2srt.opened import read_json
from c2srt.scratch import origin
from c2srt.storage import mirror
from c2srt.tracking.sqlite import path_of
from c2srt.train.config import FINISHED, STOP_FILE, SUMMARY, Config
from c2srt.train.finished import Look, known_finished, send_rest
from c2srt.train.prepare import already_finished, check_before_start, check_exports

log = logging.getLogger(__name__)


def run(config: Config) -> int:
    """Checks the inputs, trains, and says where the model lies. Raises UserError on bad input."""
    check_lasting(config.out)
    check_address()
    config = absolute(config)
    finished, steps = find_steps(config)
    if finished:
        log.info(f"{config.folder / 'model'} is finished ({steps:,} steps); nothing to do")
        send_rest(config, steps)
        return 0
    check_exports(config)
    if origin(config.work) and (store := path_of(config.tracking.store(config.work, os.environ))):
        log.info(
            f"MLflow's database is {store}, on this machine: tracking.uri=… keeps it elsewhere"
        )
    told: list[int] = []
    with workers_follow(config, told) as lock:
        from c2srt.cluster.attempts import run_attempts  # Ray

        try:
            step = run_attempts(config, lock)
        finally:
            mirror.send_changed(config.folder / LOG, config.folder / FAILURES)
    summary = (
        read_json(path, Command("train")) if (path := config.folder / SUMMARY).exists() else {}
    )
    if summary.get("state") != FINISHED:
        log.info(f"stopped after step {step:,} of {steps:,}, saved; run the same command to go on")
        return INTERRUPTED if signal.SIGINT in told else SAVED
    shutil.rmtree(config.folder / RAY_FOLDER, ignore_errors=True)
    log.info(
        f"finished: {config.folder / 'model'} ({summary['images_per_s']:,.1f} images/s, peak memory"
        f" of the workers {', '.join(f'{mib:,.0f}' for mib in summary['peak_rss_mib'])} MiB)"
    )
    return 0


def find_steps(config: Config) -> tuple[bool, int]:
    """Whether the training is finished, and its steps. Raises UserError on bad input."""
    if (known := known_finished(config)) is not None:
        return True, known
    look = Look(config)
    steps = check_before_start(config)
    if not already_finished(config, steps):
        return False, steps
    from c2srt.backbone.clip import files_of  # torch

    look.remember(steps, files_of(config.clip))
    return True, steps


def absolute(config: Config) -> Config:
    """The config with absolute folders: Ray's workers have another working directory."""
    names = [*config.folders_read, "work", "out"]
    folders: dict[str, Any] = {name: str(Path(getattr(config, name)).absolute()) for name in names}
    return replace(config, clip=config.clip.absolute(), **folders)


@contextmanager
def workers_follow(config: Config, told: list[int]) -> Iterator[IO]:
    """Meanwhile the folder is this command's (its lock is given), Ray is joined, what workers log
    is shown and signals are passed on to them, and added to `told`. Raises UserError when another
    command has the folder, or there is no Ray.
    """
    with uncollected():
        from c2srt.cluster.session import join

    with only_command(config.folder / LOCK) as lock:
        clear(config.folder)
        remove_leftovers(config.folder)
        join(
            config.workers * config.resources.cpus_per_worker
        )  # before the signals: Ray takes SIGTERM for itself when it starts
        with signals_to(config.folder / STOP_FILE, told), followed(config.folder / LOG):
            say(config, f"inputs are checked and Ray is joined; starting {config.workers} workers")
            try:
                yield lock
            finally:  # the wish was this call's
                mirror.remove(config.folder / STOP_FILE)


def clear(folder: Path) -> None:
    """Removes what an earlier call left for its own workers, and its summary."""
    if (folder / STOP_FILE).exists():
        log.info(
            f"{folder / STOP_FILE} is removed: it was there before this call, which trains on (a"
            " stop file counts for a training that runs)"
        )
    for name in (STOP_FILE, SUMMARY):
        mirror.remove(folder / name)
    shutil.rmtree(folder / RAY_FOLDER, ignore_errors=True)


@contextmanager
def followed(path: Path) -> Iterator[None]:
    """Logs what rank 0 appends to its log meanwhile: plain lines, where Ray would put a prefix
    before each.
    """
    start, done = path.stat().st_size if path.exists() else 0, threading.Event()

    def follow() -> None:
        place = start
        while True:
            last = done.wait(0.3)
            if path.exists():
                with path.open("rb") as file:
                    file.seek(place)
                    text = file.read()
                *lines, begun = text.split(b"\n")
                place += len(text) - len(begun)
                for line in lines + [begun] * (last and begun != b""):
                    progress.log.info(line.decode(errors="replace"))
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def signals_to(stop_file: Path, told: list[int]) -> Iterator[None]:
    """SIGTERM, SIGUSR1 (Slurm's warning) and Ctrl-C become a file that rank 0 looks for every two
    seconds, and are added to `told`.
    """

    def stop(number: int, frame: object) -> None:
        if number not in told:
            log.warning(
                f"{signal.Signals(number).name}: the workers finish their step and save"
                f"{'; once more ends at once' if number == signal.SIGINT else ''}"
            )
        told.append(number)
        stop_file.touch()

    with patiently():
        before = {
            number: signal.signal(number, stop)
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
