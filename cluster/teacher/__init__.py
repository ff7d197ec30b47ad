"""`c2srt teacher`: the job of c2srt/teacher/job.py on this machine, or on a Ray cluster."""

from c2srt.cluster.address import check_address
from c2srt.cluster.executor import open_executor
from c2srt.cluster.paths import check_lasting
from c2srt.teacher.config import Config
from c2srt.teacher.job import cache_features


def run(config: Config) -> None:
    """The whole job. Raises UserError on bad input or a full disk."""
    check_lasting(config.out)
    check_address()
    cache_features(config, open_executor)
