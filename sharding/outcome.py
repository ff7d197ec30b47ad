"""What became of one input image: a JPEG to pack, or a status and its reason."""

import warnings
from dataclasses import dataclass, field

from c2srt.isolation import Isolated
from c2srt.pictures import Rejected
from c2srt.sharding.config import Config
from c2srt.sharding.decode import convert


@dataclass(frozen=True)
class Outcome:
    """`status` is "ok" or one word, `reason` the sentence for it; `original` describes the file
    that was converted.
    """

    status: str
    reason: str = ""
    jpeg: bytes = b""
    width: int = 0
    height: int = 0
    original: dict = field(default_factory=dict)


def attempt(data: bytes, rotation: int | None, config: Config, exif_first: bool = False) -> Outcome:
    """Converts an image's bytes in a process of its own; what cannot be converted, or kills that
    process, becomes its reason. Raises UserError if there is no process to be had.
    """
    try:
        return ISOLATED(data, rotation, config, exif_first)
    except Rejected as rejected:
        return Outcome(rejected.status, rejected.reason)


def too_large(size: int, config: Config) -> Outcome:
    """Of a file that is not read at all."""
    return Outcome("too_large", f"{size:,} bytes, more than max_bytes={config.max_bytes:,}")


def attempt_here(data: bytes, rotation: int | None, config: Config, exif_first: bool) -> Outcome:
    """What the process does. One call at a time: Pillow's remarks on odd metadata are silenced by a
    process-wide filter. Raises Rejected.
    """
    with warnings.catch_warnings(action="ignore"):
        made = convert(data, rotation, config.resize, config.quality, config.limits, exif_first)
    return Outcome("ok", "", made.jpeg, made.width, made.height, made.original)


ISOLATED = Isolated("c2srt.sharding.outcome:attempt_here")
