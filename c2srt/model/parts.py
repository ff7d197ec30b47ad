"""How the nodes of a tile (one category of one image each) are walked through in parts, and the
memory that tiles share.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Categories `columns` of images `images`, which are nodes `flat` of the tile: several whole
    images, or a run of one.
    """

    images: slice
    columns: slice
    flat: slice


def cut(images: int, columns: int, largest: int) -> list[Part]:
    """The parts of a tile of images × columns nodes, of at most `largest` columns each."""
    if columns <= largest:
        return [Part(slice(0, images), slice(0, columns), slice(0, images * columns))]
    return [
        Part(
            slice(image, image + 1),
            slice(start, min(start + largest, columns)),
            slice(image * columns + start, image * columns + min(start + largest, columns)),
        )
        for image in range(images)
        for start in range(0, columns, largest)
    ]


class Buffers:
    """Large tensors that every tile uses again, by name: fresh ones page-fault, a tenth of the
    head's time on a CPU.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def take(
        self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """An uninitialised tensor of like's device and type (or `dtype`)."""
        if torch.compiler.is_exporting():
            return like.new_empty(shape, dtype=dtype)
        size, kept = torch.Size(shape).numel(), self.kept.get(name)
        if kept is None or len(kept) < size:
            kept = self.kept[name] = like.new_empty(size, dtype=dtype)
        return kept[:size].view(shape)
