"""What `c2srt messages` is told; nothing heavy is imported, so that it can be checked at once."""

from dataclasses import MISSING, dataclass

from c2srt.errors import UserError
from c2srt.keys import Mark, key
from c2srt.shared_keys import shared


@dataclass
class Config:
    """Keys of `c2srt messages`."""

    checkpoint: str = key(
        MISSING,
        "export folder (model.safetensors + config.json) whose scores are related",
        mark=Mark.CONTENT,
        follows="${work}/train/model",
    )
    shards: str = shared("shards", needed=True)
    relations: str = shared("relations", needed=True)
    out: str = key(
        MISSING,
        "folder written: model/ (the export with its messages), messages.json",
        mark=Mark.HARMLESS,
        follows="${work}/messages",
    )
    work: str = shared("work", default=".")
    images: int = key(100_000, "training images that are scored, spread over the split")
    neighbours: int = key(8, "sources of a category from the relation graph …")
    together: int = key(16, "… and, for a seen one, those most often labelled together with it")
    penalty: float = key(
        0.25, "of a weight's size, times √(log sources / labels of the category); 0: none"
    )
    unseen_neighbours: int = key(
        4,
        "neighbours of an unseen category by relations that its name does not tell, whose logits it"
        " hears, equally weighed …",
    )
    unseen_own: float = key(0.25, "… and the weight of its own score beside them")
    batch: int = key(64, "images scored at a time", mark=Mark.HARMLESS)
    loader_workers: int = key(1, "decoding processes (0: none, decode here)", mark=Mark.HARMLESS)

    def __post_init__(self) -> None:
        for name in ("images", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        for name in (
            "neighbours",
            "together",
            "penalty",
            "unseen_neighbours",
            "unseen_own",
            "loader_workers",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must be at least 0")
