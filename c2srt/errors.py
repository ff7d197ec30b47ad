"""The exceptions that reach a user as a sentence instead of a traceback."""

from c2srt.scratch import named
from c2srt.shown import sentence


class UserError(Exception):
    """Bad input or a full disk: one sentence that says what, where, and what to do.

    The command line prints it and exits with status 2; every other exception is a bug and keeps its
    traceback. What files and servers put into it is printable here already, for logs and reports,
    too (c2srt/shown.py), and what lies in a store goes by its address (c2srt/scratch.py).
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(sentence(named(str(text))))


class RetryableError(Exception):
    """This attempt failed, another may not. `wait`: seconds that the server asks for, None if it
    does not say.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


AGAIN = "; run the same command again to go on"


class LoaderFailed(UserError):
    """A loader process died or fell silent: a training starts again from its checkpoint, any other
    command may be repeated.
    """
