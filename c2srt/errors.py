"""The one exception that reaches a user as a sentence instead of a traceback."""


class UserError(Exception):
    """Bad input or a full disk: one sentence that says what, where, and what to do.

    The command line prints it and exits with status 2; every other exception is a bug and keeps its traceback.
    """
