"""Ray, as much of it as the jobs need: connect (or start), check resources, run tasks with nothing dropped."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "1")

import ray

from c2srt.errors import UserError

START_ATTEMPTS = 3
# It warns at every start that it makes a token for this cluster, which is what we want.
logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)


def connect(workers: int, cpus_per_worker: float = 1, gpus_per_worker: float = 0, spare_cpus: float = 0) -> None:
    """Joins the cluster at RAY_ADDRESS, or starts a local one wide enough for `workers`; does nothing if joined already.

    Raises UserError at once when the cluster cannot hold the workers: Ray itself would wait in silence for ever.
    """
    cpus = workers * cpus_per_worker + spare_cpus
    if not ray.is_initialized():
        start(cpus)
    have = ray.cluster_resources()
    for name, need in (("CPU", cpus), ("GPU", workers * gpus_per_worker)):
        if need > have.get(name, 0):
            raise UserError(f"the job needs {need:g} {name}s ({workers} workers) and the Ray cluster has {have.get(name, 0):g}: "
                            "lower workers=…, or add nodes")


def start(cpus: float) -> None:
    """Joins RAY_ADDRESS if it is set, else starts a local Ray without its dashboard.

    A local Ray gives itself 30 s to start, whatever the machine is busy with, so a start that timed out is tried again.
    """
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True)
        return
    wide = max(os.cpu_count() or 1, int(-(-cpus // 1)))
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(address="local", num_cpus=wide, include_dashboard=False, log_to_driver=True, logging_level="warning")
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS:
                raise
            ray.shutdown()


def run_tasks(function: Callable[[Any], Any], items: Iterable[Any], workers: int, gpus_per_worker: float = 0,
              retries: int = 3) -> Iterator[tuple[Any, Any]]:
    """Yields (item, result) as tasks finish, at most `workers` at a time, so memory is flat in the number of items.

    A task whose worker process dies is retried `retries` times by Ray; an exception raised by `function` ends the run
    (UserError as it is, anything else as ray.exceptions.RayTaskError), once: no item is ever dropped in silence.
    """
    remote = ray.remote(num_cpus=1, num_gpus=gpus_per_worker, max_retries=retries)(function)
    running: dict[Any, Any] = {}
    for item in items:
        if len(running) >= workers:
            yield finished(running)
        running[remote.remote(item)] = item
    while running:
        yield finished(running)


def finished(running: dict[Any, Any]) -> tuple[Any, Any]:
    """Waits for one task, removes it from `running` and returns its (item, result)."""
    done, _ = ray.wait(list(running), num_returns=1)
    item = running.pop(done[0])
    try:
        return item, ray.get(done[0])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
