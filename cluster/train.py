"""`c2srt train`: DeepSpeed ranks as the workers of Ray Train's TorchTrainer; a dead worker restarts the group.

    c2srt train data=miniature workers=2
    ray job submit -- python -m cluster.train data=openimages workers=8 gpus_per_worker=1 precision=bf16

Exit status: 0 finished, 75 stopped by SIGTERM or SIGUSR1 after saving (run the same command to go on), 2 bad input.
"""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from c2srt.errors import UserError
from c2srt.files import raise_if_storage, read_json
from c2srt.train.config import Config
from c2srt.train.prepare import already_finished, check_before_start
from c2srt.train.report import send_rest
from cluster.rank import LOG, REFUSED, train_worker

SAVED_PLEASE_REQUEUE = 75
RAY_FOLDER, STOP_FILE = "ray", "stop"
# Ray Train's own habits, as environment variables that it reads: no extra processes that watch for what the signals
# below already tell, no metrics nobody scrapes, and minutes instead of 60 s for workers to start on a busy machine.
RAY_TRAIN = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
             "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600", "RAY_CHDIR_TO_TRIAL_DIR": "0"}


def run(config: Config) -> int:
    """Checks the inputs, trains, and says where the model lies. Raises UserError on bad input."""
    config = absolute(config)
    steps = check_before_start(config)
    if already_finished(config, steps):
        print(f"{config.folder / 'model'} is finished ({steps:,} steps); nothing to do")
        send_rest(config, steps)
        return 0
    clear(config.folder)
    fit(config)
    if (config.folder / REFUSED).exists():
        raise UserError(read_json(config.folder / REFUSED, "c2srt train")["reason"])
    summary = read_json(config.folder / "train.json", "c2srt train")
    if summary["state"] != "finished":
        print(f"stopped after step {summary['step']:,} of {steps:,}, saved; run the same command to go on")
        return SAVED_PLEASE_REQUEUE
    shutil.rmtree(config.folder / RAY_FOLDER, ignore_errors=True)
    print(f"finished: {config.folder / 'model'} ({summary['images_per_s']:,.1f} images/s, peak memory of the workers "
          f"{', '.join(f'{mib:,.0f}' for mib in summary['peak_rss_mib'])} MiB)")
    return 0


def absolute(config: Config) -> Config:
    """The config with absolute folders: Ray's workers have another working directory."""
    names = ["shards", "text", "relations", "work", "out"] + (["teacher"] if config.uses_teacher else [])
    folders = {name: str(Path(getattr(config, name)).absolute()) for name in names}
    clip = replace(config.clip, **{name: str(Path(value).absolute()) for name in ("name", "pretrained")
                                   if os.path.isfile(value := getattr(config.clip, name))})
    return replace(config, clip=clip, **folders)


def clear(folder: Path) -> None:
    """Removes what an earlier call left for its own workers. Raises UserError if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (REFUSED, STOP_FILE):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise_if_storage(error, folder / STOP_FILE)
        raise
    shutil.rmtree(folder / RAY_FOLDER, ignore_errors=True)


def fit(config: Config) -> None:
    """Runs the workers to their end under Ray. Raises UserError when they keep failing."""
    for name, value in RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    from ray.train.v2.api.exceptions import TrainingFailedError

    from cluster.session import connect

    connect(config.workers, 1, config.gpus_per_worker)
    with signals_to(config.folder / STOP_FILE), followed(config.folder / LOG):
        try:
            make_trainer(config).fit()
        except TrainingFailedError as error:
            if not (config.folder / REFUSED).exists():
                raise UserError(f"the workers failed more than max_failures={config.max_failures} times; the last reason: "
                                f"{last_line(str(error))}. Run the same command to go on from the last checkpoint") from error


def make_trainer(config: Config):
    """The TorchTrainer: one worker a rank, started again as a group up to `max_failures` times."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    class Trainer(TorchTrainer):
        """Without the process that watches the controller through Ray's dashboard: there is none, and it says so every second."""

        def _create_default_callbacks(self) -> list:
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if "PlacementGroupCleaner" not in type(callback).__name__]

    resources = {"CPU": 1} | ({"GPU": config.gpus_per_worker} if config.gpus_per_worker else {})
    return Trainer(
        train_worker, train_loop_config=config.settings(),
        scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=config.gpus_per_worker > 0,
                                     resources_per_worker=resources),
        run_config=RunConfig(name="run", storage_path=str(config.folder / RAY_FOLDER), logging_config=LoggingConfig("ERROR"),
                             failure_config=FailureConfig(max_failures=config.max_failures)))


@contextmanager
def followed(log: Path) -> Iterator[None]:
    """Prints what rank 0 appends to its log meanwhile: plain lines, where Ray would put a prefix before each."""
    start, done = log.stat().st_size if log.exists() else 0, threading.Event()

    def follow() -> None:
        place = start
        while True:
            last = done.wait(0.3)
            if log.exists():
                with log.open("rb") as file:
                    file.seek(place)
                    text = file.read()
                place += len(text)
                sys.stderr.write(text.decode(errors="replace"))
                sys.stderr.flush()
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["unknown"])[-1]


@contextmanager
def signals_to(stop_file: Path) -> Iterator[None]:
    """SIGTERM and SIGUSR1 (Slurm's warning) become a file that the workers look for after every step."""
    def stop(number: int, frame: object) -> None:
        print(f"{signal.Signals(number).name}: the workers finish their step and save", file=sys.stderr, flush=True)
        stop_file.touch()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    from c2srt.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
