"""`c2srt evaluate`: the job of c2srt/evaluation/job.py on this machine, or on a Ray cluster."""

import logging
from pathlib import Path

from c2srt.cluster.address import check_address
from c2srt.cluster.executor import open_executor
from c2srt.cluster.paths import check_lasting
from c2srt.evaluation.config import Config
from c2srt.evaluation.describe import best_and_worst, describe
from c2srt.evaluation.job import evaluate
from c2srt.tracking.evaluation import track_results

log = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Writes results.json and per_category.csv and prints the results. Raises UserError on bad
    input.
    """
    check_lasting(config.out)
    if config.scores is None:
        check_address()
    results, new = evaluate(config, open_executor)
    if config.scores is None:
        track_results(config, results, new)
    print(describe(results))
    if extremes := best_and_worst(Path(config.out), results):
        print(extremes)
    log.info(f"written to {config.out}/")
