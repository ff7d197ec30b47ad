"""`python -m c2srt.cluster.audit …` is `c2srt audit …`."""

import sys

from c2srt.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main(["audit", *sys.argv[1:]]))
