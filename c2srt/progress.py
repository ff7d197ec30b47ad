"""Progress for people: a bar on a terminal, a plain line now and then in a log file."""

import logging
import time
from dataclasses import dataclass, field

from c2srt.shown import printable

log = logging.getLogger(__name__)
"""Shown on standard error (c2srt/console.py): lines of other modules that tell of progress go
through it, too.
"""
REDRAW_S = 0.1


@dataclass
class Progress:
    """Counts towards `total` with rate and ETA; `update(n, note)` after each piece, `close()` at
    the end.

    Every `log_every_s` seconds a line is logged, and between those the same at level DEBUG, for a
    bar on a terminal; `done` is an attribute of the record, whether it is the last.
    """

    name: str
    total: int
    unit: str = "images"
    log_every_s: float = 10.0
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    _logged: float = field(default_factory=time.monotonic)
    _drawn: float = field(default_factory=time.monotonic)
    _skipped: int = 0

    def skip(self, n: int) -> None:
        """Counts `n` pieces that an earlier run finished: progress, but not speed."""
        self.done += n
        self._skipped += n

    def update(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if (
            now - self._logged >= self.log_every_s and self.done < self.total
        ):  # `close` has the last
            self._log(logging.INFO, note)
            self._logged = self._drawn = now
        elif now - self._drawn >= REDRAW_S:
            self._log(logging.DEBUG, note)
            self._drawn = now

    def close(self, note: str = "") -> None:
        self._log(logging.INFO, note, last=True)

    def rate(self) -> float:
        """Pieces a second since the start, what earlier runs did left out."""
        return (self.done - self._skipped) / max(time.monotonic() - self.started, 1e-9)

    def _log(self, level: int, note: str, last: bool = False) -> None:
        share = 100 * self.done / self.total if self.total else 100
        eta = clock((self.total - self.done) / self.rate()) if self.rate() > 0 else "?"
        state = (
            f"ETA {eta}"
            if self.done < self.total
            else f"took {clock(time.monotonic() - self.started)}"
        )
        line = (
            f"{self.name} {share:3.0f} % · {self.done:,} of {self.total:,} {self.unit} ·"
            f" {self.rate():,.1f} {self.unit}/s · {state}"
        )
        note = printable(note)
        log.log(level, f"{line}{' · ' + note if note else ''}", extra={"done": last})


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
