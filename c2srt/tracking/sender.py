"""The thread that sends a run's journal to MLflow: in order, in batches, as often as it takes."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

from c2srt.tracking.journal import Journal
from c2srt.tracking.redact import redacted

PAUSE_S = 5.0
"""Between two looks at the journal: at most this old is what MLflow shows, and the thread takes
little from the work.
"""
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 60.0
LONGEST_REASON = 300
TRIES = 3
"""At the end, with a store that answered so far; and of a file or model, with a store that takes
everything else.
"""


class NeedsHelp(Exception):
    """Nothing can be sent before a person has done what the message says."""


class Sender(threading.Thread):
    """Sends until `closing` is set and the journal is empty, or the store fails once more.

    `failing`: the last attempt failed. `moved`: when the store last took something (monotonic
    seconds). `helps`: what a person must do before anything can be sent; None if trying again may
    be enough.
    """

    def __init__(self, journal: Journal, uri: str) -> None:
        super().__init__(name="c2srt-tracking", daemon=True)
        self.journal, self.uri = journal, uri
        self.store, self.unusable = opened(uri, journal.folder)
        state = journal.state()
        self.run_id: str | None = state["run_id"]
        self.sent: int = state["sent"]
        self.closing, self.failing, self.joined, self.failures = threading.Event(), False, False, 0
        self.moved = 0.0
        self.helps: str | None = None

    def run(self) -> None:
        wait = 0.0
        while not self.closing.wait(wait):
            self.attempt()
            wait = min(LONGEST_WAIT_S, max(FIRST_WAIT_S, 2 * wait)) if self.failing else PAUSE_S
        for _ in range(1 if self.failing else TRIES):
            self.attempt()
            if not self.failing:
                return

    def attempt(self) -> None:
        """Sends all that is there, and notes after each batch how far it came."""
        try:
            if self.unusable:
                raise self.unusable
            if not self.joined:
                self.join_run()
            while entries := self.journal.read(self.sent):
                for batch, end in self.store.batches(entries):
                    self.send(batch)
                    self.sent, self.moved = end, time.monotonic()
                    self.journal.note(sent=end, run_id=self.run_id)
            if self.failing:
                print(f"tracking: {redacted(self.uri)} answers again", file=sys.stderr, flush=True)
            self.failing, self.helps = False, None
        # whatever a store, a proxy, a driver or a full disk raises: the training matters more
        except Exception as error:
            self.helps = reason_of(error) if isinstance(error, NeedsHelp) else None
            if not self.failing:
                print(
                    f"tracking: {redacted(self.uri)} fails ({reason_of(error)}); the run goes on,"
                    f" its record waits in {self.journal.path}",
                    file=sys.stderr,
                    flush=True,
                )
            self.failing = True

    def send(self, batch: list[dict[str, Any]]) -> None:
        """One batch, to the run. Raises whatever the store does, but for what it refuses: that is
        left out with a warning.
        """
        try:
            self.store.send(self.run_id, batch)
            self.failures = 0
        except Exception as error:
            self.failures += 1
            stuck = self.failures >= TRIES and ("artifact" in batch[0] or "model" in batch[0])
            if not self.store.refused(error) and not (stuck and self.store.knows(self.run_id)):
                raise
            self.failures = 0
            print(
                f"tracking: {redacted(self.uri)} refuses {'/'.join(batch[0])} ({reason_of(error)}):"
                " left out",
                file=sys.stderr,
                flush=True,
            )

    def join_run(self) -> None:
        """Finds the run or opens it. A run that the store does not know is opened anew, with the
        whole record.
        """
        if self.run_id and not self.store.knows(self.run_id):
            print(
                f"tracking: {redacted(self.uri)} does not know run {self.run_id}; a new run is"
                " opened",
                file=sys.stderr,
                flush=True,
            )
            self.run_id, self.sent = None, 0
        opening = next(
            (entry["open"] for entry in reversed(self.journal.all()) if "open" in entry), None
        )
        if self.run_id is None and opening is None:
            raise LookupError("no run was ever opened for this folder")
        self.run_id = self.run_id or self.store.open(opening)
        self.joined = True
        self.journal.note(run_id=self.run_id)


def opened(uri: str, folder: Path) -> tuple[Any, Exception | None]:
    """The store, or why there is none: one that cannot even be imported is one that fails."""
    try:
        from c2srt.tracking.store import (
            Store,
        )  # mlflow takes seconds to import, and a fork must not meet them half done

        return Store(uri, folder), None
    except Exception as error:
        return None, error


def reason_of(error: Exception) -> str:
    """The first line of an error, without secrets."""
    return redacted((str(error).strip().splitlines() or [type(error).__name__])[0])[:LONGEST_REASON]
