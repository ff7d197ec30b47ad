"""`c2srt predict`: the job of c2srt/predict on this machine, or on a Ray cluster."""

from c2srt.cluster.executor import open_executor
from c2srt.cluster.paths import check_lasting
from c2srt.export.files import find_export
from c2srt.lazily import uncollected
from c2srt.predict.config import CLIP, XMP, Config


def run(config: Config) -> int:
    """Returns 1 if an image could not be read. Raises UserError on bad input."""
    if config.out not in (None, XMP):
        check_lasting(config.out)
    if config.checkpoint != CLIP:
        find_export(config.checkpoint)  # a wrong path costs no library
    with uncollected():
        from c2srt.predict.run import run as predict

    return predict(config, open_executor)
