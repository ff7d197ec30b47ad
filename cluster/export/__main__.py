"""`python -m cluster.export …` is `c2srt export …`."""

import sys

from cluster.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
