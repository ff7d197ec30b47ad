"""`c2srt predict`, and `c2srt.load(path).predict(images, labels)`: any photo, any words, ranked.

A word of the model's vocabulary keeps its text feature and neighbours; any other gets a text
feature from the exported text tower and neighbours by text similarity or from a language model,
once (c2srt/relations/words.py). No training, no shards.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from c2srt.export.files import find_export
from c2srt.export.read import Exported, load_export
from c2srt.model.graph import Graph
from c2srt.predict.config import check_labels
from c2srt.predict.inputs import Encoded, check_images, decode_apart, read_image
from c2srt.relations.config import WordsConfig
from c2srt.relations.words import FOLDER as NEW_WORDS, NewWords
from c2srt.views import centre_pixels


@dataclass(frozen=True)
class Prediction:
    """What was found in one image: `labels` with their scores, best first; `error` says why there
    is nothing.
    """

    image: str
    labels: tuple[tuple[str, float], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Asked:
    """Labels as they were given, the graph that scores them (None: the model's own), and their
    columns in it.
    """

    names: list[str]
    graph: Graph | None = None
    columns: torch.Tensor | slice = field(default_factory=lambda: slice(None))


class Predictor:
    """A loaded model; `c2srt.load` makes one. `cache` is the folder where new words are kept
    (unless `words` names another).
    """

    def __init__(
        self,
        exported: Exported,
        cache: Path,
        words: WordsConfig | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.exported = exported
        self.new_words = NewWords(
            words or WordsConfig(),
            exported.vocabulary,
            exported.graph.text,
            exported.graph.table.shape[1],
            exported.templates,
            exported.by_similarity,
            cache,
        )
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.decode: Callable[[bytes], np.ndarray] = decode_apart
        exported.model.to(self.device)

    def predict(
        self,
        images: "str | Path | Image.Image | Iterable",
        labels: list[str] | None = None,
        topk: int | None = 5,
        threshold: float | None = None,
        batch: int = 16,
    ) -> list[Prediction]:
        """Ranks `labels` (None: the model's vocabulary) for each image (a path or a PIL image; or
        several).

        Keeps the `topk` best (None: all) that score at least `threshold`. A word given twice (case
        and spaces aside) is ranked once. An image that cannot be read gives a Prediction with
        `error`; UserError for bad labels, TypeError for images of another kind.
        """
        if isinstance(images, (str, os.PathLike, Image.Image, Encoded)):
            images = [images]
        check_images(images)
        return list(self.stream(images, labels, topk, threshold, batch))

    def stream(
        self,
        images: Iterable,
        labels: list[str] | None,
        topk: int | None,
        threshold: float | None,
        batch: int,
    ) -> Iterator[Prediction]:
        """As `predict`, one by one, in order; at most `batch` images are in memory."""
        asked = self.asked(labels)
        waiting: list[tuple[str, torch.Tensor | str]] = []
        for image in images:
            waiting.append(self.read(image))
            if len(waiting) == batch:
                yield from self.rank(waiting, asked, topk, threshold)
                waiting = []
        yield from self.rank(waiting, asked, topk, threshold)

    def asked(self, labels: list[str] | None) -> Asked:
        """What `rank` needs to know of the labels; new words are looked up here. Raises UserError
        for bad ones.
        """
        check_labels(labels)
        if labels is None:
            return Asked(list(self.exported.vocabulary.titles))
        words = once(labels)
        return Asked(
            list(words.values()), *self.exported.graph_for(list(words), self.new_words.find)
        )

    def read(self, image: "str | Path | Image.Image | Encoded") -> tuple[str, torch.Tensor | str]:
        """(name, pixels uint8 [3, S, S]), or (name, why it cannot be read)."""
        name = (
            image.name
            if isinstance(image, Encoded)
            else str(getattr(image, "filename", "") or "image")
        )
        name = str(image) if isinstance(image, (str, os.PathLike)) else name
        try:
            return name, centre_pixels(
                read_image(image, self.decode), self.exported.clip.image_size
            )
        except (ValueError, MemoryError) as error:
            return name, str(error) or "it does not fit into memory"

    def rank(
        self,
        images: list[tuple[str, torch.Tensor | str]],
        asked: Asked,
        topk: int | None,
        threshold: float | None,
    ) -> Iterator[Prediction]:
        """Predictions of images that were read, and those that were not, in order."""
        pixels = [value for _, value in images if not isinstance(value, str)]
        rows = iter(())
        if pixels:
            scores, _ = self.exported.scores(torch.stack(pixels).to(self.device), asked.graph)
            rows = iter(scores.float().cpu()[:, asked.columns].numpy())
        for name, value in images:
            if isinstance(value, str):
                yield Prediction(name, error=value)
            else:
                yield Prediction(name, best(next(rows), asked.names, topk, threshold))


def load(path: str | Path, words: WordsConfig | None = None) -> Predictor:
    """Loads an exported model; `words` says how new words find neighbours. Raises UserError if
    there is no model at `path`.
    """
    folder = find_export(str(path))
    return Predictor(load_export(folder), Path(folder) / NEW_WORDS, words)


def best(
    scores: np.ndarray, names: list[str], topk: int | None, threshold: float | None
) -> tuple[tuple[str, float], ...]:
    """The (name, score) of the `topk` best scores [n] that reach `threshold`; equal scores keep the
    order of `names`.
    """
    order = np.argsort(-scores, kind="stable")[:topk]
    return tuple(
        (names[column], float(scores[column]))
        for column in order
        if threshold is None or scores[column] >= threshold
    )


def once(labels: list[str]) -> dict[str, str]:
    """{word: as it was first given}: the text tower hears neither case nor further spaces, so words
    that differ in them are one.
    """
    first: dict[str, tuple[str, str]] = {}
    for label in labels:
        word = " ".join(label.split())
        first.setdefault(word.casefold(), (word, label))
    return dict(first.values())
