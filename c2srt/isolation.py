"""Strangers' pictures are decoded in a process of their own: whatever a native decoder does there,
one picture costs one row.

The process answers one call after the other; where there are many, the next one lies in its pipe
before it has answered (`all`), so that it never waits for whoever takes the answers. If it dies (a
segmentation fault, an abort, killed for want of memory), the call that it owes an answer is made
again in a fresh one, since an earlier picture may have spoilt the memory of the old one, and those
behind it follow; a picture whose processes die TRIES times is `crashed`. So what becomes of a
picture depends on nothing but the picture, and nothing need be written down.

    python -m c2srt.isolation c2srt.pictures:decode 300     what it runs: the function, and the CPU
                                                        seconds that a call may take
"""

import ctypes
import importlib
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import FileIO
from itertools import count
from typing import Any

from c2srt.children import give_way, python_path
from c2srt.errors import UserError
from c2srt.pictures import Rejected
from c2srt.pipes import receive, send, widen

TRIES = 3
AHEAD = 1
"""Calls that are sent before an answer is taken."""
CPU_S = 300
"""For one picture: the longest that our limits let pass takes a tenth of it. CPU time does not
depend on the machine's load.
"""
LARGE = 64 << 20
"""Bytes of memory beyond what was needed without a picture, from which on what is free is given
back after a call.
"""
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(LARGE // 2),
    "MALLOC_TRIM_THRESHOLD_": str(LARGE),
}
"""Of the process. glibc would give a picture's memory back after each step of each call, and the
system would clear the same pages for the next: as much time as decoding takes.
"""


class Isolated:
    """`function` ("module:name") as a callable that runs in a process of its own, one call at a
    time, started at the first.

    It returns and raises what the function does. Raises Rejected (crashed, too_large) if the call
    kills its processes, UserError if none can be started. The process ends when this one does.
    """

    def __init__(self, function: str, cpu_s: int = CPU_S) -> None:
        self.command = [sys.executable, "-P", "-m", "c2srt.isolation", function, str(cpu_s)]
        self.cpu_s = cpu_s
        self.forget()
        os.register_at_fork(
            after_in_child=self.forget
        )  # two processes must not talk through one pipe

    def forget(self) -> None:
        """As if nothing had been started."""
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.sent: deque[tuple] = deque()  # without an answer that was taken
        self.arrived: deque[object] = deque()  # answers to the first of them

    def __call__(self, *arguments: object) -> Any:
        (answer,) = self.all([arguments])
        if isinstance(answer, Rejected):
            raise answer
        return answer

    def all(self, calls: Iterable[tuple]) -> Iterator[Any]:
        """What the function returns for each tuple of arguments, in order, or the Rejected that it
        raises. Raises whatever else it does.

        No other call can be made until this is at its end, or closed.
        """
        with self.lock:
            try:
                for arguments in calls:
                    if not self.sent:
                        self.living()
                    self.sent.append(arguments)
                    self.send(arguments)
                    if len(self.sent) > AHEAD:
                        yield self.answer()
                while self.sent:
                    yield self.answer()
            finally:
                if self.sent:  # Ctrl-C: half an answer may be in the pipe
                    self.end()
                    self.sent.clear()

    def send(self, arguments: tuple) -> None:
        """That the process is dead is seen where its answer is read."""
        with suppress(BrokenPipeError, EOFError):
            send(self.pipes()[0], arguments, self.make_room)

    def make_room(self) -> None:
        """Waits until the process reads on; it may be writing an answer that no pipe holds."""
        calls, answers = self.pipes()
        either = select.poll()
        either.register(calls, select.POLLOUT)
        either.register(answers, select.POLLIN)
        if answers.fileno() in dict(either.poll()):
            self.arrived.append(receive(answers))

    def answer(self) -> Any:
        """The next one, a Rejected if the call cost its processes. Raises what the function did,
        UserError.
        """
        for deaths in count(1):
            try:
                found = self.arrived.popleft() if self.arrived else receive(self.pipes()[1])
                break
            except EOFError:
                if found := self.verdict(self.end(), deaths):
                    break
                self.send_again()
        self.sent.popleft()
        if self.process is None:
            self.send_again()
        if isinstance(found, Exception) and not isinstance(found, Rejected):
            raise found
        return found

    def verdict(self, status: int | None, deaths: int) -> Rejected | None:
        """Of the call that so many processes died of, the last with an exit status; None: it is
        made again.
        """
        if status == -signal.SIGXCPU:
            return Rejected("too_large", f"decoding takes more than {self.cpu_s} s of CPU time")
        if deaths == TRIES:
            return Rejected("crashed", f"the decoder died of it, {TRIES} times")
        return None

    def send_again(self) -> None:
        """What is to be answered, to a fresh process. Raises UserError if none can be started."""
        if self.sent:
            self.living()
        for arguments in self.sent:
            self.send(arguments)

    def living(self) -> None:
        """Starts the process unless it lives; then it has said that it is ready. Raises UserError
        if it cannot be started.
        """
        if self.process is None or self.process.poll() is not None:
            self.end()
            try:
                self.process = subprocess.Popen(
                    self.command,
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    process_group=0,
                    env=os.environ | SETTINGS | {"PYTHONPATH": python_path()},
                )
                calls, answers = self.pipes()
                widen(calls)
                os.set_blocking(calls.fileno(), False)
                receive(answers)
            except (OSError, EOFError) as error:
                self.end()
                raise UserError(
                    "no process can be started for decoding pictures "
                    f"({getattr(error, 'strerror', None) or 'it ended at once'}): free some memory"
                ) from error

    def end(self) -> int | None:
        """Kills the process, if there is one, and returns its exit status: −n if signal n ended it
        before.
        """
        process = self.process
        if process is None:
            return None
        for pipe in self.pipes():
            pipe.close()
        self.process = None
        process.kill()
        return process.wait()

    def pipes(self) -> tuple[FileIO, FileIO]:
        """(what the process reads, what it writes), without buffers."""
        process = self.process
        assert process and isinstance(process.stdin, FileIO) and isinstance(process.stdout, FileIO)
        return process.stdin, process.stdout


# --- in the process


def main(function: str, cpu_s: int) -> None:
    """Answers calls until the pipe closes. Nothing that a decoder prints gets into the pipe or onto
    a terminal.
    """
    calls, answers = FileIO(os.dup(0), "rb"), FileIO(os.dup(1), "wb")
    widen(answers)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    give_way()
    module, _, name = function.partition(":")
    called = getattr(importlib.import_module(module), name)
    with suppress(EOFError, BrokenPipeError):  # whoever started it may be gone by now
        send(answers, "ready")
        large = resident() + LARGE
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        while True:
            arguments: Any = receive(calls)
            limit_cpu(cpu_s)
            send(answers, answer_of(called, arguments))
            del arguments
            if resident() > large:
                give_back_memory()


def resident() -> int:
    """Bytes of memory that this process holds now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def give_back_memory() -> None:
    """What was freed, to the system (glibc keeps it else)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def limit_cpu(seconds: int) -> None:
    """From now on: SIGXCPU ends the process after so many seconds of CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(
        resource.RLIMIT_CPU, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most)
    )


def answer_of(called: Callable, arguments: tuple) -> object:
    try:
        return called(*arguments)
    except Rejected as rejected:
        return Rejected(
            rejected.status, rejected.reason
        )  # without its cause, which may be of any kind
    except Exception:
        return RuntimeError(f"in a process for decoding:\n{traceback.format_exc()}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
