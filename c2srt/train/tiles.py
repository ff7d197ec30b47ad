"""The memory of the head's tiles, decided once, before the first step, the same on every rank.

How a batch is cut into tiles is the order in which its sums are made: what is free at the moment
must not decide it, nor may the next attempt on the same or a larger card.
"""

import logging
from dataclasses import replace

from c2srt.model.tiling import MIB, budget_bytes
from c2srt.train.checkpoints import Record
from c2srt.train.config import Config
from c2srt.train.world import World

log = logging.getLogger(__name__)


def settle_tiles(config: Config, world: World, record: Record) -> Record:
    """The record with the bytes that the head's tiles may take on each rank: `model.tile_mib`, or
    what the run had before where that fits, or the least default of all ranks' devices. Rank 0
    says so where a run cannot go on with what it had.
    """
    own = budget_bytes(config.model, world.device)
    if config.model.tile_mib is None:
        own = int(own * config.resources.share)
    least, before = min(world.gather(own)), record.tile_bytes
    if config.model.tile_mib is not None or before is None:
        return replace(record, tile_bytes=least)
    if before <= least:
        return record
    if world.first:
        log.info(
            f"the head's tiles had {before / MIB:,.0f} MiB when this run began, on a larger device,"
            f" and have {least / MIB:,.0f} MiB from here on: the same samples and schedule, but"
            " losses may differ in their last digits"
        )
    return replace(record, tile_bytes=least)
