"""Where the command `c2srt` begins: Ctrl-C while the first modules load is no traceback either."""

import sys

from c2srt.interrupts import INTERRUPTED


def main() -> int:
    try:
        from c2srt import cli
    except KeyboardInterrupt:
        print("c2srt: interrupted before it began", file=sys.stderr)
        return INTERRUPTED
    return cli.main()
