"""`c2srt.load(path).predict(images, labels)`: any photo, any words, ranked.

A word of the model's vocabulary keeps its text feature and neighbours; any other gets a text
feature from the exported text tower and neighbours by text similarity or from a language model,
once (c2srt/relations/words.py). No training, no shards.

Shapes: S pixels a side of the model's input, D joint width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.export.files import find_export
from c2srt.export.read import load_export
from c2srt.predict.config import AUTO, CLIP, PROBABILITY, TEMPLATES
from c2srt.predict.device import device_of, dtype_of
from c2srt.predict.inputs import Read, Urls, attempted, decode_apart, one_by_one, read_image
from c2srt.predict.labels import Label, as_labels, folded
from c2srt.predict.models import Asked, Model, Trained, ZeroShot, uncalibrated
from c2srt.predict.patches import PatchScores, area_of, patch_map
from c2srt.relations.config import WordsConfig
from c2srt.relations.words import FOLDER as NEW_WORDS
from c2srt.scratch import beside
from c2srt.views import centre_pixels


@dataclass(frozen=True)
class Prediction:
    """What was found in one image: `labels` with their scores, best first; `error` says why there
    is nothing.
    """

    image: str
    labels: tuple[tuple[str, float], ...] = ()
    error: str | None = None


class Predictor:
    """A loaded model; `c2srt.load` makes one."""

    def __init__(
        self,
        model: Model,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        """Raises UserError if there is no such device or precision."""
        self.model, self.device = model, device_of(device)
        self.decode: Callable[[bytes], np.ndarray] = decode_apart
        self.fetch: Callable[[str], bytes] = Urls()
        model.to(self.device, dtype_of(dtype))

    def predict(
        self,
        images: Any,
        labels: Sequence[str | Label] | None = None,
        topk: int | None = 5,
        threshold: float | str | None = None,
        batch: int = 16,
    ) -> list[Prediction]:
        """Ranks `labels` (None: the model's vocabulary) for each image: a path, a URL, a PIL image,
        the bytes of a file, an open file, an array or tensor [H, W, 3] or [3, H, W] of uint8 or of
        floats 0…1; or several, as a list of any of these, or with a first axis of images.

        Keeps the `topk` best (None: all) that score at least `threshold` ("auto": the calibrated
        model's own; UserError if it has none). A word given twice (case
        and spaces aside) is ranked once. An image that cannot be read gives a Prediction with
        `error`; UserError for bad labels, TypeError for images of another kind.
        """
        return list(self.stream(one_by_one(images), labels, topk, threshold, batch))

    def stream(
        self,
        images: Iterable,
        labels: Sequence[str | Label] | None,
        topk: int | None,
        threshold: float | str | None,
        batch: int,
    ) -> Iterator[Prediction]:
        """As `predict`, one by one, in order; at most `batch` images are in memory."""
        asked = self.asked(labels)
        return self.ranked(map(self.read, images), asked, topk, threshold, batch)

    def ranked(
        self,
        images: Iterable[Read],
        asked: Asked,
        topk: int | None,
        threshold: float | str | None,
        batch: int,
    ) -> Iterator[Prediction]:
        """Predictions of what `read` gives, `batch` at a time, in order."""
        least = self.least(asked, threshold)
        waiting: list[Read] = []
        for image in images:
            waiting.append(image)
            if len(waiting) == batch:
                yield from self.rank(waiting, asked, topk, least)
                waiting = []
        yield from self.rank(waiting, asked, topk, least)

    def asked(self, labels: Sequence[str | Label] | None) -> Asked:
        """What `rank` needs to know of the labels; new words are looked up here. Raises UserError
        for bad ones.
        """
        return self.model.asked(as_labels(labels))

    def read(self, image: Any) -> Read:
        """(name, pixels uint8 [3, S, S]), or (name, why it cannot be read)."""
        size = self.model.clip.image_size
        return attempted(
            image, lambda: centre_pixels(read_image(image, self.decode, self.fetch), size)
        )

    def rank(
        self,
        images: list[Read],
        asked: Asked,
        topk: int | None,
        least: float | np.ndarray | None,
    ) -> Iterator[Prediction]:
        """Predictions of images that were read, and those that were not, in order; `least` as
        `best` takes it.
        """
        pixels = [value for _, value in images if not isinstance(value, str)]
        rows = iter(())
        if pixels:
            rows = iter(self.model.scores(torch.stack(pixels).to(self.device), asked).numpy())
        for name, value in images:
            if isinstance(value, str):
                yield Prediction(name, error=value)
            else:
                yield Prediction(name, best(next(rows), asked.names, topk, least))

    def least(self, asked: Asked, threshold: float | str | None) -> float | np.ndarray | None:
        """What each label must score. Raises UserError where it is "auto" and the model does not
        know.
        """
        if threshold != AUTO:
            return threshold if threshold is None else float(threshold)
        if (own := self.model.thresholds(asked)) is None:
            raise uncalibrated(f"threshold={threshold}")
        return own

    def embed_images(self, images: Any, batch: int = 16) -> np.ndarray:
        """The global features of images as `predict` takes them, float32 unit rows [n, D]: the
        tower's own, before the head. Raises ValueError naming an image that cannot be read.
        """
        rows, waiting = [np.empty((0, self.model.clip.width), np.float32)], []
        for image in one_by_one(images):
            waiting.append(self.pixels(image))
            if len(waiting) == batch:
                rows.append(self.embedded(waiting))
                waiting = []
        return np.concatenate([*rows, *([self.embedded(waiting)] if waiting else [])])

    def embedded(self, pixels: list[torch.Tensor]) -> np.ndarray:
        with torch.no_grad():
            _, features = self.model.tower(self.model.pixels(torch.stack(pixels).to(self.device)))
        return F.normalize(features.float(), dim=-1).cpu().numpy()

    def embed_text(self, labels: Sequence[str | Label]) -> np.ndarray:
        """The text features that `predict` compares with, float32 unit rows [n, D], a row a label
        in the order given. Raises UserError for bad ones.
        """
        asked = self.asked(labels)
        assert asked.graph is not None, "labels that are given have a graph"
        text = asked.graph.text[asked.columns].float().numpy()
        row = {folded(name): number for number, name in enumerate(asked.names)}
        names = [label.name if isinstance(label, Label) else label for label in labels]
        return text[[row[folded(name)] for name in names]]

    def patch_scores(self, image: Any, label: str | Label) -> PatchScores:
        """Which patches of one image speak for a label: `.scores` float32 [rows, columns] over the
        grid of the model's patches, what each adds to the label's cosine with the image feature
        that the ISR pools for it (integrated gradients: c2srt/predict/patches.py), `.chosen` the
        patches that have half of it, `.boxes()` where these lie in the picture.

        Raises ValueError if the image cannot be read, UserError for a bad label.
        """
        picture, model = read_image(image, self.decode, self.fetch), self.model
        text = torch.from_numpy(self.embed_text([label]))[0].to(self.device)
        common = model.common()
        pixels = centre_pixels(picture, model.clip.image_size)[None].to(self.device)
        scores = patch_map(
            model.tower,
            model.pixels(pixels)[0],
            text,
            None if common is None else common.to(self.device),
            model.pooling(),
            model.clip.grid,
        )
        return PatchScores(
            scores, area_of(picture.shape[0], picture.shape[1], model.clip.image_size)
        )

    def pixels(self, image: Any) -> torch.Tensor:
        """uint8 [3, S, S]. Raises ValueError, naming the image, if it cannot be read."""
        name, value = self.read(image)
        if isinstance(value, str):
            raise ValueError(f"{name}: {value}")
        return value


def load(
    path: str | Path,
    words: WordsConfig | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    clip: ClipConfig | None = None,
    templates: list[str] | None = None,
    score: str = AUTO,
) -> Predictor:
    """As `c2srt.load`."""
    if str(path) == CLIP:
        if score == PROBABILITY:
            raise uncalibrated(f"score={score}")
        return Predictor(
            ZeroShot(load_clip(clip or ClipConfig()), templates or TEMPLATES), device, dtype
        )
    folder = find_export(str(path))
    model = Trained(load_export(folder), beside(folder) / NEW_WORDS, words, score)
    return Predictor(model, device, dtype)


def best(
    scores: np.ndarray, names: list[str], topk: int | None, least: float | np.ndarray | None
) -> tuple[tuple[str, float], ...]:
    """The (name, score) of the `topk` best scores [n] that reach `least`, which is one number or
    one for each name; equal scores keep the order of `names`.
    """
    order = np.argsort(-scores, kind="stable")[:topk]
    reached = np.full(len(scores), True) if least is None else scores >= least
    return tuple((names[column], float(scores[column])) for column in order if reached[column])
