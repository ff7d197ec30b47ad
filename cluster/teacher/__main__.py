"""`python -m c2srt.cluster.teacher …` is `c2srt teacher …`."""

import sys

from c2srt.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main(["teacher", *sys.argv[1:]]))
