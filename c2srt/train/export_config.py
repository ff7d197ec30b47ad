"""What `c2srt export` can be told."""

from dataclasses import MISSING, dataclass

from c2srt.keys import Mark, Takes, key


@dataclass
class Config:
    """Configuration of the verb `export`."""

    checkpoint: str = key(
        MISSING,
        "a checkpoints/step-… folder, or a training's folder: its newest checkpoint",
        mark=Mark.CONTENT,
        follows="${work}/train",
        takes=Takes.PLACE,
    )
    out: str = key(
        MISSING,
        "folder written",
        mark=Mark.HARMLESS,
        follows="${work}/export",
        takes=Takes.PLACE,
    )
