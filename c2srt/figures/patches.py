"""Which patches the ISR takes for a category, and how surely (algorithm 1).

Shapes: P = rows × columns patches, C categories, D width.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.errors import UserError
from c2srt.figures.inputs import Inputs
from c2srt.figures.photos import framed
from c2srt.figures.viewers import OurViewer, ranks_of
from c2srt.model.isr import assignment, softmax_dtype
from c2srt.views import centre_pixels

PHOTOS = 4


@dataclass(frozen=True)
class Choice:
    """One category in one photo: `taken` bool and `softmax` float [rows, columns] of patches, its
    label in −1/0/1, its rank (1 the best of C) and whether it is unseen.
    """

    column: int
    name: str
    unseen: bool
    label: int
    rank: int
    taken: np.ndarray
    softmax: np.ndarray


@dataclass(frozen=True)
class Chosen:
    """Photos [side, side, 3] by image id, the choices of each, and C."""

    photos: dict[str, np.ndarray]
    choices: dict[str, list[Choice]]
    categories: int

    def record(self) -> dict:
        return {
            image: [
                {
                    "category": choice.name,
                    "column": choice.column,
                    "unseen": choice.unseen,
                    "label": choice.label,
                    "rank": choice.rank,
                    "patches": np.flatnonzero(choice.taken).tolist(),
                    "softmax": choice.softmax[choice.taken].round(6).tolist(),
                }
                for choice in choices
            ]
            for image, choices in self.choices.items()
        }


def made_from(inputs: Inputs) -> dict:
    return {**inputs.made_from(), **inputs.made_from_ours()}


def numbers(inputs: Inputs) -> Chosen:
    """Raises UserError if the model has no ISR."""
    ours = with_isr(inputs)
    photos, choices = {}, {}
    for sample in inputs.photos.choose(inputs.config.images, PHOTOS):
        image = centre_pixels(sample.image, ours.size)
        ranks = ranks_of(ours.scores(image[None])[0])
        columns = inputs.categories or telling(sample.labels, ranks, inputs.vocabulary.seen_count)
        taken, softmax = chosen_patches(ours, image, columns)
        photos[sample.id] = framed(sample)
        choices[sample.id] = [
            Choice(
                column,
                inputs.vocabulary.titles[column],
                column >= inputs.vocabulary.seen_count,
                int(sample.labels[column]),
                int(ranks[column]),
                *maps,
            )
            for column, *maps in zip(columns, taken, softmax, strict=True)
        ]
    return Chosen(photos, choices, len(inputs.vocabulary))


def with_isr(inputs: Inputs) -> OurViewer:
    """Our model. Raises UserError if it has no ISR."""
    if not inputs.ours.model.config.isr:
        raise UserError(
            f"{inputs.model_folder} was trained with model.isr=false and chooses no patches: give"
            " another model=…"
        )
    return inputs.ours


def telling(labels: np.ndarray, ranks: np.ndarray, seen: int) -> list[int]:
    """The best ranked present seen category, unseen category (a present one, if there is one) and
    absent category of an image: labels [C] in −1/0/1, ranks [C].
    """
    unseen = np.arange(len(labels)) >= seen
    groups = (
        (labels == 1) & ~unseen,
        unseen & (labels == 1 if (unseen & (labels == 1)).any() else unseen),
        labels == -1,
    )
    chosen: dict[int, None] = {}
    for group in groups:
        columns = [column for column in np.flatnonzero(group).tolist() if column not in chosen]
        if columns:
            chosen[min(columns, key=lambda column: ranks[column])] = None
    return list(chosen)


@torch.no_grad()
def chosen_patches(
    ours: OurViewer, image: Tensor, columns: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [3, S, S] -> the patches that the model's own ISR takes, bool, and all softmax scores,
    float: [n, rows, columns].
    """
    head, config = ours.model.head, ours.model.config
    patches, _ = ours.model.tower(ours.pixels(image[None]))
    text = ours.graph.text[columns].to(patches.dtype)
    pooling = assignment(patches, text, head.isr_scale, config.enough, config.max_patches, False)[0]
    similarity = text @ F.normalize(patches[0], dim=-1).T
    softmax = (head.isr_scale * similarity.to(softmax_dtype(similarity.dtype))).softmax(-1)
    return tuple(found.unflatten(1, ours.grid).cpu().numpy() for found in (pooling > 0, softmax))
