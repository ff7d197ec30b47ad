"""Figure 8: words that the data set does not have, ranked among its unseen categories: the five
best of each model for some photos.

Nobody verified such a word, so it is neither right nor wrong here: whoever reads the figure looks.
"""

import numpy as np

from c2srt.errors import UserError
from c2srt.figures.inputs import Inputs, Missing
from c2srt.figures.photos import framed
from c2srt.figures.predictions import PHOTOS, Label, Predictions, best_labels
from c2srt.shown import shown
from c2srt.views import centre_pixels

MARKED = "a word that the data set does not have; the others are its unseen categories"


def made_from(inputs: Inputs) -> dict:
    return {**inputs.made_from(), **inputs.made_from_viewers(), "words": words_of(inputs)}


def words_of(inputs: Inputs) -> list[str]:
    """Each once. Raises Missing where none are named, UserError if the data set has one of them."""
    if inputs.config.words is None:
        raise Missing("words that the data set does not have are yours to name: 'words=[…]'")
    words = list(dict.fromkeys(" ".join(word.split()) for word in inputs.config.words))
    names = {name.casefold() for name in inputs.vocabulary.names}
    if known := [word for word in words if word.casefold() in names]:
        raise UserError(
            f"words=…: {shown(known[0])} is a category of the data set: name words that it does not"
            " have"
        )
    return words


def numbers(inputs: Inputs) -> Predictions:
    """`categories` does not restrict what is predicted: always all unseen ones."""
    words, vocabulary = words_of(inputs), inputs.vocabulary
    unseen = slice(vocabulary.seen_count, None)
    names = (*vocabulary.titles[unseen], *words)
    photos: dict[str, np.ndarray] = {}
    best: dict[str, dict[str, list[Label]]] = {}
    for sample in inputs.photos.choose(inputs.config.images, PHOTOS):
        photos[sample.id], best[sample.id] = framed(sample), {}
        labels = np.append(sample.labels[unseen], np.zeros(len(words), sample.labels.dtype))
        for viewer in inputs.viewers:
            pixels = centre_pixels(sample.image, viewer.size)[None]
            scores = viewer.scores_with(pixels, words)[0, unseen]
            best[sample.id][viewer.name] = best_labels(
                scores, labels, names, len(vocabulary) - vocabulary.seen_count
            )
    return Predictions(photos, best, MARKED)
