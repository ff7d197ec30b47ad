"""`python -m cluster.audit …` is `c2srt audit …`."""

import sys

from cluster.cli import main

if __name__ == "__main__":
    sys.exit(main(["audit", *sys.argv[1:]]))
