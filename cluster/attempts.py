"""The attempts of one training under Ray Train: after a failure the next one goes on from the
newest whole checkpoint.

Failures count while no newer checkpoint is written: `faults.max_failures` in a row without
progress, any number over the days of a run. Each is a line in `<out>/failures.jsonl`: time, cause,
the step gone on from, the workers that there were.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from ray.exceptions import RayActorError, RayError
from ray.train import ControllerError, Result, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig

from c2srt.cluster.address import given_address
from c2srt.cluster.lock import wait_for_earlier_ranks
from c2srt.cluster.rank import LOG, RAY_FOLDER, train_worker
from c2srt.cluster.ray_private import train_timeouts, unannounced
from c2srt.cluster.session import give_back_places, living_nodes, room_for
from c2srt.errors import AGAIN, LoaderFailed, UserError
from c2srt.hints import as_here
from c2srt.storage import mirror
from c2srt.train import checkpoints
from c2srt.train.config import STOP_FILE, Config

if TYPE_CHECKING:  # ray.train chooses between its two versions as it is imported
    from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer
else:
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

log = logging.getLogger(__name__)
NO_PLACE, NO_SIGN = train_timeouts()
FAILURES = "failures.jsonl"
SHOWN_RANKS, SHOWN_CHARACTERS = 3, 300
PLACE_S = 60
"""For workers to be placed, on nodes that have room for them: other jobs may use it, or a node has
just gone and Ray not noticed.
"""
LEFT_OUT = ("PlacementGroupCleanerCallback", "DatasetsCallback")
# Ray Train's own habits, as environment variables that it reads: no extra processes that watch for
# what the signals already tell, no metrics nobody scrapes.
RAY_TRAIN = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended, and where the next one goes on."""

    time: str
    cause: str
    step: int
    workers: int


def run_attempts(config: Config, lock: IO, work: Callable[[dict], None] = train_worker) -> int:
    """Runs attempts until one ends by itself, or fails after it was told to stop; returns the
    newest checkpoint's step.

    `lock` is the folder's, from cluster/lock.py; `work` is what each rank does. Raises UserError
    for bad input, when the cluster lacks room for the workers, and after too many failures in a
    row.
    """
    in_a_row, before = 0, newest_step(config)
    while True:
        workers = wait_for_room(config)
        if not workers:
            return before
        give_back_places()
        if not wait_for_earlier_ranks(lock, stop=lambda: told_to_stop(config)):
            return before
        cause = attempt(config, workers, work)
        if cause is None:
            return newest_step(config)
        step = newest_step(config)
        in_a_row = in_a_row + 1 if step == before else 1
        before = step
        note(config, Failure(time.strftime("%Y-%m-%d %H:%M:%S"), cause, step, workers), in_a_row)
        if told_to_stop(config):
            return step
        if in_a_row > config.faults.max_failures:
            raise UserError(
                f"the workers failed {in_a_row} times in a row without a newer checkpoint than step"
                f" {step:,} (faults.max_failures={config.faults.max_failures}); the last cause:"
                f" {cause}. Run the same command to go on"
            )


def attempt(config: Config, workers: int, work: Callable[[dict], None]) -> str | None:
    """Starts the workers, one a rank, and waits for their end; returns the cause of a failure.
    Raises UserError if a worker did.
    """
    told = {"config": config, "tags": failure_tags(config)}
    os.environ.update(variables(config))
    trainer = Trainer(
        as_here(work),
        train_loop_config=told,
        torch_config=TorchConfig(timeout_s=cast(int, config.faults.collective_timeout)),
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


def wait_for_room(config: Config) -> int:
    """How many workers to start: all, as soon as the cluster's nodes have room for them;
    `min_workers` or more after `start_timeout` seconds (a local Ray does not grow, nor one that has
    all nodes of its Slurm job); 0 when told to stop meanwhile.

    Raises UserError if there is room for less.
    """
    least, share = config.faults.min_workers or config.workers, config.resources
    begun = told = time.monotonic()
    whole = living_nodes() >= int(os.environ.get("C2SRT_NODES") or 2**31)
    seconds = config.faults.start_timeout if (shared := given_address()) and not whole else 0
    while (room := room_for(share.cpus_per_worker, share.gpus_per_worker)) < config.workers:
        waited = time.monotonic() - begun
        if told_to_stop(config):
            return 0
        if waited >= seconds:
            break
        if waited < 1 or time.monotonic() > told + 30:
            told = time.monotonic()
            say(
                config,
                f"Ray has room for {room} of {config.workers} workers; waiting up to"
                f" {seconds - waited:.0f} s",
            )
        time.sleep(1)
    if not room and not shared:
        raise UserError(
            "the local Ray died (killed, or out of memory): run the same command to go on from the"
            " last checkpoint"
        )
    if room < least:
        raise UserError(
            f"the nodes of the Ray cluster have room for {room} workers of"
            f" {share.cpus_per_worker:g} CPUs and {share.gpus_per_worker:g} GPUs, and {least} are"
            f" needed (waited {seconds:g} s): lower workers=… or faults.min_workers=…, or add"
            " nodes, and run the same command"
        )
    return min(room, config.workers)


def told_to_stop(config: Config) -> bool:
    return (config.folder / STOP_FILE).exists()


# --- causes


def cause_in_ranks(failures: dict[int, Exception]) -> str:
    """One line: the ranks that failed and why. Those whose process or loader is gone or silent come
    first: others fail because of them.
    """
    order = sorted(failures, key=lambda rank: (not is_root(failures[rank]), rank))
    reasons = [f"rank {rank}: {reason(failures[rank])}" for rank in order[:SHOWN_RANKS]]
    more = len(order) - len(reasons)
    return "; ".join(reasons) + (f"; and {more} more" if more > 0 else "")


def is_root(error: Exception) -> bool:
    return dead_actor(error) is not None or silent(error) or isinstance(error, LoaderFailed)


def reason(error: Exception) -> str:
    """What happened to one rank."""
    if silent(error):
        return "it did not answer within faults.collective_timeout: stopped, or cut off"
    if isinstance(error, LoaderFailed):
        return shortened(str(error).removesuffix(AGAIN))
    actor = dead_actor(error)
    return (
        death(str(actor))
        if actor
        else shortened(f"{type(error).__name__}: {last_line(str(error))}")
    )


def death(text: str) -> str:
    """Why an actor is dead, from Ray's message."""
    if "unavailable" in text:
        return "its process or node cannot be reached"
    if "worker process has died" not in text and "node" in text:
        return shortened(f"its node is gone ({last_line(text)})")
    detail = (text.partition("Worker exit detail: ")[2] or last_line(text)).partition(
        " Some common causes"
    )[0]
    outside = (
        "killed from outside, out of memory, or crashed" if "End of file" in detail else detail
    )
    return shortened(f"its process died ({outside})")


def silent(error: Exception) -> bool:
    """Whether Ray Train gave up waiting for a rank's sign of life."""
    return isinstance(error, NO_SIGN)


def dead_actor(error: Exception) -> RayActorError | None:
    """Ray's report of a worker that no longer exists, if the error is one."""
    inner = getattr(error, "health_check_failure", error)
    return inner if isinstance(inner, RayActorError) else None


def cause_outside(error: Exception) -> str:
    """What happened to Ray Train itself."""
    inner = error.controller_failure if isinstance(error, ControllerError) else error
    if isinstance(inner, NO_PLACE):
        return (
            f"Ray had no place for the workers within {PLACE_S} s: other jobs hold it, or a node is"
            " gone"
        )
    if isinstance(inner, RayActorError):
        return f"Ray Train's controller: {death(str(inner))}"
    return shortened(f"{type(inner).__name__}: {last_line(str(inner))}")


def last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["unknown"])[-1]


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"


# --- the record


def newest_step(config: Config) -> int:
    """The step of the newest whole checkpoint; 0 without one."""
    mirror.pull(config.folder)  # the ranks may be on other nodes
    found = checkpoints.complete(config.folder / "checkpoints")
    return int(found[-1].name.removeprefix("step-")) if found else 0


def note(config: Config, failure: Failure, in_a_row: int) -> None:
    """Adds a failure to the run's log and record."""
    say(
        config,
        f"attempt failed ({in_a_row} in a row without progress): {failure.cause}; going on from"
        f" step {failure.step:,}",
    )
    append(config.folder / FAILURES, json.dumps(asdict(failure)))


def say(config: Config, text: str) -> None:
    """A line in the run's log, which is shown meanwhile."""
    append(config.folder / LOG, f"{time.strftime('%H:%M:%S')} {text}")


def append(path: Path, line: str) -> None:
    """Adds a line; on a full disk it is shown instead."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError:
        log.info(line)


def failure_tags(config: Config) -> dict[str, str]:
    """For the tracker: how often the training was started again, and why the last time."""
    path = config.folder / FAILURES
    lines = (
        [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        if path.exists()
        else []
    )
    return {"restarts": str(len(lines))} | (
        {"last_failure": json.loads(lines[-1])["cause"]} if lines else {}
    )
