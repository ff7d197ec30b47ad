"""`python -m c2srt.cluster.check …` is `c2srt check cluster …`."""

import sys

from c2srt.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", "cluster", *sys.argv[1:]]))
