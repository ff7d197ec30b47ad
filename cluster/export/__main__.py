"""`python -m c2srt.cluster.export …` is `c2srt export …`."""

import sys

from c2srt.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
