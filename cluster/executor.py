"""The executor of a command: a Ray cluster if RAY_ADDRESS names one, else this machine without Ray.

Ray is imported only where it is meant: a dozen images are sharded sooner than it starts.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from c2srt.cluster.address import given_address
from c2srt.executor import Executor, open_local


@contextmanager
def open_executor(
    workers: int, tasks: int, images: int, gpus: float | None = 0
) -> Iterator[Executor]:
    """As `c2srt.executor.Opens`. Raises UserError if the cluster cannot be joined, or has no room
    for the workers.
    """
    if given_address() is None:
        with open_local(workers, tasks, images, gpus) as executor:
            yield executor
    else:
        from c2srt.cluster.session import RayExecutor

        yield RayExecutor(workers, gpus)
