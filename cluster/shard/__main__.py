"""`python -m c2srt.cluster.shard …` is `c2srt shard …`."""

import sys

from c2srt.cluster.cli import main

if __name__ == "__main__":
    sys.exit(main(["shard", *sys.argv[1:]]))
