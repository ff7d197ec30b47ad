"""A process that runs parts, one after the other, and may be killed at any moment; the parent never
touches a GPU.

It lives as long as its parts end well: a part that hangs or kills it costs that part only, and the
next one gets a new process. It leads a process group, so that what a part started ends with it.
"""

import importlib
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path

ROW, END = "row", "end"
START_S = 120
"""Time for the imports and the first touch of the card."""


class Worker:
    """`run` gives each part's rows and its (status, why). Processes are started when needed;
    `close` ends the last one.

    `machine` describes the card and the versions, as the first process saw them; {} if none could
    be started.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.process: SpawnProcess | None = None
        self.machine: dict = {}

    def run(
        self, place: str, kernels: bool, limit_s: float, note: Callable[[dict], None]
    ) -> tuple[list[dict], str, str]:
        """The rows that came, the status and the reason of "module:function"; `note` is called with
        each row. `kernels`: on a CPU, too, it runs the kernels, in Triton's interpreter.
        """
        rows: list[dict] = []
        if self.process is None and (fault := self.start()):
            return rows, "died", fault
        try:
            self.pipe.send((place, kernels))
            stop = time.monotonic() + limit_s
            while self.pipe.poll(max(0.0, stop - time.monotonic())):
                kind, content = self.pipe.recv()
                if kind == END:
                    status, why, healthy = content
                    if not healthy:
                        self.close()
                    return rows, status, why
                rows.append(content)
                note(content)
        except (EOFError, OSError):
            return rows, "died", f"its process ended ({self.ending()}): see check.log"
        self.close()
        return (
            rows,
            "out of time",
            f"it took longer than its limit of {limit_s:.0f} s and was ended",
        )

    def start(self) -> str:
        """Starts the process; what went wrong, or ""."""
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = process = context.Process(
            target=serve, args=(theirs, str(self.out)), daemon=False
        )
        process.start()
        theirs.close()
        try:
            if self.pipe.poll(START_S):
                self.machine = self.pipe.recv()
                return ""
            fault = f"the process of the check was not ready within {START_S} s"
        except EOFError:
            fault = (
                f"the process of the check ended while it started ({self.ending()}): see check.log"
            )
        self.close()
        return fault

    def ending(self) -> str:
        """How the process ended, in words."""
        assert self.process is not None
        self.process.join(20)
        code = self.process.exitcode
        self.close()
        return (
            f"signal {signal.Signals(-code).name}"
            if code is not None and code < 0
            else f"exit status {code}"
        )

    def close(self) -> None:
        """Ends the process and whatever it started."""
        if self.process is None:
            return
        assert self.process.pid is not None, "it was started"
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # not yet the leader of its group, or gone
            self.process.kill()
        self.process.join()
        self.pipe.close()
        self.process = None


def serve(pipe, out: str) -> None:
    """The process: says what machine it sees, then a part in, its rows and its end out, until the
    pipe closes.
    """
    os.setpgid(0, 0)
    log = os.open(Path(out) / "check.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from c2srt.check.card import describe
    from c2srt.check.case import cuda_fault, make_case

    interpreter = bool(cuda_fault())
    set_interpreter(interpreter)  # before Triton is first imported, which reads it then
    case = make_case(Path(out))
    pipe.send(describe())
    try:
        while True:
            place, kernels = pipe.recv()
            set_interpreter(interpreter and kernels)
            pipe.send((END, ended(pipe, place, case)))
    except EOFError:
        return


def set_interpreter(on: bool) -> None:
    """Whether the kernels run on the CPU: they are slow there, and only those who compare them want
    it.
    """
    os.environ.pop("TRITON_INTERPRET", None)
    if on:
        os.environ["TRITON_INTERPRET"] = "1"


def ended(pipe, place: str, case) -> tuple[str, str, bool]:
    """Runs one part -> its status, the reason, and whether the process may go on."""
    from c2srt.check.case import Skip, sentence, settle

    status, why, healthy = "ok", "", True
    module, _, name = place.partition(":")
    try:
        reasons = []
        for row in getattr(importlib.import_module(module), name)(case):
            status = "wrong" if row.get("wrong") else status
            reasons.append(row.get("skipped", ""))
            pipe.send((ROW, row))
        if reasons and all(reasons):
            status, why = "skipped", reasons[0]
    except Skip as skip:
        status, why = "skipped", str(skip)
    except Exception as error:
        import traceback

        traceback.print_exc()
        status, why = "failed", sentence(error)
        healthy = "CUDA error" not in str(error)  # an error of the card's stays with the process
    settle(case.device)
    return status, why, healthy
