"""Ray, as much of it as the jobs need: connect (or start), check resources, run tasks with nothing
dropped.
"""

import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "1")

import ray
from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from c2srt.cluster.address import check_address, given_address
from c2srt.cluster.patience import START_S, patient
from c2srt.cluster.ray_private import (
    AuthenticationTokenLoader,
    available_resources_per_node,
    ray_constants,
)
from c2srt.errors import LoaderFailed, UserError
from c2srt.hints import as_here
from c2srt.node_folder import compile_on_node
from c2srt.processes import DIED, RETRIES

T = TypeVar("T")
R = TypeVar("R")
START_ATTEMPTS = 6
"""Of a local Ray, in START_S together."""
NOT_YET = ("timed out during startup", "Timed out waiting for file")
LONGEST_TEMPORARY = 43
"""Characters: below it lie session_<time>_<process>/sockets/plasma_store, 64 more, and a socket's
path has at most 107 bytes.
"""
# For a local Ray: none of the workers that it would start on every core before there is a task, and
# time for those it starts.
LOCAL = {"RAY_prestart_worker_first_driver": "0", "RAY_worker_register_timeout_seconds": "300"}
# It warns at every start that it has a token for this cluster, which is what we want.
logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)


def connect(workers: int, cpus_per_worker: float = 1, gpus_per_worker: float = 0) -> None:
    """Joins Ray. Raises UserError at once when its nodes have no room for the workers: Ray would
    wait in silence for ever.
    """
    join(workers * cpus_per_worker)
    if (room := room_for(cpus_per_worker, gpus_per_worker)) < workers:
        raise UserError(
            f"the job needs {workers} workers of {cpus_per_worker:g} CPUs and {gpus_per_worker:g}"
            f" GPUs, and the nodes of the Ray cluster have room for {room}: lower workers=…, or add"
            " nodes"
        )


def join(cpus: float) -> None:
    """Joins the cluster at RAY_ADDRESS, or starts a local one with at least `cpus`; does nothing if
    joined already.
    """
    if ray.is_initialized():
        return
    handler = signal.getsignal(signal.SIGTERM)
    start(cpus)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(
            signal.SIGTERM, handler
        )  # Ray takes it for itself, and would end the command with status 15


def room_for(cpus: float, gpus: float) -> int:
    """How many workers of that size the cluster's living nodes can hold, whoever uses them now."""
    return fitting([node["Resources"] for node in ray.nodes() if node["Alive"]], cpus, gpus)


def free_room_for(cpus: float, gpus: float) -> int:
    """The same for what nobody uses, as Ray knew it a moment ago."""
    return fitting(list(available_resources_per_node().values()), cpus, gpus)


def fitting(nodes: list[dict[str, float]], cpus: float, gpus: float) -> int:
    """How many workers of that size fit on nodes that have those resources."""
    needs = [(name, need) for name, need in (("CPU", cpus), ("GPU", gpus)) if need > 0]
    return sum(min(int(have.get(name, 0) / need + 1e-6) for name, need in needs) for have in nodes)


def on_node(task: Any, node: str, **named: Any) -> Any:
    """A remote function as one of the node with that id alone; it should hold no CPU, since the
    cluster may be busy.
    """
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return task.options(scheduling_strategy=there, **named)


def give_back_places() -> None:
    """Removes this job's placement groups: that of a Ray Train controller which was killed stays,
    and nothing else would fit.
    """
    job = ray.get_runtime_context().get_job_id()
    for number, group in placement_group_table().items():
        if number.endswith(job) and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(number)))


def start(cpus: float) -> None:
    """Joins RAY_ADDRESS if it is set, else starts a local Ray without its dashboard, on loopback.
    Raises UserError if neither works.
    """
    check_address()
    if address := given_address():
        try:
            ray.init(log_to_driver=True)
        except ConnectionError as error:
            raise UserError(
                f"no Ray cluster answers at RAY_ADDRESS={address}: start one, or unset it for a"
                " local Ray"
            ) from error
        except Exception as error:
            raise UserError(
                f"Ray cannot be joined at RAY_ADDRESS={address}: {first_line(error)}"
            ) from error
        return
    # As Ray does on Windows and macOS; elsewhere it takes loopback for a mistake and listens on
    # every interface. Set both ways: for this process, which has read the variable already, and for
    # those that it starts.
    ray_constants.ENABLE_RAY_CLUSTER, os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = False, "0"
    if not os.environ.get("RAY_AUTH_TOKEN") and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(
            32
        )  # in memory only: Ray would write it into the home folder
        AuthenticationTokenLoader.instance().reset_cache()
    for name, value in LOCAL.items():
        os.environ.setdefault(name, value)
    start_local(max(os.cpu_count() or 1, int(-(-cpus // 1))), temporary_folder())


def start_local(cpus: int, folder: Path) -> None:
    """A start that failed for want of time is tried again. Raises UserError if none succeeds."""
    me, deadline = psutil.Process(), time.monotonic() + START_S
    before = set(me.children(recursive=True))
    for attempt in range(1, START_ATTEMPTS + 1):
        left = deadline - time.monotonic()
        try:
            with patient(left):
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=True,
                    logging_level=logging.WARNING,
                    _temp_dir=str(folder),
                )
            return
        except Exception as error:
            if not any(what in str(error) for what in NOT_YET):
                raise UserError(f"Ray does not start here: {first_line(error)}") from error
            if attempt == START_ATTEMPTS or time.monotonic() > deadline:
                raise UserError(
                    f"Ray did not start in {attempt} attempts: is the machine overloaded, or out of"
                    f" memory? Its last words are in {folder}/session_latest/logs/raylet.err"
                ) from error
            ray.shutdown()
            for child in (
                set(me.children(recursive=True)) - before
            ):  # Ray would leave them until this process ends
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def temporary_folder() -> Path:
    """Where a local Ray keeps its sockets and logs: RAY_TMPDIR or TMPDIR if they are short and can
    be written, else /tmp.

    Raises UserError if nothing will do.
    """
    given = [folder for name in ("RAY_TMPDIR", "TMPDIR") if (folder := os.environ.get(name))]
    for folder in [*given, "/tmp"]:
        for name in ("ray", f"ray-{os.getuid()}"):  # the first may be another user's
            path = Path(folder).absolute() / name
            if len(os.fsencode(path)) > LONGEST_TEMPORARY:
                continue
            with suppress(OSError):
                path.mkdir(parents=True, exist_ok=True)
                if os.access(path, os.W_OK | os.X_OK):
                    return path
    raise UserError(
        f"Ray needs a folder for its sockets, with a path of at most {LONGEST_TEMPORARY - 9}"
        f" characters that can be written, and {', '.join([*given, '/tmp'])} will not do: set"
        " RAY_TMPDIR"
    )


def first_line(error: Exception) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )[:300]


class RayExecutor:
    """An executor (c2srt/executor.py) of Ray's tasks, on the cluster that is joined."""

    def __init__(self, workers: int, gpus: float | None) -> None:
        """Joins Ray. Raises UserError if it has no room for the workers."""
        connect(workers, gpus_per_worker=gpus or 0)
        self.workers, self.gpus = workers, even_share(workers) if gpus is None else gpus

    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        name: Callable[[T], str] | None = None,
        on_gpu: bool = False,
    ) -> Iterator[tuple[T, R]]:
        """As `Executor.map`."""
        return run_tasks(function, items, self.workers, self.gpus if on_gpu else 0, name=name)

    def share(self, value: T) -> Callable[[], T]:
        """The value lies in Ray's object store, once a node."""
        return cast(Callable[[], T], partial(ray.get, ray.put(value)))


def even_share(workers: int) -> float:
    """Of the cluster's GPUs, in thousandths, for each worker; at most one."""
    return min(1.0, int(1000 * ray.cluster_resources().get("GPU", 0) / workers) / 1000)


def run_tasks(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    workers: int,
    gpus_per_worker: float = 0,
    retries: int = RETRIES,
    name: Callable[[Any], str] | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yields (item, result) as tasks finish, at most `workers` at a time, so memory is flat in the
    number of items.

    `name` gives a task its name in Ray's dashboard, such as "shard train-000012".

    A task whose worker process dies, or whose loader fails, is retried `retries` times by Ray; any
    other exception raised by `function` ends the run (UserError as it is, anything else as
    ray.exceptions.RayTaskError), once: no item is ever dropped in silence.
    """
    settings: dict[str, Any] = {
        "num_cpus": 1,
        "num_gpus": gpus_per_worker,
        "max_retries": retries,
        "retry_exceptions": [LoaderFailed],
    }
    remote = ray.remote(**settings)(on_a_node(as_here(function)))
    running: dict[Any, Any] = {}
    try:
        for item in items:
            if len(running) >= workers:
                yield finished(running)
            running[(remote.options(name=name(item)) if name else remote).remote(item)] = item
        while running:
            yield finished(running)
    finally:  # of a job that failed, tasks would go on, and keep what they loaded for the next
        for reference in running if ray.is_initialized() else ():
            ray.cancel(reference, force=True)


def on_a_node(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function for a process that Ray started, on whatever node."""

    def within(item: Any) -> Any:
        compile_on_node()
        return function(item)

    return within


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
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise UserError(DIED) from error
