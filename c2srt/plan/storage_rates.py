"""What the storage that holds the shards gives one node, measured on their tars: the latency of one
read, reads and bytes a second with as many under way as a loader process has.

Local files are put out of the page cache before; what a server keeps in its own memory shows.
"""

import os
import random
import statistics
import time
from contextlib import suppress
from pathlib import Path

from c2srt.shards import load_index
from c2srt.storage.ranges import Source, Span, open_ranges, start

FILES, READS, SMALL, LARGE = 16, 256, 4096, 2**20
SEED = 0


def storage_rates(shards: Path) -> dict[str, float]:
    """`read_latency_ms`, `reads_s` and `disk_gb_s` of a folder of shards. Raises UserError if it is
    none, LoaderFailed where it cannot be read.
    """
    index = load_index(shards)
    names = [shard.name for of_split in index.splits.values() for shard in of_split if shard.count]
    draw = random.Random(SEED)
    names = draw.sample(names, min(FILES, len(names)))
    paths = [shards / f"{name}.tar" for name in names]
    for path in paths:
        forget(path)
    sources = [open_ranges(path) for path in paths]
    size = int(sum(source.size for source in sources) / max(1, len(sources)))
    one = [seconds([each]) for each in spans(sources, READS // 4, min(size, SMALL), draw)]
    small, large = spans(sources, READS, SMALL, draw), spans(sources, READS // 4, LARGE, draw)
    return {
        "read_latency_ms": 1e3 * statistics.median(one),
        "reads_s": len(small) / seconds(small),
        "disk_gb_s": sum(length for _, _, length in large) / seconds(large) / 1e9,
    }


def spans(sources: list[Source], count: int, size: int, draw: random.Random) -> list[Span]:
    """At random places, of at most the file's size."""
    found = []
    for _ in range(count):
        source = draw.choice(sources)
        length = min(size, source.size)
        found.append((source, draw.randrange(source.size - length + 1), length))
    return found


def seconds(wanted: list[Span]) -> float:
    began = time.perf_counter()
    start(wanted).wait()
    return time.perf_counter() - began


def forget(path: Path) -> None:
    """Puts a local file out of the page cache, where that can be asked for."""
    with suppress(OSError, AttributeError):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(opened)
