"""Ctrl-C and SIGTERM, for every verb: the first one ends the command in order, a second one at
once, with status 130 or 143.

The first is a KeyboardInterrupt in the main thread. A wait that does not end for it (a thread
pool's, a library's) is cut off after GRACE_S: whatever is written is written whole or removed by
the next run, as after a kill. A training saves first, for as long as that takes (`patiently`), and
on SIGTERM or SIGUSR1 ends with SAVED, on which Slurm's requeue relies. A terminal sends Ctrl-C to
all processes of the command: those that it started must not hear it (`without_sigint`), since the
command decides what becomes of them.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import TypeVar

import psutil

from c2srt.surroundings import say

T = TypeVar("T")
INTERRUPTED, SAVED = 130, 75
GRACE_S = 10
SAME_S = 0.3
"""Signals this close together are one: `timeout -s INT` sends two."""
PATIENT: list[bool] = []
"""Not empty while the command takes its time to end."""
SAID: list[str] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM, or another signal that asks the command to end."""


@contextmanager
def handling_signals(verb: str, saves: bool) -> Iterator[None]:
    """Signals mean what is written above for what runs inside; nothing changes in a thread, or for
    one that is ignored (nohup). To a verb that `saves`, SIGTERM and Slurm's warning mean: not now,
    run it again.
    """
    SAID.clear()
    numbers = [signal.SIGINT, signal.SIGTERM, *[signal.SIGUSR1] * saves]
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):
        yield
        return
    watch = Watch(verb, saves)
    handlers = {
        number: signal.signal(number, watch.interrupt)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    before = signal.set_wakeup_fd(watch.writing, warn_on_full_buffer=False)
    WATCHES.append(watch)
    try:
        yield
    finally:
        WATCHES.remove(watch)
        if (
            not watch.interrupted and watch.first is None
        ):  # else it watches how the process ends, too
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(watch.writing)


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
HELD = threading.local()
"""The signals that this thread blocked before its fork: two threads may fork at once, and one of
them may be in `without_sigint`.
"""


def before_fork() -> None:
    """Between the fork and `forget` a signal to the new process would be heard by the command,
    whose pipe it shares.
    """
    if WATCHES:
        HELD.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def after_fork() -> None:
    if hasattr(HELD, "mask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, HELD.mask)
        del HELD.mask


def forget() -> None:
    """In a process that was forked from a command: signals are its own, and end it at once."""
    if WATCHES:
        signal.set_wakeup_fd(-1)
        for number in ENDING:
            if getattr(signal.getsignal(number), "__func__", None) is Watch.interrupt:
                signal.signal(number, signal.SIG_DFL)
    after_fork()


class Watch:
    """A thread that hears of signals as they come, whatever the main thread is doing."""

    def __init__(self, verb: str, saves: bool) -> None:
        self.verb, self.saves = verb, saves
        self.interrupted: KeyboardInterrupt | None = None
        self.cancel: Callable[[], object] | None = None
        self.first: float | None = None
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        threading.Thread(target=self.watch, daemon=True).start()

    def interrupt(self, number: int, frame: object) -> None:
        """The handler, in the main thread."""
        if not self.interrupted:
            self.interrupted = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
            if self.cancel is None:
                raise self.interrupted
            self.cancel()

    def watch(self) -> None:
        deadline: float | None = None
        told = 0
        while True:
            ready, _, _ = select.select([self.reading], [], [], 0.2)
            numbers = os.read(self.reading, 64) if ready else b""
            if ready and not numbers:
                os.close(self.reading)
                return
            now = time.monotonic()
            for number in {*ENDING} & set(numbers):
                if self.first is not None and now - self.first > SAME_S:
                    end_at_once(status_of(self.saves, number))
                self.first, told = self.first or now, told or number
            if self.first is None or PATIENT:
                continue
            deadline = deadline or now + GRACE_S
            if now > deadline:
                say_interrupted(self.verb, told)
                end_at_once(status_of(self.saves, told))


WATCHES: list[Watch] = []
os.register_at_fork(before=before_fork, after_in_parent=after_fork, after_in_child=forget)


def run_tasks(main: Coroutine[object, object, T]) -> T:
    """`asyncio.run` in which the first signal cancels `main`, and is raised when all tasks have
    ended.

    Raised where it comes, it would end one task, or the event loop between two, and leave the
    others to print tracebacks.
    """
    import asyncio  # one verb has tasks, and each verb would wait for the import

    watch = (
        WATCHES[-1] if WATCHES and threading.current_thread() is threading.main_thread() else None
    )
    if watch is None:
        return asyncio.run(main)

    async def cancelled_by_signal() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # a coroutine of `asyncio.run` has one
        watch.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            return await main
        finally:
            watch.cancel = None

    try:
        result = asyncio.run(cancelled_by_signal())
    except asyncio.CancelledError:
        if watch.interrupted is None:
            raise
    if watch.interrupted is not None:
        raise watch.interrupted
    return result


def status_of(saves: bool, number: int) -> int:
    """The exit status of a command that was ended by a signal."""
    return INTERRUPTED if number == signal.SIGINT else SAVED if saves else 128 + number


def ended_by(verb: str, saves: bool, error: KeyboardInterrupt) -> int:
    """Says once that the command was ended; returns its exit status."""
    number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
    say_interrupted(verb, number)
    return status_of(saves, number)


def say_interrupted(verb: str, number: int) -> None:
    """Once, on a line of its own: a terminal shows ^C, perhaps behind a progress bar."""
    if not SAID:
        SAID.append(verb)
        what = "interrupted" if number == signal.SIGINT else "told to end"
        say(
            f"{chr(10) if sys.stderr.isatty() else ''}c2srt {verb}: {what}; run the same command"
            " again to go on"
        )


def end_at_once(status: int) -> None:
    """Ends this process and all below it: those of Ray would end by themselves, some of them after
    a minute.
    """
    with suppress(psutil.Error):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                process.kill()
    os._exit(status)


@contextmanager
def patiently() -> Iterator[None]:
    """Ends in order, however long that takes: what runs inside has a handler of its own for
    Ctrl-C.
    """
    PATIENT.append(True)
    try:
        yield
    finally:
        PATIENT.pop()


@contextmanager
def without_sigint() -> Iterator[None]:
    """Processes started inside do not hear Ctrl-C, for all their life; for this one it waits
    meanwhile.
    """
    # started inside, as by the first process, it would unblock the signal again
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
