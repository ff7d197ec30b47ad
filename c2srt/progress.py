"""Progress for people: a bar on a terminal, a plain line now and then in a log file."""

import sys
import time
from dataclasses import dataclass, field

from c2srt.shown import printable


@dataclass
class Progress:
    """Counts towards `total` with rate and ETA; `update(n, note)` after each piece, `close()` at
    the end.

    On a terminal one line is redrawn; elsewhere (Slurm logs, CI) a line is printed every
    `log_every_s` seconds.
    """

    name: str
    total: int
    unit: str = "images"
    log_every_s: float = 10.0
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    _printed: float = field(default_factory=time.monotonic)
    _skipped: int = 0

    def skip(self, n: int) -> None:
        """Counts `n` pieces that an earlier run finished: progress, but not speed."""
        self.done += n
        self._skipped += n

    def update(self, n: int = 1, note: str = "") -> None:
        self.done += n
        terminal = sys.stderr.isatty()
        if time.monotonic() - self._printed >= (0.1 if terminal else self.log_every_s):
            self._print(note, "\r" if terminal else "", "" if terminal else "\n")

    def close(self, note: str = "") -> None:
        self._print(note, "\r" if sys.stderr.isatty() else "", "\n")

    def rate(self) -> float:
        """Pieces a second since the start, what earlier runs did left out."""
        return (self.done - self._skipped) / max(time.monotonic() - self.started, 1e-9)

    def _print(self, note: str, before: str, after: str) -> None:
        self._printed = time.monotonic()
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
        print(
            (
                f"{before}{line}{' · ' + note if note else ''}\x1b[K"
                if before
                else f"{line}{' · ' + note if note else ''}"
            ),
            end=after,
            file=sys.stderr,
            flush=True,
        )


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
