"""What the process that sends a run's record does (sending.py is the command's side).

It ends with the process that started it, however that ends: its standard input is at its end then,
or, where that has left forks that hold it open, its parent is another one. Whoever must go for want
of memory, this process shall.

    python -m c2srt.tracking.sender_process 5     what is run: its end of the pipe
"""

import json
import logging
import os
import select
import sys
import threading
from pathlib import Path
from typing import IO, Any

from c2srt.children import give_way
from c2srt.console import OURS
from c2srt.redact import redacted
from c2srt.tracking.journal import Journal
from c2srt.tracking.sender import Sender

LOOK_S = 1.0
"""How often it looks whether its parent is still the same, beside what its input tells."""


class Followed(Journal):
    """A journal of which nothing is noted once the command has ended: the next one may be at it."""

    def __init__(self, folder: Path, parent: int) -> None:
        super().__init__(folder)
        self.parent = parent

    def note(self, **values: Any) -> None:
        if os.getppid() != self.parent:
            os._exit(1)
        super().note(**values)


class Told(logging.Handler):
    """Our modules' log, shown by the command."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        tell(self.pipe, {"log": [record.levelno, redacted(record.getMessage())]})


def main(writing: int) -> None:
    """Sends until it is told to close and all is sent. `writing`: its end of the pipe."""
    give_way()
    # a line is written at once, whole: nobody reads half of one
    pipe, words = os.fdopen(writing, "wb", 0), os.fdopen(os.dup(0), "rb", 0)
    told = json.loads(words.readline())
    sys.path[:] = told["path"]
    OURS.handlers, OURS.propagate = [Told(pipe)], False
    closing = threading.Event()
    threading.Thread(target=heed, args=(words, told["parent"], closing), daemon=True).start()
    journal = Followed(Path(told["folder"]), told["parent"])

    def tell_state(moved: bool) -> None:
        names = ("run_id", "sent", "failing", "helps", "joined")
        tell(pipe, {"moved": moved} | {name: getattr(one, name) for name in names})

    one = Sender(journal, told["uri"], told["sink"], tell_state, tuple(told["waits"]))
    one.closing = closing
    tell_state(True)  # that took seconds, in which no store kept anybody waiting
    one.run()


def tell(pipe: IO[bytes], said: dict[str, Any]) -> None:
    pipe.write(json.dumps(said, default=str).encode() + b"\n")


def heed(words: IO[bytes], parent: int, closing: threading.Event) -> None:
    """Sets `closing` when that is said; ends this process when the command has ended."""
    while True:
        ready, _, _ = select.select([words], [], [], LOOK_S)
        if ready:
            if not words.readline():
                os._exit(1)
            closing.set()
        if os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
