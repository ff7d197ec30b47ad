"""Figure 11: the five best categories of each model for some photos, against the verified labels.
Figure 8, of categories that the data set does not have, is novel.py.
"""

from dataclasses import dataclass

import numpy as np

from c2srt.figures.inputs import Inputs
from c2srt.figures.photos import framed
from c2srt.views import centre_pixels

PHOTOS, BEST = 8, 5


@dataclass(frozen=True)
class Label:
    """A predicted category: `label` 1 right (verified present), −1 wrong (verified absent), 0 not
    verified; `novel`: unseen in training, in figure 8 no category of the data set.
    """

    name: str
    column: int
    score: float
    label: int
    novel: bool


@dataclass(frozen=True)
class Predictions:
    """Photos [side, side, 3] by image id, and for each the labels of each model, best first;
    `marked`: what the novel ones are.
    """

    photos: dict[str, np.ndarray]
    best: dict[str, dict[str, list[Label]]]
    marked: str = "a novel category, unseen in training"

    def record(self) -> dict:
        return {
            image: {model: [vars(label) for label in labels] for model, labels in models.items()}
            for image, models in self.best.items()
        }


def made_from(inputs: Inputs) -> dict:
    return {**inputs.made_from(), **inputs.made_from_viewers()}


def numbers(inputs: Inputs) -> Predictions:
    """`categories` does not restrict what is predicted: always the whole vocabulary."""
    photos: dict[str, np.ndarray] = {}
    best: dict[str, dict[str, list[Label]]] = {}
    vocabulary = inputs.vocabulary
    for sample in inputs.photos.choose(inputs.config.images, PHOTOS):
        photos[sample.id], best[sample.id] = framed(sample), {}
        for viewer in inputs.viewers:
            scores = viewer.scores(centre_pixels(sample.image, viewer.size)[None])[0]
            best[sample.id][viewer.name] = best_labels(
                scores, sample.labels, vocabulary.titles, vocabulary.seen_count
            )
    return Predictions(photos, best)


def best_labels(
    scores: np.ndarray, labels: np.ndarray, names: tuple[str, ...], seen: int
) -> list[Label]:
    """The BEST categories of scores [C], with labels [C] in −1/0/1; equal scores in the order of
    the columns.
    """
    order = np.argsort(-scores, kind="stable")[:BEST].tolist()
    return [
        Label(names[column], column, float(scores[column]), int(labels[column]), column >= seen)
        for column in order
    ]
