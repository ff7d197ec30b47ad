"""Batches made ahead of time by processes of their own, each of which sends them through its own
pipe.

Nothing passes through /dev/shm, of which a container has 64 MB: torch's DataLoader sends tensors
through it, and when it is full the worker's sending thread loses the batch, the worker lives on,
and whoever waits for the batch waits for ever. Item n is made by process n mod `workers`, so order
needs no queue between processes and no lock that a killed one could keep. A process that dies
closes its pipe, and one whose reader has gone cannot write to it and ends.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from queue import Empty, Queue
from typing import Any

import torch

from c2srt.errors import AGAIN, LoaderFailed, UserError
from c2srt.interrupts import without_sigint
from c2srt.pipes import receive, send, widen
from c2srt.processes import cause_of

Make = Callable[[range], Iterator[object]]
"""Makes the items at positions, in order, some of them ahead of what is taken."""
END_S = 5
"""For a killed process and its reader to be gone."""


class Worker:
    """A process that makes items, and a thread that takes them out of its pipe: it holds up to
    `prefetch` of them.
    """

    def __init__(self, make: Make, positions: range, prefetch: int, others: list["Worker"]) -> None:
        ours, theirs = os.pipe()
        self.pipe = FileIO(ours, "rb")
        widen(self.pipe)
        self.items: Queue = Queue(max(1, prefetch - 1))  # one more waits in the process
        readers = [
            self.pipe,
            *(other.pipe for other in others),
        ]  # a pipe must have one reader, or its writer outlives it
        context = multiprocessing.get_context("fork")
        self.process = context.Process(
            target=serve,
            args=(make, positions, FileIO(theirs, "wb", closefd=False), readers),
            daemon=True,
        )
        try:
            with without_sigint():
                self.process.start()
        finally:
            os.close(theirs)
        self.reader = threading.Thread(target=self.read, daemon=True)

    def start(self, opened: Callable[[object], object]) -> None:
        """From now on items are read and `opened`, in a thread."""
        self.opened = opened
        self.reader.start()

    def read(self) -> None:
        """Passes items on until the pipe closes; the last one is what went wrong."""
        item: object = None
        while not isinstance(item, Exception):
            try:
                item = receive(self.pipe)
                item = item if isinstance(item, Exception) else self.opened(item)
            except EOFError:
                self.process.join(END_S)
                item = LoaderFailed(
                    f"a loader process died ({cause_of(self.process.exitcode)}){AGAIN}"
                )
            except Exception as error:
                item = error
            self.items.put(item)

    def next(self, seconds: float) -> object:
        """The next item. Raises LoaderFailed if the process has died, or if none comes for
        `seconds`.
        """
        try:
            item = self.items.get(timeout=seconds)
        except Empty:
            raise LoaderFailed(
                f"a loader process (pid {self.process.pid}) sent no batch for {seconds:g} s: it was"
                f" stopped, or the disk that holds the shards does not answer{AGAIN}"
            ) from None
        if isinstance(item, Exception):
            raise item
        return item

    def end(self) -> None:
        """Kills the process, and lets the thread see it."""
        self.process.kill()
        self.process.join(END_S)
        while self.reader.is_alive() and not self.process.is_alive():
            with suppress(Empty):
                self.items.get(timeout=0.02)
        if not self.reader.is_alive():
            self.pipe.close()


def prefetched(
    make: Make,
    positions: range,
    workers: int,
    prefetch: int,
    seconds: float,
    opened: Callable[[Any], object],
) -> Iterator:
    """`opened` of what `make` makes for every position, in order; `make` runs in `workers` forked
    processes, each with its own positions, `opened` in threads here.

    Raises LoaderFailed when a process dies or sends nothing for `seconds`, and what `make` raises
    (UserError as it is).
    """
    running: list[Worker] = []
    try:
        start(running, make, positions, workers, prefetch)
        for worker in running:
            worker.start(opened)
        for number in range(len(positions)):
            yield running[number % workers].next(seconds)
    finally:
        for worker in running:
            worker.end()


def start(
    running: list[Worker],
    make: Make,
    positions: range,
    workers: int,
    prefetch: int,
) -> None:
    """Adds the processes to `running`: all of them before the first thread, which no fork should
    meet. Raises UserError.
    """
    try:
        for number in range(workers):
            running.append(Worker(make, positions[number::workers], prefetch, running))
    except OSError as error:
        raise UserError(
            f"the loader processes cannot be started ({error.strerror}): take fewer, or"
            " loader_workers=0"
        ) from error


def serve(make: Make, positions: range, pipe: FileIO, others: list[FileIO]) -> None:
    """What a process does."""
    for other in others:
        other.close()
    signal.signal(
        signal.SIGTERM, signal.SIG_DFL
    )  # not the handler of the process that it was forked from
    torch.set_num_threads(
        1
    )  # the processes are the parallelism: more threads in each would only fight over the cores
    with suppress(BrokenPipeError):
        for item in items_or_error(make, positions):
            send(pipe, item)


def items_or_error(make: Make, positions: range) -> Iterator[object]:
    """The items; what goes wrong is the last one."""
    try:
        yield from make(positions)
    except UserError as error:
        yield error
    except Exception:
        yield RuntimeError(f"in a loader process:\n{traceback.format_exc()}")
