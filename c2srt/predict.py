"""`c2srt predict`, and `c2srt.load(path).predict(images, labels)`: any photo, any list of words, ranked.

A word of the model's vocabulary keeps its text feature and neighbours; any other gets a text feature from the exported text
tower and neighbours by text similarity or from a language model, once (c2srt/relations/words.py). No training, no shards.
"""

import glob
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from PIL import Image, ImageOps

from c2srt.errors import UserError
from c2srt.evaluation.scorers import find_export
from c2srt.model.export import Exported, load_export
from c2srt.relations.words import FOLDER as NEW_WORDS
from c2srt.relations.words import NewWords, WordsConfig
from c2srt.views import centre_pixels

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".mpo", ".jfif")
FAILED = 1
MAX_PIXELS = 178_956_970  # Pillow refuses more by itself; decoded it is 0.5 GB


@dataclass
class Config:
    """Keys of `c2srt predict`, explained in configs/predict.yaml."""

    checkpoint: str
    images: Any = None
    labels: Any = None
    topk: int = 5
    threshold: Optional[float] = None
    json: bool = False
    batch: int = 16
    words: WordsConfig = field(default_factory=WordsConfig)

    def __post_init__(self) -> None:
        self.images = [self.images] if isinstance(self.images, str) else self.images
        self.labels = [self.labels] if isinstance(self.labels, str) else self.labels
        if not isinstance(self.images, list) or not all(isinstance(image, str) for image in self.images) or not self.images:
            raise UserError("images=… names no image: give files, folders or patterns, such as 'images=[a.jpg,holiday/,\"*.png\"]'")
        if self.topk < 1 or self.batch < 1:
            raise UserError(f"topk={self.topk} and batch={self.batch} must be at least 1")
        check_labels(self.labels)


@dataclass(frozen=True)
class Prediction:
    """What was found in one image: `labels` with their scores, best first; `error` says why there is nothing."""

    image: str
    labels: tuple[tuple[str, float], ...] = ()
    error: str | None = None


class Predictor:
    """A loaded model; `c2srt.load` makes one. `cache` is the folder where new words are kept (unless `words` names another)."""

    def __init__(self, exported: Exported, cache: Path, words: WordsConfig | None = None,
                 device: torch.device | None = None) -> None:
        self.exported = exported
        self.new_words = NewWords(words or WordsConfig(), exported.vocabulary, exported.graph.text, exported.graph.table.shape[1],
                                  exported.templates, exported.by_similarity, cache)
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        exported.model.to(self.device)

    def predict(self, images: "str | Path | Image.Image | Iterable", labels: list[str] | None = None, topk: int | None = 5,
                threshold: float | None = None, batch: int = 16) -> list[Prediction]:
        """Ranks `labels` (None: the model's vocabulary) for each image (a path or a PIL image; or several).

        Keeps the `topk` best (None: all) that score at least `threshold`. An image that cannot be read gives a Prediction
        with `error`; UserError for bad labels.
        """
        single = isinstance(images, (str, Path, Image.Image))
        return list(self.stream([images] if single else images, labels, topk, threshold, batch))

    def stream(self, images: Iterable, labels: list[str] | None, topk: int | None, threshold: float | None,
               batch: int) -> Iterator[Prediction]:
        """As `predict`, one by one, in order; at most `batch` images are in memory."""
        check_labels(labels)
        names = list(self.exported.vocabulary.names) if labels is None else labels
        graph, columns = self.exported.graph_for(names, self.new_words.find) if labels is not None else (None, slice(None))
        waiting: list[tuple[str, torch.Tensor | str]] = []
        for image in images:
            waiting.append(self.read(image))
            if len(waiting) == batch:
                yield from self.rank(waiting, names, graph, columns, topk, threshold)
                waiting = []
        yield from self.rank(waiting, names, graph, columns, topk, threshold)

    def read(self, image: str | Path | Image.Image) -> tuple[str, torch.Tensor | str]:
        """(name, pixels uint8 [3, S, S]), or (name, why it cannot be read)."""
        name = str(image) if isinstance(image, (str, Path)) else str(getattr(image, "filename", "") or "image")
        try:
            return name, centre_pixels(read_image(image), self.exported.clip.image_size)
        except ValueError as error:
            return name, str(error)

    def rank(self, images: list[tuple[str, torch.Tensor | str]], names: list[str], graph, columns, topk: int | None,
             threshold: float | None) -> Iterator[Prediction]:
        """Predictions of images that were read, and those that were not, in order."""
        pixels = [value for _, value in images if not isinstance(value, str)]
        rows = iter(())
        if pixels:
            scores, _ = self.exported.scores(torch.stack(pixels).to(self.device), graph)
            rows = iter(scores.float().cpu()[:, columns].numpy())
        for name, value in images:
            if isinstance(value, str):
                yield Prediction(name, error=value)
            else:
                yield Prediction(name, best(next(rows), names, topk, threshold))


def load(path: str | Path, words: WordsConfig | None = None) -> Predictor:
    """Loads an exported model; `words` says how new words find neighbours. Raises UserError if there is no model at `path`."""
    folder = find_export(str(path))
    return Predictor(load_export(folder), Path(folder) / NEW_WORDS, words)


def best(scores: np.ndarray, names: list[str], topk: int | None, threshold: float | None) -> tuple[tuple[str, float], ...]:
    """The (name, score) of the `topk` best scores [n] that reach `threshold`; equal scores keep the order of `names`."""
    order = np.argsort(-scores, kind="stable")[:topk]
    return tuple((names[column], float(scores[column])) for column in order if threshold is None or scores[column] >= threshold)


def check_labels(labels: list[str] | None) -> None:
    """Raises UserError unless labels is None or some different, non-empty words."""
    if labels is None:
        return
    if isinstance(labels, str) or not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise UserError("labels must be a list of at least one word, such as 'labels=[dog,\"red car\"]'; leave it out to rank the "
                        "model's vocabulary")
    if twice := next((label for position, label in enumerate(labels) if label in labels[:position]), None):
        raise UserError(f"label {twice!r} is given twice")


def read_image(image: str | Path | Image.Image) -> np.ndarray:
    """Any picture, upright (EXIF orientation applied), as [H, W, 3] uint8 RGB; transparency becomes white.

    Raises ValueError with the reason if it is missing, broken or larger than MAX_PIXELS.
    """
    try:
        given = isinstance(image, Image.Image)
        with warnings.catch_warnings(action="ignore"), image.copy() if given else Image.open(image) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"its {opened.width} × {opened.height} pixels are more than {MAX_PIXELS:,}")
            return np.array(to_rgb(ImageOps.exif_transpose(opened)))
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on hostile bytes; one bad file must not end the others
        raise ValueError(f"cannot be read as an image: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; 16-bit greys are scaled, transparent pixels laid on white."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        image = Image.fromarray((np.asarray(image, np.float32).clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def find_images(patterns: list[str]) -> list[Path]:
    """Files, what lies in folders (by suffix, at any depth), and matches of patterns, in order. Raises UserError on nothing."""
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            some = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        elif path.exists() or not glob.has_magic(pattern):
            some = [path]
        else:
            some = sorted(Path(match) for match in glob.glob(pattern, recursive=True) if Path(match).is_file())
        if not some:
            raise UserError(f"images={pattern} has no image ({', '.join(SUFFIXES)} in a folder)")
        found += some
    return list(dict.fromkeys(found))


def run(config: Config) -> int:
    """Prints a table, or one JSON line, per image; returns 1 if an image could not be read. Raises UserError on bad input."""
    images = find_images(config.images)
    failed = 0
    predictor = load(config.checkpoint, config.words)
    for prediction in predictor.stream(images, config.labels, config.topk, config.threshold, config.batch):
        print(as_json(prediction) if config.json else as_table(prediction), flush=True)
        failed += prediction.error is not None
    if failed:
        print(f"{failed:,} of {len(images):,} images could not be read", file=sys.stderr)
    return FAILED if failed else 0


def as_json(prediction: Prediction) -> str:
    """{"image", "labels": [{"label", "score"}…]} or {"image", "error"}."""
    if prediction.error is not None:
        return json.dumps({"image": prediction.image, "error": prediction.error}, ensure_ascii=False)
    labels = [{"label": label, "score": round(score, 6)} for label, score in prediction.labels]
    return json.dumps({"image": prediction.image, "labels": labels}, ensure_ascii=False)


def as_table(prediction: Prediction) -> str:
    if prediction.error is not None:
        return f"{prediction.image}: {prediction.error}"
    width = max((len(label) for label, _ in prediction.labels), default=0)
    lines = [f"  {label.ljust(width)}  {score:7.4f}" for label, score in prediction.labels]
    return "\n".join([prediction.image, *lines]) if lines else f"{prediction.image}\n  nothing reaches the threshold"
