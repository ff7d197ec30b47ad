"""How fast a node's loaders give images of the real shards; a process of its own, since loaders
fork, and a measurement must be ended whatever the storage does.
"""

import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from c2srt.surroundings import say

SIZE, BATCH = 224, 32
"""Pixels a side, images a batch of each rank."""
MOST = 8
"""Loader processes of a node."""


def rate(shards: str, rank: int, size: int, seconds: float, limit: float) -> dict[str, Any]:
    """{"images_s", "processes"} of `seconds` of loading, or {"fault"}; {} where there are no
    shards. Ends within `limit`.
    """
    if not (Path(shards) / "index.json").is_file():
        return {}
    told = json.dumps([shards, rank, size, seconds])
    command = [sys.executable, "-m", "c2srt.check.nodes.feeding", told]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=limit, encoding="utf-8", errors="replace"
        )
    except subprocess.TimeoutExpired:
        return {"fault": f"the loaders gave no images within {limit:.0f} s"}
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"fault": (said or ["it ended without a word"])[-1][:300]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(shards: str, rank: int, size: int, seconds: float) -> dict[str, Any]:
    """Loads, as rank `rank` of `size`; the first batches, for which the processes start, do not
    count.
    """
    from c2srt.loader import LoaderConfig, train_batches
    from c2srt.shards import load_index
    from c2srt.surroundings import cores
    from c2srt.vocabulary import load_vocabulary

    folder, processes = Path(shards), max(1, min(cores() - 1, MOST))
    config = LoaderConfig(
        size=SIZE, batch=BATCH * size, micro_batch=BATCH, workers=processes, patience=60
    )
    batches = train_batches(config, load_index(folder), load_vocabulary(folder), rank, size)
    for _ in islice(batches, processes):
        pass
    began, images = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        images += len(next(batches).ids)
    batches.close()
    return {"images_s": images / passed, "processes": processes}


def main(told: str) -> int:
    """What was measured goes to standard output, as one line of JSON for `rate`."""
    from c2srt.errors import UserError

    try:
        found = json.dumps(measure(*json.loads(told)))
    except UserError as error:
        say(str(error))
        return 2
    os.write(1, found.encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
