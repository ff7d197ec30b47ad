"""`c2srt check cluster` of the nodes that are given: this machine alone, where none are."""

import os
import platform
from pathlib import Path

from c2srt.check.config import Config
from c2srt.check.nodes.plan import Places, Plan, chosen
from c2srt.check.nodes.run import FAULTY, RECORD, Here, Start, check_nodes, sentences


def run_cluster(
    config: Config,
    names: list[str] | None = None,
    start: Start = Here,
    address: str = "127.0.0.1",
    ports: dict[int, str] | None = None,
) -> int:
    """Looks at the nodes called `names`, on each of which `start` starts a probe that connects to
    `address`. Returns 1 where one of them has a fault. Raises UserError on bad input.
    """
    reads = {"raw": config.raw, "shards": config.shards}
    plan = Plan(
        Places(
            {key: os.path.abspath(place) for key, place in reads.items() if place},
            {"work": os.path.abspath(config.work)} if config.work else {},
        ),
        ports=ports or {},
        seconds=config.seconds,
        parts=chosen(config.parts),
    )
    record = Path(config.out).absolute() / RECORD
    found = check_nodes(names or [platform.node()], plan, start, record, address)
    return FAULTY if sentences(found) else 0
