"""While the first modules load, Ctrl-C and SIGTERM are a sentence, too, and no traceback."""

import os
import signal


def listen() -> None:
    """From here on a signal that ends the command says so; `c2srt.interrupts.handling_signals`
    takes over once the verb is known.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


STDERR = 2


def end(number: int, frame: object) -> None:
    """Nothing was begun, so nothing is to be put in order."""
    os.write(STDERR, b"c2srt: interrupted before it began\n")
    os._exit(128 + number)
