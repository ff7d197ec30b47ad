"""What became of one input image: a JPEG to pack, or a status and its reason."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pickle import PickleBuffer
from typing import cast

from c2srt.isolation import Isolated
from c2srt.pictures import Rejected
from c2srt.sharding.config import Config
from c2srt.sharding.decode import Converted


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


def attempts(
    found: Iterable[tuple["bytes | str | Outcome", int | None]],
    config: Config,
    exif_first: bool = False,
) -> Iterator[Outcome]:
    """Converts images (their bytes or the path of their file, their rotation) in a process of its
    own, in order; what cannot be read or converted, or kills that process, becomes its reason. An
    Outcome stays as it is.

    Raises UserError if there is no process to be had.
    """
    settings = (config.resize, config.quality, config.limits, exif_first)
    known: deque[Outcome | None] = deque()  # None: the process has it

    def calls() -> Iterator[tuple]:
        for data, rotation in found:
            known.append(data if isinstance(data, Outcome) else None)
            if not isinstance(data, Outcome):
                yield data if isinstance(data, str) else PickleBuffer(data), rotation, *settings

    for answer in ISOLATED.all(calls()):
        while outcome := known.popleft():
            yield outcome
        yield outcome_of(answer)
    yield from cast("deque[Outcome]", known)


def outcome_of(answer: Converted | Rejected) -> Outcome:
    if isinstance(answer, Rejected):
        return Outcome(answer.status, answer.reason)
    return Outcome("ok", "", answer.jpeg, answer.width, answer.height, answer.original)


def too_large(size: int, config: Config) -> Outcome:
    """Of a file that is not read at all."""
    return Outcome("too_large", f"{size:,} bytes, more than max_bytes={config.max_bytes:,}")


ISOLATED = Isolated("c2srt.sharding.decode:convert_sent")
