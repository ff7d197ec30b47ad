"""What a command shows of its log; nothing else sets logging up.

Our modules log, each under its own name, and leave to whoever imports them what becomes of
it. A command calls `show_log`, and so do the processes that it starts: information goes to standard
output and warnings to standard error, as they are; progress goes to standard error, since standard
output may hold results. What a verb is asked for is no log, and is printed where it is made.
Standard library only.
"""

import logging
import sys

from c2srt import progress
from c2srt.scratch import named

OURS = logging.getLogger("c2srt")
QUIET = ("-q", "--quiet")
"""On a command line: results and warnings only."""


class Lines(logging.Handler):
    """Whatever the streams are at the moment; their errors are raised, so that a closed pipe or a
    full disk ends the command.
    """

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
        print(named(self.format(record)), file=stream, flush=True)


class Bar(logging.Handler):
    """A line that is redrawn on a terminal; elsewhere (Slurm logs, CI) what is more than a
    redrawing is a line of its own.
    """

    def emit(self, record: logging.LogRecord) -> None:
        text, done = named(self.format(record)), getattr(record, "done", None)
        if done is not None and sys.stderr.isatty():
            end = "\n" if done else ""
            print(f"\r{text}\x1b[K", end=end, file=sys.stderr, flush=True)
        elif record.levelno >= logging.INFO:
            print(text, file=sys.stderr, flush=True)


LINES, BAR = Lines(), Bar()


def show_log(level: int = logging.INFO) -> None:
    """From now on this process shows what our modules log from `level` on."""
    attach(OURS, LINES, level)
    attach(progress.log, BAR, logging.DEBUG if level <= logging.INFO else level)


def attach(logger: logging.Logger, handler: logging.Handler, level: int) -> None:
    """A library that gives the root a handler must not make each line appear twice."""
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def shown_from() -> int | None:
    """The level from which this process shows its log, for those that it starts; None if it
    doesn't.
    """
    return OURS.level if LINES in OURS.handlers else None
