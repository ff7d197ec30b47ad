"""Sends a run's journal to its tracker: in order, in batches, until it is taken. It runs in a
process of its own (sending.py).
"""

import logging
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from c2srt.redact import redacted
from c2srt.tracking.journal import Journal
from c2srt.tracking.sink import NeedsHelp, Sink

log = logging.getLogger(__name__)

PAUSE_S = 5.0
"""Between two looks at the journal: at most this old is what the tracker shows, and the process
takes little from the work.
"""
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 60.0
LONGEST_REASON = 300
METRICS_AT_ONCE = 1000
"""Points; MLflow takes no more in one request."""
TRIES = 3
"""At the end, with a store that answered so far; and of a file or model, with a store that takes
everything else.
"""
NOTED_EVERY = 1 << 20
"""Bytes of a journal that nobody takes, after which it is noted what they hold."""


class Sender:
    """Sends until `closing` is set and the journal is empty, or the store fails once more.

    `failing`: the last attempt failed. `helps`: what a person must do before anything can be sent;
    None if trying again may be enough. `tell` is called whenever any of it, or `sent`, may have
    changed; with True if the store has taken something. `sink`: "module:class". `waits`: PAUSE_S,
    FIRST_WAIT_S and LONGEST_WAIT_S.
    """

    def __init__(
        self,
        journal: Journal,
        uri: str,
        sink: str,
        tell: Callable[[bool], None] = lambda moved: None,
        waits: tuple[float, float, float] = (PAUSE_S, FIRST_WAIT_S, LONGEST_WAIT_S),
    ) -> None:
        self.journal, self.uri, self.tell, self.waits = journal, uri, tell, waits
        self.opened = opened(sink, uri, journal.folder)
        self.seen, state = journal.seen(), journal.state()
        self.run_id: str | None = state["run_id"]
        self.sent: int = state["sent"]
        self.closing, self.failing, self.joined, self.failures = threading.Event(), False, False, 0
        self.helps: str | None = None

    def run(self) -> None:
        wait = 0.0
        pause, first, longest = self.waits
        while not self.closing.wait(wait):
            self.attempt()
            wait = min(longest, max(first, 2 * wait)) if self.failing else pause
        for _ in range(1 if self.failing else TRIES):
            self.attempt()
            if not self.failing:
                return

    def attempt(self) -> None:
        """Sends all that is there, and notes after each batch how far it came."""
        try:
            self.look()
            sink = self.sink
            run_id = self.run_id if self.joined and self.run_id else self.join_run(sink)
            while entries := self.journal.read(self.sent):
                for batch, end in batches(entries):
                    self.send(sink, run_id, batch)
                    self.sent = end
                    self.journal.note(sent=end, run_id=self.run_id, seen=vars(self.seen))
                    self.tell(True)
            if self.failing:
                log.warning(f"tracking: {redacted(self.uri)} answers again")
            self.failing, self.helps = False, None
        # whatever a store, a proxy, a driver or a full disk raises: the training matters more
        except Exception as error:
            self.helps = reason_of(error) if isinstance(error, NeedsHelp) else None
            if not self.failing:
                log.warning(
                    f"tracking: {redacted(self.uri)} fails ({reason_of(error)}); the run goes on,"
                    f" its record waits in {self.journal.path}"
                )
            self.failing = True
        self.tell(False)

    def look(self) -> None:
        """Keeps in mind what the journal holds, also while nobody takes it: a restart reads on from
        what was noted.
        """
        before = self.seen.upto
        self.journal.catch_up(self.seen)
        if self.seen.upto // NOTED_EVERY > before // NOTED_EVERY:
            self.journal.note(seen=vars(self.seen))

    @property
    def sink(self) -> Sink:
        """Raises what kept it from being made."""
        if isinstance(self.opened, Exception):
            raise self.opened
        return self.opened

    def send(self, sink: Sink, run_id: str, batch: list[dict[str, Any]]) -> None:
        """One batch, to the run. Raises whatever the sink does, but for what it refuses: that is
        left out with a warning.
        """
        if not batch[0] or "open" in batch[0]:  # a broken line; what `open` was told
            return
        try:
            sink.send(run_id, batch)
            self.failures = 0
        except Exception as error:
            self.failures += 1
            stuck = self.failures >= TRIES and ("artifact" in batch[0] or "model" in batch[0])
            if not sink.refused(error) and not (stuck and sink.knows(run_id)):
                raise
            self.failures = 0
            log.warning(
                f"tracking: {redacted(self.uri)} refuses {'/'.join(batch[0])} ({reason_of(error)}):"
                " left out"
            )

    def join_run(self, sink: Sink) -> str:
        """Finds the run or opens it. A run that the sink does not know is opened anew, with the
        whole record.
        """
        if self.run_id and not sink.knows(self.run_id):
            log.warning(
                f"tracking: {redacted(self.uri)} does not know run {self.run_id}; a new run is"
                " opened"
            )
            self.run_id, self.sent = None, 0
        if not self.run_id:
            opening = self.journal.opening(self.seen)
            if opening is None:
                raise LookupError("no run was ever opened for this folder")
            self.run_id = sink.open(opening)
        self.joined = True
        self.journal.note(run_id=self.run_id)
        self.tell(False)
        return self.run_id


def opened(sink: str, uri: str, folder: Path) -> Sink | Exception:
    """The sink, or why there is none: one that cannot even be imported is one that fails."""
    module, _, name = sink.partition(":")
    try:
        return getattr(import_module(module), name)(uri, folder)
    except Exception as error:
        return error


def batches(
    entries: list[tuple[dict[str, Any], int]],
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Neighbouring metrics together, everything else one by one; the byte behind each batch."""
    batch: list[dict[str, Any]] = []
    end = count = 0
    for entry, place in entries:
        size = len(entry.get("metrics", ())) or METRICS_AT_ONCE
        if batch and count + size > METRICS_AT_ONCE:
            yield batch, end
            batch, count = [], 0
        batch, end, count = [*batch, entry], place, count + size
    if batch:
        yield batch, end


def reason_of(error: Exception) -> str:
    """The first line of an error, without secrets."""
    return redacted((str(error).strip().splitlines() or [type(error).__name__])[0])[:LONGEST_REASON]
