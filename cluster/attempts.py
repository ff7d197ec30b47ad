"""The attempts of one training under Ray Train: after a failure the next one goes on from the
newest whole checkpoint.

Failures count while no newer checkpoint is written: `faults.max_failures` in a row without
progress, any number over the days of a run. Each is a line in `<out>/failures.jsonl`: time, cause,
the step gone on from, the workers that there were. An attempt that Ray found no place for is none
of them (cluster/room.py).
"""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from ray.exceptions import RayError
from ray.train import ControllerError, Result, TrainingFailedError, WorkerGroupError

from c2srt.cluster.causes import NO_PLACE, cause_in_ranks, cause_outside
from c2srt.cluster.failures import Failure, failure_tags, note, say
from c2srt.cluster.hangs import look_back
from c2srt.cluster.leaving import Groups
from c2srt.cluster.lock import wait_for_earlier_ranks
from c2srt.cluster.rank import RAY_FOLDER, train_worker
from c2srt.cluster.ray_private import unannounced
from c2srt.cluster.room import Room, told_to_stop
from c2srt.cluster.session import give_back_places
from c2srt.code import running_code
from c2srt.errors import LoaderFailed, UserError
from c2srt.hints import as_here
from c2srt.storage import mirror
from c2srt.train import checkpoints
from c2srt.train.config import Config

if TYPE_CHECKING:  # ray.train chooses between its two versions as it is imported
    from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer
else:
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

CODE = running_code()
"""What this command began with, whatever becomes of its files."""
PLACE_S = 60
"""For workers to be placed, on nodes that have free places for them."""
LEFT_OUT = ("PlacementGroupCleanerCallback", "DatasetsCallback")
# Ray Train's own habits, as environment variables that it reads: no extra processes that watch for
# what the signals already tell, no metrics nobody scrapes.
RAY_TRAIN = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run_attempts(config: Config, lock: IO, work: Callable[[dict], None] = train_worker) -> int:
    """Runs attempts until one ends by itself, or fails after it was told to stop; returns the
    newest checkpoint's step.

    `lock` is the folder's, from cluster/lock.py; `work` is what each rank does. Raises UserError
    for bad input, when the cluster lacks room for the workers, and after too many failures in a
    row.
    """
    in_a_row, before, room = 0, newest_step(config), Room(config)
    while True:
        give_back_places()
        workers = room.wait()
        if not workers:
            return before
        if not wait_for_earlier_ranks(lock, stop=lambda: told_to_stop(config)):
            return before
        name = secrets.token_hex(8)
        try:
            cause = attempt(config, name, workers, work)
        except NoPlace:
            say(config, f"Ray found no place for {workers} workers within {PLACE_S} s")
            continue
        room.found()
        step = newest_step(config)
        if cause is None:
            return step
        in_a_row = in_a_row + 1 if step == before else 1
        before, now = step, time.strftime("%Y-%m-%d %H:%M:%S")
        stood = look_back(name, config.folder)
        note(config, Failure(now, cause, step, workers, stood), in_a_row)
        if told_to_stop(config):
            return step
        if in_a_row > config.faults.max_failures:
            raise UserError(
                f"the workers failed {in_a_row} times in a row without a newer checkpoint than step"
                f" {step:,} (faults.max_failures={config.faults.max_failures}); the last cause:"
                f" {cause}. Run the same command to go on"
            )


class NoPlace(Exception):
    """An attempt that did not begin."""


def attempt(config: Config, name: str, workers: int, work: Callable[[dict], None]) -> str | None:
    """Starts the workers, one a rank, and waits for their end; returns the cause of a failure.
    Raises UserError if a worker did, and NoPlace.
    """
    told = {"attempt": name, "config": config, "tags": failure_tags(config), "code": CODE}
    os.environ.update(variables(config))
    trainer = Trainer(
        as_here(work),
        train_loop_config=told,
        torch_config=Groups(timeout_s=cast(int, config.faults.collective_timeout)),
        scaling_config=scaling(config, workers),
        run_config=once(config.folder / RAY_FOLDER),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, UserError) and not isinstance(failure, LoaderFailed):
                raise UserError(str(failure)) from None
        return cause_in_ranks(error.worker_failures)
    except (TrainingFailedError, RayError) as error:
        if isinstance(error, ControllerError) and isinstance(error.controller_failure, NO_PLACE):
            raise NoPlace from None
        return cause_outside(error)
    return None


class Trainer(TorchTrainer):
    """Without the process that watches the controller through Ray's dashboard (there is none, and
    it says so every second), without the one that deals out Ray data sets, and without the one that
    talks to an autoscaler.
    """

    def _create_default_callbacks(self) -> list:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in LEFT_OUT]

    def _initialize_and_run_controller(self, **given: Any) -> Result:
        policy = unannounced(given.pop("scaling_policy"))
        return super()._initialize_and_run_controller(scaling_policy=policy, **given)

    def _register_sigint_handler(self, controller: object) -> None:
        """Ctrl-C is ours: Ray Train would abort without saving, and end with 1."""


def variables(config: Config) -> dict[str, str]:
    """What Ray Train reads from the environment."""
    habits = {name: os.environ.get(name, value) for name, value in RAY_TRAIN.items()}
    return habits | {
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(PLACE_S),
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(config.faults.collective_timeout),
    }


def scaling(config: Config, workers: int) -> ScalingConfig:
    """How many workers, and what Ray reserves for each."""
    gpus = config.resources.gpus_per_worker
    reserved = {"CPU": config.resources.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
    return ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=reserved)


def once(folder: Path) -> RunConfig:
    """One attempt, and none of Ray Train's own retries."""
    return RunConfig(
        name="run",
        storage_path=str(folder),
        logging_config=LoggingConfig("ERROR"),
        failure_config=FailureConfig(0, controller_failure_limit=0, max_preemption_failures=0),
    )


def newest_step(config: Config) -> int:
    """The step of the newest whole checkpoint; 0 without one."""
    mirror.pull(config.folder)  # the ranks may be on other nodes
    found = checkpoints.complete(config.folder / "checkpoints")
    return int(found[-1].name.removeprefix("step-")) if found else 0
