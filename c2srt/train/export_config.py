"""What `c2srt export` can be told."""

from dataclasses import dataclass


@dataclass
class Config:
    """Configuration of the verb `export`."""

    checkpoint: str
    """A checkpoint's folder, or the folder of a training (its newest checkpoint)."""
    out: str
    """Folder written."""
