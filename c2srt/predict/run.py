"""`c2srt predict`: a table, or one JSON line, per image."""

import logging
import warnings

from c2srt.predict.config import Config
from c2srt.predict.finding import find_images, summary
from c2srt.predict.labels import Label, twice
from c2srt.predict.predictor import load
from c2srt.predict.printed import as_json, as_table

log = logging.getLogger(__name__)

FAILED = 1


def run(config: Config) -> int:
    """Prints a table, or one JSON line, per image; returns 1 if an image could not be read. Raises
    UserError on bad input.
    """
    warnings.filterwarnings(
        "ignore", module="PIL"
    )  # remarks on odd metadata; what matters is an error of its image
    images, passed_over = find_images(config.images)
    if passed_over:
        log.warning(summary(passed_over))
    if config.labels and (sentence := twice([Label(word) for word in config.labels])):
        log.warning(sentence)
    failed = 0
    predictor = load(config.checkpoint, config.words)
    for prediction in predictor.stream(
        images, config.labels, config.topk, config.threshold, config.batch
    ):
        print(as_json(prediction) if config.json else as_table(prediction), flush=True)
        failed += prediction.error is not None
    if failed:
        log.warning(f"{failed:,} of {len(images):,} images could not be read")
    return FAILED if failed else 0
