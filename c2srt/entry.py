"""Where the command `c2srt` begins: above all rooms, alone in importing `cluster` from outside."""

import gc
import sys

from c2srt.early_signals import listen


def main() -> int:
    """Runs the verb that was typed; returns the exit status (c2srt/command.py)."""
    listen()
    from c2srt.cluster import cli

    status = cli.main()
    if "triton" not in sys.modules:  # which then complains of what was not collected
        gc.freeze()  # as the process ends, nobody looks for garbage in all that was loaded
    return status


if __name__ == "__main__":
    sys.exit(main())
