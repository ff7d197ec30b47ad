"""`c2srt shard`: the job of sharding/job.py on this machine, or on a Ray cluster."""

from c2srt.cluster.address import check_address
from c2srt.cluster.executor import open_executor
from c2srt.cluster.paths import check_lasting
from c2srt.sharding.config import Config
from c2srt.sharding.job import make_shards


def run(config: Config) -> None:
    """The whole job. Raises UserError on bad input, a full disk, or a folder that is in use or
    holds other shards.
    """
    check_lasting(config.out)
    check_address()
    make_shards(config, open_executor)
