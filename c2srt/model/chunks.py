"""The nodes of a tile (one category of one image each), taken a chunk at a time, and the memory
that tiles share.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Categories `columns` of images `images`, which are nodes `flat` of the tile: several whole
    images, or a run of one.
    """

    images: slice
    columns: slice
    flat: slice


def cut(images: int, columns: int, largest: int) -> list[Chunk]:
    """The chunks of a tile of images × columns nodes, of at most `largest` columns each."""
    if columns <= largest:
        return [Chunk(slice(0, images), slice(0, columns), slice(0, images * columns))]
    return [
        Chunk(
            slice(image, image + 1),
            slice(start, min(start + largest, columns)),
            slice(image * columns + start, image * columns + min(start + largest, columns)),
        )
        for image in range(images)
        for start in range(0, columns, largest)
    ]


class Buffers:
    """Large tensors that every tile of a pass uses again, by name: fresh ones page-fault, a tenth
    of the head's time on a CPU.

    A tensor that was taken lasts until the next tile begins, which writes over it. A tile asks for
    a `turn` when it begins and checks by it later that it is still the one that they belong to.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}
        self.turn = 0

    def begin(self) -> int:
        """The turn of the next tile; what earlier ones took is no longer theirs."""
        self.turn += 1
        return self.turn

    def check(self, turn: int) -> None:
        """Raises AssertionError when another tile has begun since."""
        assert turn == self.turn, "a tile was used after the next had begun, in the same buffers"

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
