"""Tasks in processes of this machine, each with one core: a killed one costs one task's time.

A process is this interpreter started anew, so that no thread or lock of the command is copied into
it; tasks and answers go through a pipe each. It ends with the command, however that ends: its
standard input is a pipe that only the command holds open. Ctrl-C at a terminal does not reach it:
the command decides what becomes of it.

    python -m c2srt.processes 5 8     what it runs: its ends of the two pipes
"""

import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, TypeVar, cast

from c2srt.children import give_way, python_path
from c2srt.console import show_log, shown_from
from c2srt.errors import LoaderFailed, UserError
from c2srt.hints import RUNNING, running
from c2srt.pipes import receive, send, widen

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
RETRIES = 3
DIED = (
    "a worker process died, and so did those that tried again (killed from outside, or out of"
    " memory): run the same command to go on, with fewer workers=… if memory is short"
)


@dataclass(frozen=True)
class Job:
    """What every task of one `map` shares: the function, the command that a printed one is made
    from (c2srt/hints.py), and the level from which the log is shown, if it is.
    """

    function: Callable[[Any], Any]
    verb: str
    overrides: tuple[str, ...]
    level: int | None

    def __call__(self, item: Any) -> Any:
        if self.level is not None:
            show_log(self.level)
        with running(self.verb, self.overrides):
            return self.function(item)


@dataclass(frozen=True)
class Sent:
    """A value that goes to each process once, with the function."""

    value: Any

    def __call__(self) -> Any:
        return self.value


KEPT: list[list["Worker"]] = []
"""The idle processes of the `kept` that is open, if one is."""


@contextmanager
def kept() -> Iterator[None]:
    """The processes of a job serve the next one, too, and end with this context: a small job's
    tasks take less time than its processes to load torch and a CLIP. Those with a GPU end with
    their job, and give its memory back.
    """
    if KEPT:
        yield
        return
    idle: list[Worker] = []
    KEPT.append(idle)
    try:
        yield
    finally:
        KEPT.remove(idle)
        for worker in idle:
            worker.end()


class Processes:
    """An executor (c2srt/executor.py) of this machine's processes; as a context it leaves none but
    those that are `kept`.
    """

    def __init__(self, workers: int, gpus: float | None = 0) -> None:
        """Raises UserError if the machine has not the GPUs that are asked for."""
        environments = gpus_of(workers, gpus)
        self.idle = KEPT[-1] if KEPT and not (gpus != 0 and visible_gpus()) else None
        self.workers = [
            self.idle.pop() if self.idle else Worker(environment) for environment in environments
        ]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            if self.idle is not None and worker.process and not worker.busy:
                self.idle.append(worker)
            else:
                worker.end()

    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        name: Callable[[T], str] | None = None,
        on_gpu: bool = False,
    ) -> Iterator[tuple[T, R]]:
        """As `Executor.map`."""
        job = Job(function, *(RUNNING[-1] if RUNNING else ("", ())), shown_from())
        idle: list[Worker] = list(self.workers)
        busy: list[Worker] = []
        try:
            for item in items:
                if not idle:
                    yield finished(busy, idle)
                busy.append(worker := idle.pop())
                worker.begin(job, item)
            while busy:
                yield finished(busy, idle)
        finally:
            for worker in busy:
                worker.end()

    def share(self, value: T) -> Callable[[], T]:
        return Sent(value)


def finished(busy: list["Worker"], idle: list["Worker"]) -> tuple[Any, Any]:
    """Waits for one task and returns its (item, result); its worker is idle then. Raises what the
    task did.
    """
    while True:
        answers = {worker.answers.fileno(): worker for worker in busy}
        for pipe in wait(list(answers)):
            worker = answers[cast(int, pipe)]
            if (found := worker.result()) is not None:
                busy.remove(worker)
                idle.append(worker)
                return found


class Worker:
    """A process that does one task at a time, started for the first, and anew if it dies."""

    calls: FileIO
    answers: FileIO

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment, self.busy = environment, False
        self.process: subprocess.Popen | None = None
        self.known: Job | None = None

    def begin(self, job: Job, item: Any) -> None:
        """Sends a task. Raises UserError if no process can be started."""
        self.job, self.item, self.retries, self.busy = job, item, RETRIES, True
        self.send()

    def send(self) -> None:
        if self.process is None:
            self.start()
        with suppress(BrokenPipeError):  # it has died, which is seen where its answer is read
            send(self.calls, (None if self.known is self.job else self.job, self.item))
        self.known = self.job

    def result(self) -> tuple[Any, Any] | None:
        """The task's (item, result); None if it had to be sent again. Raises what it raised."""
        try:
            done, answer = receive(self.answers)  # type: ignore[misc]
        except EOFError:
            done, answer = False, UserError(DIED)
            log.warning(f"a worker process died ({cause_of(self.end())}); its task is done again")
        else:
            if done:
                self.busy = False
                return self.item, answer
            if not isinstance(answer, LoaderFailed):
                raise answer
        if not self.retries:
            raise answer
        self.retries -= 1
        self.send()
        return None

    def start(self) -> None:
        """Raises UserError if the machine has no more processes or files to give."""
        theirs: list[int] = []
        try:
            reading, calls = os.pipe()
            answers, writing = os.pipe()
            theirs = [reading, writing]
            self.calls, self.answers = FileIO(calls, "wb"), FileIO(answers, "rb")
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "c2srt.processes", str(reading), str(writing)],
                stdin=subprocess.PIPE,
                bufsize=0,
                pass_fds=theirs,
                process_group=0,
                env=self.environment | {"PYTHONPATH": python_path()},
            )
        except OSError as error:
            raise UserError(
                f"a worker process cannot be started ({error.strerror}): take fewer workers=…, or"
                " free some memory"
            ) from error
        finally:
            for end in theirs:
                os.close(end)
        widen(self.calls)
        self.known = None
        with suppress(BrokenPipeError):
            send(self.calls, sys.path)

    def end(self) -> int | None:
        """Kills the process, if there is one; returns its exit status, −n if signal n ended it
        before.
        """
        process, self.process = self.process, None
        if process is None or process.stdin is None:
            return None
        for pipe in (process.stdin, self.calls, self.answers):
            pipe.close()
        process.kill()
        return process.wait()


def cause_of(status: int | None) -> str:
    """How a process ended, in words, from its exit status."""
    if status is None or status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return (
        f"{name}: killed from outside, or for want of memory" if status == -signal.SIGKILL else name
    )


def gpus_of(workers: int, each: float | None) -> list[dict[str, str]]:
    """The environment of each worker: one thread, and its share of the GPUs. Of less than a whole
    one (None: an even share, at most one) neighbours have the same.

    Raises UserError if the machine has less than `workers` times `each`.
    """
    plain = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    names = [] if each == 0 else visible_gpus()
    if each and (room := int(len(names) / each + 1e-6)) < workers:
        raise UserError(
            f"the job needs {workers} workers of 1 CPUs and {each:g} GPUs, and this machine has"
            f" room for {room}: lower workers=…, or give a cluster with RAY_ADDRESS=…"
        )
    if not names:
        return [plain] * workers
    if each and each >= 1:
        count = math.ceil(each)
        chosen = [names[number * count :][:count] for number in range(workers)]
    else:
        chosen = [[names[number * len(names) // workers]] for number in range(workers)]
    return [plain | {"CUDA_VISIBLE_DEVICES": ",".join(some)} for some in chosen]


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that there are."""
    import torch  # most jobs have no use for it

    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else [str(number) for number in range(count)]


# --- in the process


def main(reading: int, writing: int) -> None:
    """Does tasks until the pipe closes."""
    calls, answers = FileIO(reading, "rb"), FileIO(writing, "wb")
    widen(answers)
    threading.Thread(target=end_with_command, daemon=True).start()
    give_way()
    job: Job | None = None
    with suppress(EOFError, BrokenPipeError):
        sys.path[:] = cast("list[str]", receive(calls))
        while True:
            try:
                new, item = cast("tuple[Job | None, Any]", receive(calls))
            except EOFError:
                return
            except Exception as error:  # a function or item that cannot be loaded here
                send(answers, (False, portable(error)))
                continue
            job = new or job
            answer(answers, job, item)


def answer(answers: FileIO, job: Job | None, item: Any) -> None:
    """Does one task and sends its result, or what it raised."""
    try:
        assert job is not None
        found = (True, job(item))
    except Exception as error:
        found = (False, portable(error))
    try:
        send(answers, found)
    except BrokenPipeError:
        raise
    except Exception as error:  # a result that cannot be pickled
        send(answers, (False, portable(error)))


def portable(error: Exception) -> Exception:
    """The exception as the command can raise it, with the traceback from here."""
    trace = "".join(traceback.format_exception(error))
    if not isinstance(error, UserError):
        error.add_note(f"in a worker process:\n{trace}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"in a worker process:\n{trace}")
    return error


def end_with_command() -> None:
    """Ends this process when the command has: nobody else holds its standard input open."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
