"""`python -m c2srt.cluster.evaluate …` is `c2srt evaluate …`."""

import sys

from c2srt.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
