"""What `c2srt predict` is told, apart from predict.py so that it can be checked without torch."""

import os
from dataclasses import MISSING, dataclass
from typing import Any

from c2srt.errors import UserError
from c2srt.keys import Mark, key
from c2srt.predict.labels import check_labels, parts, words_of
from c2srt.relations.config import WordsConfig

CLIP = "clip"
"""What `checkpoint` names a CLIP by that nothing of ours was trained on."""
TEMPLATES = ["a photo of a {}."]


@dataclass
class Config:
    """Keys of `c2srt predict`."""

    checkpoint: str = key(
        MISSING,
        "export folder (model.safetensors + config.json)",
        mark=Mark.CONTENT,
        follows="${work}/train/model",
    )
    images: Any = key(
        None,
        "list of files, folders (searched at any depth, links too) and patterns; or a.jpg,b.jpg",
        follows="???",
    )
    labels: Any = key(
        None,
        (
            "words to rank, [dog,'red car'] or dog,red car or labels.txt; null: "
            "the model's vocabulary"
        ),
        mark=Mark.CONTENT,
    )
    topk: int = key(5, "labels printed per image")
    threshold: float | None = key(
        None,
        "leave out labels that score less (cosine times the model's score scale); null: none",
    )
    json: bool = key(False, "one JSON line per image instead of a table", mark=Mark.HARMLESS)
    batch: int = key(16, "images scored at a time", mark=Mark.HARMLESS)
    words: WordsConfig = key(
        WordsConfig,
        (
            "words outside the vocabulary: their text features and neighbours "
            "are found once and kept"
        ),
    )

    def __post_init__(self) -> None:
        if isinstance(self.images, str):
            self.images = [self.images] if os.path.exists(self.images) else parts(self.images)
        if (
            not isinstance(self.images, list)
            or not all(isinstance(image, str) for image in self.images)
            or not self.images
        ):
            raise UserError(
                "images=… names no image: give files, folders or patterns, such as"
                " 'images=[a.jpg,holiday/,\"*.png\"]'"
            )
        if self.topk < 1 or self.batch < 1:
            raise UserError(f"topk={self.topk} and batch={self.batch} must be at least 1")
        self.labels = words_of(self.labels)
        check_labels(self.labels)
