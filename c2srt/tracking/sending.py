"""Sends a run's record (sender.py) from a process of its own (sender_process.py), so that what a
tracker's client costs, its import before all, is not taken from the threads of a training.

The process is this interpreter started anew; with MLflow's client it holds about 260 MiB. Its first
line of standard input tells it what to send and where to, secrets included: they are on no command
line. It tells back what becomes of it through a pipe, a line of JSON at a time. Killed, it is
started again a few times.
"""

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any

from c2srt.children import python_path
from c2srt.tracking import sender
from c2srt.tracking.journal import Journal
from c2srt.tracking.sinks import kind_of

log = logging.getLogger(__name__)

RESTARTS = 3
LOOK_S = 1.0
"""How often each of the two looks whether the other is still there, beside what the pipes tell."""


class Sending(threading.Thread):
    """The command's side: `run_id`, `sent`, `failing`, `helps` and `joined` are the sender's, as it
    told them last. `moved`: when it was ready, and the store last took something (monotonic
    seconds).

    Alive as long as something may still be sent.
    """

    def __init__(self, journal: Journal, uri: str) -> None:
        super().__init__(name="c2srt-tracking", daemon=True)
        state = journal.state()
        self.journal, self.uri = journal, uri
        self.run_id: str | None = state["run_id"]
        self.sent: int = state["sent"]
        self.failing, self.joined, self.moved = False, False, 0.0
        self.helps: str | None = None
        self.closing, self.ended, self.told = threading.Event(), False, threading.Lock()
        self.process: subprocess.Popen | None = None
        self.answers: IO[bytes] | None = None
        self.begin()  # before any thread of the command can fork while a pipe is half made

    def begin(self) -> None:
        """Starts the process, if the machine has one to give."""
        try:
            reading, writing = os.pipe()
            self.answers = os.fdopen(reading, "rb", 0)
            try:
                self.process = started(writing)
            finally:
                os.close(writing)
        except OSError as error:
            self.process = self.answers = None
            log.debug(f"no process can be started: {error.strerror}")
            return
        self.say(
            {
                "folder": str(self.journal.folder.absolute()),
                "uri": self.uri,
                "sink": kind_of(self.uri).sink,
                "waits": [sender.PAUSE_S, sender.FIRST_WAIT_S, sender.LONGEST_WAIT_S],
                "parent": os.getpid(),
                "path": sys.path,
            }
        )

    def run(self) -> None:
        wait = sender.FIRST_WAIT_S
        for restart in range(RESTARTS + 1):
            if restart:
                self.begin()
            if self.closing.is_set():
                self.say({"close": True})
            status = self.followed()
            if self.ended or status == 0 and self.closing.is_set():
                return
            if not restart:
                log.warning(
                    "tracking: the process that sends the record has died (killed from outside, or"
                    " for want of memory); it is started again"
                )
            self.closing.wait(wait)
            wait *= 2
        self.failing = True
        log.warning(
            f"tracking: the process that sends the record died {RESTARTS + 1} times; the run goes"
            f" on, its record waits in {self.journal.path}"
        )

    def followed(self) -> int | None:
        """Hears what the process tells until it has ended; its exit status."""
        process, answers = self.process, self.answers
        if process is None or answers is None:
            return None
        text = b""
        while True:
            ready, _, _ = select.select([answers], [], [], LOOK_S)
            piece = answers.read(1 << 16) if ready else b""
            *lines, text = (text + piece).split(b"\n")
            for line in lines:
                self.hear(json.loads(line))
            if not piece and (ready or process.poll() is not None):
                break
        answers.close()
        with suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        return process.wait()

    def hear(self, said: dict[str, Any]) -> None:
        if "log" in said:
            level, text = said["log"]
            log.log(level, text)
            return
        if said.pop("moved"):
            self.moved = time.monotonic()
        vars(self).update(said)

    def say(self, words: dict[str, Any]) -> None:
        """A line to the process; that it has died is seen elsewhere."""
        with self.told, suppress(OSError, ValueError):
            if self.process and self.process.stdin:
                self.process.stdin.write(json.dumps(words).encode() + b"\n")

    def close(self) -> None:
        """What is in the journal by now is the last; does not wait."""
        self.closing.set()
        self.say({"close": True})

    def end(self) -> None:
        """Nothing more is sent."""
        self.ended = True
        self.closing.set()
        if self.process:
            self.process.kill()


def started(writing: int) -> subprocess.Popen:
    """The process, which writes what it tells into this end of a pipe."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "c2srt.tracking.sender_process", str(writing)],
        stdin=subprocess.PIPE,
        bufsize=0,
        pass_fds=[writing],
        process_group=0,  # Ctrl-C at a terminal is for the command
        env=os.environ | {"PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"},
    )
