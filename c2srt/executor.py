"""Where the tasks of a job run: in this process, in processes of this machine, or on a cluster.

A job is given a function that opens an executor (`Opens`) and knows no more: `open_local` here,
cluster/executor.py where a Ray cluster may be meant. One suite runs against all of them:
tests/test_executor.py.

A new executor needs: a class with `map` and `share`, a branch in cluster/executor.py, and its name
in that suite.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

from c2srt.errors import LoaderFailed
from c2srt.processes import RETRIES, Processes, gpus_of

T = TypeVar("T")
R = TypeVar("R")
FEW_IMAGES = 64
"""That one process reads, encodes or scores sooner than others have loaded what they need for it
(torch and a CLIP: 6 CPU seconds each).
"""


class Executor(Protocol):
    """Runs a job's tasks."""

    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        name: Callable[[T], str] | None = None,
        on_gpu: bool = False,
    ) -> Iterator[tuple[T, R]]:
        """Yields (item, function(item)) as tasks finish, in any order; memory does not grow with
        the number of items.

        Function, items and results may have to be pickled. A task whose process dies, or whose
        loader fails, runs again up to RETRIES times, then UserError is raised; anything else that
        the function raises ends the job, a UserError as it is: no item is ever dropped in silence.

        `name` is what a cluster's dashboard calls a task; tasks that are `on_gpu` have their
        worker's share of the GPUs.
        """
        ...

    def share(self, value: T) -> Callable[[], T]:
        """What returns `value` in a task, and costs little to send with each: for a function made
        with `functools.partial`.
        """
        ...


class Opens(Protocol):
    """Opens an executor of `workers` for `tasks` tasks over `images` images in all."""

    def __call__(
        self, workers: int, tasks: int, images: int, gpus: float | None = 0
    ) -> AbstractContextManager[Executor]:
        """`gpus` is each worker's share of them, None an even one of those that there are, at most
        one. Raises UserError where there is no room for so many workers.
        """
        ...


@contextmanager
def open_local(workers: int, tasks: int, images: int, gpus: float | None = 0) -> Iterator[Executor]:
    """On this machine: in this process if that is soonest, else in processes of their own. Raises
    UserError if it has not the GPUs that are asked for.
    """
    if min(workers, tasks) <= 1 or images <= FEW_IMAGES:
        gpus_of(workers, gpus)
        yield Here()
    else:
        with Processes(min(workers, tasks), gpus) as processes:
            yield processes


class Here:
    """Tasks run in this process, one after the other."""

    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        name: Callable[[T], str] | None = None,
        on_gpu: bool = False,
    ) -> Iterator[tuple[T, R]]:
        """As `Executor.map`; a death of its process is that of the command."""
        for item in items:
            yield item, with_retries(function, item)

    def share(self, value: T) -> Callable[[], T]:
        return lambda: value


def with_retries(function: Callable[[T], R], item: T) -> R:
    """The function's result, run again where its loader failed."""
    for _ in range(RETRIES):
        try:
            with one_core():
                return function(item)
        except LoaderFailed:
            pass
    with one_core():
        return function(item)


@contextmanager
def one_core() -> Iterator[None]:
    """torch, where it is loaded, computes on one core, as in a worker's process: its sums are the
    same bits wherever a task runs. What the task sets of it is undone.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
