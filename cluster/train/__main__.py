"""`python -m c2srt.cluster.train …` is `c2srt train …`."""

import sys

from c2srt.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
