"""What the audit looks for beyond the bytes; nothing heavy is imported."""

from dataclasses import dataclass

from c2srt.backbone.config import ClipConfig

PARTS = SHARDS, LABELS, DUPLICATES = ("shards", "labels", "duplicates")
"""Of `c2srt audit`; the first is what compares shards with the CSVs (sharding/audit.py)."""
QUICK = (SHARDS, LABELS)
"""What needs no CLIP, and so no hours and no weights."""


@dataclass(frozen=True)
class Look:
    """`clip`: whose features say which pictures are compared, from that `cosine` on, among at most
    so many images.
    """

    parts: tuple[str, ...]
    clip: ClipConfig
    cosine: float
    most: int
    workers: int
