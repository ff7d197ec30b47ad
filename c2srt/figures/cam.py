"""Table 2: where in the photo CLIP, MKT and ours find a category (Grad-CAM, Selvaraju et al. 2017).

The layer is the output of the last but one block for all three, since nothing of CLIP's final patch
features reaches its score. The target is the category's score, ours through ISR and IST; which
patches the ISR takes is a choice without gradient.

This is the only file that imports pytorch_grad_cam.

Shapes: P = rows × columns patches, W width of the ViT, C categories.
"""

from dataclasses import dataclass

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from c2srt.errors import UserError
from c2srt.figures.inputs import Inputs
from c2srt.figures.photos import framed
from c2srt.figures.viewers import Viewer, ranks_of
from c2srt.samples import Sample
from c2srt.views import centre_pixels

PHOTOS = 3


@dataclass(frozen=True)
class Row:
    """One photo [side, side, 3]: its categories' columns, names and labels in −1/0/1, and for each
    model a map a category, float32 [rows, columns of patches], not scaled.
    """

    image: str
    photo: np.ndarray
    columns: list[int]
    names: list[str]
    labels: list[int]
    maps: dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Cams:
    rows: list[Row]

    def record(self) -> dict:
        return {
            "rows": [
                {
                    "image": row.image,
                    "categories": row.names,
                    "columns": row.columns,
                    "labels": row.labels,
                    "maps": {
                        name: [found.tolist() for found in maps] for name, maps in row.maps.items()
                    },
                }
                for row in self.rows
            ]
        }


def made_from(inputs: Inputs) -> dict:
    return {**inputs.made_from(), **inputs.made_from_viewers()}


def numbers(inputs: Inputs) -> Cams:
    """A row a photo. Raises UserError if a chosen photo has no present or no absent category and
    none is named.
    """
    rows: list[Row] = []
    for sample in inputs.photos.choose(inputs.config.images, PHOTOS):
        shown = {column for row in rows for column in row.columns}
        columns = inputs.categories or tempting(sample, inputs.viewers, shown)
        maps = {
            viewer.name: [
                class_activation(viewer, centre_pixels(sample.image, viewer.size), column)
                for column in columns
            ]
            for viewer in inputs.viewers
        }
        rows.append(
            Row(
                sample.id,
                framed(sample),
                columns,
                [inputs.vocabulary.titles[column] for column in columns],
                [int(sample.labels[column]) for column in columns],
                maps,
            )
        )
    return Cams(rows)


def tempting(sample: Sample, viewers: list[Viewer], shown: set[int]) -> list[int]:
    """The verified present and the verified absent category that the models rank best on average,
    no model before another; one that is not `shown` yet, where there is one.
    """
    ranks = np.mean(
        [
            ranks_of(viewer.scores(centre_pixels(sample.image, viewer.size)[None])[0])
            for viewer in viewers
        ],
        axis=0,
    )
    chosen = []
    for label, word in ((1, "present"), (-1, "absent")):
        columns = np.flatnonzero(sample.labels == label)
        if not len(columns):
            raise UserError(
                f"image {sample.id} has no category that is verified as {word}: name some with"
                " 'categories=[…]'"
            )
        chosen.append(int(min(columns, key=lambda column: (column in shown, ranks[column]))))
    return chosen


class OneScore(nn.Module):
    """A viewer's score of one category, as [B, 1]."""

    def __init__(self, viewer: Viewer, column: int) -> None:
        super().__init__()
        self.viewer, self.column = viewer, column

    def forward(self, pixels: Tensor) -> Tensor:
        return self.viewer.score_of(pixels, self.column)[:, None]


def class_activation(viewer: Viewer, image: Tensor, column: int) -> np.ndarray:
    """ReLU(Σ_w mean over patches(∂score/∂A_w) · A_w) of one uint8 image [3, S, S]: float32 [rows,
    columns], not scaled.

    Raises UserError if the ViT has fewer than two blocks.
    """
    blocks = viewer.tower.blocks
    if len(blocks) < 2:
        raise UserError("a class activation map needs a ViT of at least two blocks")
    pixels = viewer.pixels(
        image[None]
    ).requires_grad_()  # the weights are frozen: gradients start here
    target, model = [ClassifierOutputTarget(0)], OneScore(viewer, column)
    with (
        torch.enable_grad(),
        GradCAM(model, [blocks[-2]], lambda tokens: as_picture(tokens, viewer.grid)) as cam,
    ):
        cam(pixels, target)
        found = cam.activations_and_grads
        raw = cam.get_cam_image(
            pixels, blocks[-2], target, found.activations[0].numpy(), found.gradients[0].numpy()
        )[0]
    return np.maximum(raw, 0).astype(np.float32)


def as_picture(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, 1 + P, W] (or without the class token) -> [B, W, rows, columns]."""
    return tokens[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
