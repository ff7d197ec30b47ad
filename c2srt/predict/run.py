"""`c2srt predict`: a table, or one JSON line, per image; or a file of all, or sidecars."""

import logging
import warnings

from c2srt.errors import UserError
from c2srt.executor import FEW_IMAGES, Opens
from c2srt.predict.config import NO_IMAGE, XMP, Config
from c2srt.predict.finding import summary
from c2srt.predict.job import write_table, write_tags
from c2srt.predict.labels import twice
from c2srt.predict.printed import as_json, as_table
from c2srt.predict.sources import Source, find_sources, names_in
from c2srt.predict.task import batch_of, decoders_of, predictor_of

log = logging.getLogger(__name__)

FAILED = 1


def run(config: Config, opens: Opens) -> int:
    """Ranks the labels for each image; returns 1 if an image could not be read. Raises UserError on
    bad input.
    """
    warnings.filterwarnings(
        "ignore", module="PIL"
    )  # remarks on odd metadata; what matters is an error of its image
    if config.images_file:
        sources, passed_over = find_sources(names_in(config.images_file), literal=True)
    elif config.images is not None:
        sources, passed_over = find_sources(config.images)
    else:
        raise UserError(NO_IMAGE)
    if passed_over:
        log.warning(summary(passed_over))
    if sentence := twice(config.asked or ()):
        log.warning(sentence)
    if config.out == XMP:
        failed = write_tags(config, sources, opens)
    elif config.out is not None:
        failed = write_table(config, sources, opens)
    else:
        failed = print_all(config, sources)
    return FAILED if failed else 0


def print_all(config: Config, sources: list[Source]) -> int:
    """Prints what is found, as it is found; returns how many images could not be read."""
    predictor, failed = predictor_of(config), 0
    asked, batch = predictor.asked(config.asked), batch_of(config, predictor)
    ids = asked.id_of
    images = (source if source.member else source.path for source in sources)
    with decoders_of(config, predictor, 0) as decoders:
        few = len(sources) <= FEW_IMAGES  # are read sooner than a decoder that resizes has started
        read = map(predictor.read, images) if few else decoders.all(images, batch)
        for found in predictor.ranked(read, asked, config.topk, config.threshold, batch):
            print(as_json(found, ids) if config.json else as_table(found), flush=True)
            failed += found.error is not None
    if failed:
        log.warning(f"{failed:,} of {len(sources):,} images could not be read")
    return failed
