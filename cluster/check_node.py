"""The part of the check of an allocation that srun starts on every node: a probe
(c2srt/check/nodes/probe.py) that knows the keys of a training.

Started as `python -m c2srt.cluster.check_node <coordinator's address> <port> <seconds>`.
"""

import os
import sys
from typing import Any

from c2srt.check.nodes import probe

READ = ("shards", "text", "relations", "teacher")
WRITTEN = ("work", "out")


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    return probe.main([os.environ["SLURMD_NODENAME"], *arguments], places_of)


def places_of(keys: list[str]) -> dict[str, Any]:
    """The folders that a training with these keys reads and writes. Raises UserError on bad
    keys.
    """
    from c2srt import compose
    from c2srt.cluster.cli import TRAIN
    from c2srt.train.config import ONLINE

    composed = compose.compose_verb(TRAIN, keys)
    reads = {key: str(composed[key]) for key in READ if composed[key] != ONLINE}
    if raw := composed["data"].get("root"):
        reads["data.root"] = str(raw)
    return {
        "reads": {key: here(place) for key, place in reads.items()},
        "writes": {key: here(str(composed[key])) for key in WRITTEN},
    }


def here(place: str) -> str:
    """As an absolute path; an address of a store as it is."""
    return place if "://" in place else os.path.abspath(place)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
