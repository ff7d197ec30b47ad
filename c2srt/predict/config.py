"""What `c2srt predict` is told, apart from predict.py so that it can be checked without torch."""

import os
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from c2srt.errors import UserError
from c2srt.keys import Mark, key
from c2srt.predict.finding import has_lone_bytes, printable
from c2srt.relations.config import WordsConfig

WORD_LIST = ".txt"


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
        if self.labels is not None:
            self.labels = [
                word
                for label in (parts(self.labels) if isinstance(self.labels, str) else self.labels)
                for word in (read_words(label) if isinstance(label, str) else [label])
            ]
        check_labels(self.labels)


def parts(text: str) -> list[str]:
    """`a, b` without brackets: [a, b]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_words(label: str) -> list[str]:
    """The label, or, of a list's name (`labels.txt`), its words, one a line. Raises UserError if it
    cannot be read.
    """
    path = Path(label)
    if path.suffix.lower() != WORD_LIST:
        if path.suffix and path.is_file():
            raise UserError(
                f"labels={printable(label)} is a file: a list of words is a {WORD_LIST} file with"
                " one word a line"
            )
        return [label]
    try:
        words = [
            line.strip()
            for line in path.read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        ]
    except UnicodeDecodeError:
        raise UserError(f"labels={printable(label)} is not text in UTF-8") from None
    except OSError as error:
        raise UserError(
            f"labels={printable(label)} cannot be read as a list of words, one a line:"
            f" {error.strerror}"
        ) from None
    if not words:
        raise UserError(f"labels={printable(label)} has no word: write one a line")
    return words


def check_labels(labels: list[str] | None) -> None:
    """Raises UserError unless labels is None or some non-empty words."""
    if labels is None:
        return
    if (
        isinstance(labels, str)
        or not labels
        or not all(isinstance(label, str) and label.strip() for label in labels)
    ):
        raise UserError(
            "labels must be a list of at least one word, such as 'labels=[dog,\"red car\"]'; leave"
            " it out to rank the model's vocabulary"
        )
    if odd := next(filter(has_lone_bytes, labels), None):
        raise UserError(f"label {printable(odd)!r} is not text in UTF-8")
