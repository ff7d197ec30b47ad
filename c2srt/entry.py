"""Where the command `c2srt` begins: above all packages, alone in importing `cluster` from outside.

It lies here because `cluster` is a name that others give to their packages, too: a foreign one is
named before it is taken for ours.
"""

import gc
import sys

from c2srt.early_signals import listen


def main() -> int:
    """Runs the verb that was typed; returns the exit status (c2srt/command.py)."""
    listen()
    from c2srt.command import BAD_INPUT, complain
    from c2srt.errors import UserError
    from c2srt.surroundings import check_package

    try:
        check_package("cluster")
    except UserError as error:
        complain(sys.argv[1:], str(error))
        return BAD_INPUT
    from cluster import cli

    status = cli.main()
    if "triton" not in sys.modules:  # which then complains of what was not collected
        gc.freeze()  # as the process ends, nobody looks for garbage in all that was loaded
    return status


if __name__ == "__main__":
    sys.exit(main())
