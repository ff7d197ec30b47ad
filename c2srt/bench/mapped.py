"""The reader that c2srt/shard_reader.py stands in for, kept as its literal twin: a mapped tar, a
sidecar a shard, one read after the other.
"""

import mmap
import tarfile
import time
from pathlib import Path

import numpy as np

from c2srt.opened import misfit, parse_json
from c2srt.shard_reader import SampleLabels
from c2srt.shards import BLOCK, COLUMNS, SPANS, Shard, read_sidecar


class MappedReader:
    """One shard; each read of a member from the disk takes `latency` seconds longer."""

    def __init__(self, folder: Path, shard: Shard, latency: float) -> None:
        rows = read_sidecar(folder / f"{shard.name}.parquet")
        with (folder / f"{shard.name}.tar").open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        column = {name: rows[name].to_numpy() for name in COLUMNS}
        packed = np.flatnonzero(column["status"] == "ok")
        packed = packed[np.argsort(column["member"][packed])]
        self.ids: list[str] = column["id"][packed].tolist()
        self._spans = np.stack([column[name] for name in SPANS], 1)[packed].astype(np.int64)
        self.latency = latency

    def jpeg(self, sample: int) -> bytes:
        offset, size, _, _ = self._spans[sample]
        time.sleep(self.latency)
        return self.member(f"{self.ids[sample]}.jpg", offset, size)

    def json(self, sample: int) -> bytes:
        _, _, offset, size = self._spans[sample]
        return self.member(f"{self.ids[sample]}.json", offset, size)

    def labels(self, sample: int) -> SampleLabels:
        time.sleep(self.latency)
        if unlike := misfit(self.json(sample), SampleLabels):
            raise ValueError(unlike)
        content = parse_json(self.json(sample))
        return SampleLabels(content["positive"], content["negative"])

    def member(self, name: str, offset: int, size: int) -> bytes:
        header = tarfile.TarInfo.frombuf(
            self._map[offset - BLOCK : offset], "utf-8", "surrogateescape"
        )
        if header.name != name or not header.isreg() or header.size != size:
            raise ValueError(f"{header.name} where {name} should be")
        return self._map[offset : offset + size]
