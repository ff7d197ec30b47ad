"""What a cache on the nodes' disks (`loader.cache`) leaves to the storage. The nodes' own disks are
taken never to bind.

A node needs all shards in every epoch, or, with schedule.streams, its share of them. The cache
holds the share w of these that come next (c2srt/shard_cache.py), copied whole and ahead of their
need.

- Without streams each shard has its time, at random in each epoch. One that was needed at x of an
  epoch is needed again at u of the next; 1 − x (1 − u) of all shards are needed in between, and it
  has to be copied again if that is more than w, which has the chance (1 − w) (1 − ln (1 − w)).
- With streams a node needs all of its shards all the time (a window of each stream holds them), so
  those that are in the cache stay, and of the others each picture is read by itself.
"""

import math
from dataclasses import dataclass

from c2srt.plan.sizes import Sizes
from c2srt.shard_cache import GB
from c2srt.train.config import Config


@dataclass(frozen=True)
class FromStorage:
    """What comes from there: the share of the pictures that are read by themselves, and the bytes
    that each node copies for a step of all.
    """

    pictures: float = 1
    copied: float = 0


EVERYTHING = FromStorage()
"""Without a cache."""


@dataclass(frozen=True)
class Caching:
    """Of each node: bytes of the shards that it needs in an epoch, and that its cache holds."""

    needed: float
    held: float
    streams: bool
    steps: int
    """Of an epoch."""

    @property
    def missing(self) -> float:
        """1 − w."""
        return max(0.0, 1 - self.held / self.needed)

    @property
    def again(self) -> float:
        """The share of its shards that a node copies in each epoch but the first."""
        if self.streams or not self.missing:
            return 0.0
        return self.missing * (1 - math.log(self.missing))

    @property
    def read(self) -> float:
        """The share of its pictures that a node reads from the storage in every epoch."""
        return self.missing if self.streams else 0.0

    @property
    def first(self) -> FromStorage:
        """In the epoch that fills the cache."""
        return FromStorage(self.read, self.needed * (1 - self.read) / self.steps)

    @property
    def later(self) -> FromStorage:
        return FromStorage(self.read, self.needed * self.again / self.steps)


def caching_of(config: Config, sizes: Sizes, nodes: int) -> Caching | None:
    """None without a cache."""
    if not config.loader.cache:
        return None
    streams = config.schedule.streams > 0
    needed = sizes.train * sizes.packed_bytes / (nodes if streams else 1)
    steps = -(-sizes.train // config.schedule.batch)
    return Caching(needed, config.loader.cache_gb * GB, streams, steps)
