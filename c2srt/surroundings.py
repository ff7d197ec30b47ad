"""What a command finds when it starts: streams that cannot show everything, a folder that is gone.

Files are UTF-8 whatever the locale; a terminal may be Latin-1 or GBK, and a file name may be no
text at all. What a stream cannot show is written as an escape (× as \\xd7), as Python does on
stderr by itself. Standard library only.
"""

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from c2srt.errors import UserError

ESCAPE = "backslashreplace"
FULL = (errno.ENOSPC, errno.EDQUOT)


def show_everything() -> None:
    """No print of this process, or of those that it starts, fails for a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPE)
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    os.environ["PYTHONIOENCODING"] = f"{encoding}:{ESCAPE}"


def flush_stdout() -> None:
    """Writes what was printed while it can still be said that this fails. Raises OSError."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up(stream: TextIO | None) -> None:
    """What is left to print goes to nobody: Python would fail once more when it ends, with a status
    of its own.
    """
    if stream is None:
        return
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(sentence: str) -> None:
    """One line on stderr; where that cannot be written either, the exit status must do."""
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def full_place(error: OSError) -> str | None:
    """What cannot be written: standard output, which is then given up, or a file on a full disk;
    None for any other error.
    """
    try:
        if error.errno in FULL and error.filename is None:
            # what did not fit may be lost by now: another line tells whether it was standard output
            print()
        flush_stdout()
    except OSError:
        give_up(sys.stdout)
        return "standard output"
    return str(error.filename or "a file") if error.errno in FULL else None


def check_surroundings() -> None:
    """Raises UserError where nothing could work: the working directory is gone."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"the working directory is gone ({error.strerror}): cd into a folder that exists"
        ) from error


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
