"""Strangers' pictures are decoded in a process of their own: whatever a native decoder does there,
one picture costs one row.

The process answers one call after the other. If it dies (a segmentation fault, an abort, killed for
want of memory), the call is made again in a fresh one, since an earlier picture may have spoilt the
memory of the old one; a picture whose processes die TRIES times is `crashed`. So what becomes of a
picture depends on nothing but the picture, and nothing need be written down.

    python -m c2srt.isolation c2srt.pictures:decode 300     what it runs: the function, and the CPU
                                                        seconds that a call may take
"""

import ctypes
import importlib
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from typing import Any

from c2srt.children import give_way, python_path
from c2srt.errors import UserError
from c2srt.pictures import Rejected
from c2srt.pipes import receive, send, widen

TRIES = 3
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

    def __call__(self, *arguments: object) -> Any:
        with self.lock:
            for _ in range(TRIES):
                calls, answers = pipes_of(self.living())
                try:
                    send(calls, arguments)
                    answer = receive(answers)
                except (BrokenPipeError, EOFError):
                    if self.end() == -signal.SIGXCPU:
                        raise Rejected(
                            "too_large", f"decoding takes more than {self.cpu_s} s of CPU time"
                        ) from None
                except BaseException:  # Ctrl-C: half an answer may be in the pipe
                    self.end()
                    raise
                else:
                    break
            else:
                raise Rejected("crashed", f"the decoder died of it, {TRIES} times")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def living(self) -> subprocess.Popen[bytes]:
        """The process, which has said that it is ready. Raises UserError if it cannot be
        started.
        """
        if self.process is None or self.process.poll() is not None:
            self.end()
            try:
                self.process = process = subprocess.Popen(
                    self.command,
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    process_group=0,
                    env=os.environ | SETTINGS | {"PYTHONPATH": python_path()},
                )
                calls, answers = pipes_of(process)
                widen(calls)
                receive(answers)
            except (OSError, EOFError) as error:
                self.end()
                raise UserError(
                    "no process can be started for decoding pictures "
                    f"({getattr(error, 'strerror', None) or 'it ended at once'}): free some memory"
                ) from error
        return self.process

    def end(self) -> int | None:
        """Kills the process, if there is one, and returns its exit status: −n if signal n ended it
        before.
        """
        process, self.process = self.process, None
        if process is None:
            return None
        for pipe in pipes_of(process):
            pipe.close()
        process.kill()
        return process.wait()


def pipes_of(process: subprocess.Popen[bytes]) -> tuple[FileIO, FileIO]:
    """(what it reads, what it writes), without buffers."""
    assert isinstance(process.stdin, FileIO) and isinstance(process.stdout, FileIO)
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
