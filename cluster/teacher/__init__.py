"""`c2srt teacher`: the job of c2srt/teacher/job.py on this machine, or on a Ray cluster."""

from c2srt.teacher.config import Config
from c2srt.teacher.job import cache_features
from cluster.address import check_address
from cluster.executor import open_executor
from cluster.paths import check_lasting


def run(config: Config) -> None:
    """The whole job. Raises UserError on bad input or a full disk."""
    check_lasting(config.out)
    check_address()
    cache_features(config, open_executor)
