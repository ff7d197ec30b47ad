"""The process that sends a record, as a fork of the test's: it has MLflow's client then, whose
import takes longer than all that these tests record. What it does is the real thing; how it is
really started, tests/test_tracking_process.py tries.
"""

import os
import signal
from io import FileIO

from c2srt.tracking import sending
from c2srt.tracking.sender_process import main


class Forked:
    """As much of a Popen as c2srt.tracking.sending needs."""

    def __init__(self, pid: int, words: int) -> None:
        self.pid, self.stdin, self.status = pid, FileIO(words, "wb"), None

    def poll(self, flags: int = os.WNOHANG) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, flags)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self) -> int | None:
        return self.poll(0)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def forked(writing: int) -> Forked:
    reading, words = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            os.close(words)
            os.dup2(reading, 0)
            main(writing)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(reading)
    return Forked(pid, words)


def fork_senders() -> None:
    """For good, in this process."""
    sending.started = forked  # type: ignore[assignment]
