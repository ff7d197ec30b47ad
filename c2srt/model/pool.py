"""The image side of every node, pooled from patch rows: A · X_i + r_c, with an affine map already
applied to X and r.

f_img = (f_L + f_G) / 2 with f_L = A · F, and the rows of A sum to 1 (`isr.check_pooling` looks at
some, once a graph): so f_img = A · (F + f_G) / 2.
Whatever is affine in f_img is therefore applied to P patch rows instead of C category rows, and
what it does to the category's text once per batch: FFN_in's first layer (eq. 6), and on top of it
the first GATv2 layer's source and target projections.

Shapes: b images of a tile, n categories an image, P patches, C categories, D width, E = D (rows),
or 3 D (rows, targets, sources).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from c2srt.model.chunks import Chunk
from c2srt.model.ist import Layer


@dataclass
class Pooled:
    """A [b, n, P], X [b, P, E] and the categories' rows r [1 or b, n, E] (None: nothing is added).

    `categories` [b, n] says which of all categories they are (None: all, in order).
    """

    pooling: Tensor
    values: Tensor
    text: Tensor | None
    categories: Tensor | None

    def rows(self, chunk: Chunk, columns: slice = slice(None), out: Tensor | None = None) -> Tensor:
        """A · X + r for a chunk's nodes [m, e] and some of the E columns, written into `out` if
        given.
        """
        pooling, values = (
            self.pooling[chunk.images, chunk.columns],
            self.values[chunk.images, :, columns],
        )
        if self.text is None:
            return torch.bmm(pooling, values).flatten(0, 1)
        out = out if out is None else out.view(*pooling.shape[:2], -1)
        text = self.text.expand(self.pooling.shape[0], -1, -1)[chunk.images, chunk.columns, columns]
        return torch.baddbmm(text, pooling, values, out=out).flatten(0, 1)

    def begin_backward(self, grad_text: Tensor | None) -> None:
        """`grad_text` [C, E] sums the gradient of r over the batch; that of X is found in
        `grad_values`.
        """
        self.grad_text, self.grad_values = grad_text, torch.zeros_like(self.values)

    def add(self, chunk: Chunk, gradient: Tensor, columns: slice = slice(None)) -> None:
        """Takes the gradient [m, e] of rows(chunk, columns)."""
        pooling = self.pooling[chunk.images, chunk.columns]
        gradient = gradient.view(*pooling.shape[:2], -1)
        self.grad_values[chunk.images, :, columns].baddbmm_(pooling.transpose(1, 2), gradient)
        if self.grad_text is None:
            return
        if self.categories is None:
            total = (
                gradient[0] if len(gradient) == 1 else gradient.sum(0, dtype=self.grad_text.dtype)
            )
            self.grad_text[chunk.columns, columns].add_(total)
        else:
            index = self.categories[chunk.images, chunk.columns].flatten()
            self.grad_text[:, columns].index_add_(
                0, index, gradient.flatten(0, 1).to(self.grad_text.dtype)
            )


class PooledInputs:
    """The first GATv2 layer's input (`LayerInputs`) with its projections folded into the pool: E =
    3 D columns rows | targets | sources. All gradients go on to the pool.
    """

    gradient = None

    def __init__(self, pooled: Pooled, chunks: list[Chunk]) -> None:
        width = pooled.values.shape[2] // 3
        self.pooled, self.chunks = pooled, chunks
        self.columns = [slice(0, width), slice(width, 2 * width), slice(2 * width, 3 * width)]

    def sources(self, out: Tensor) -> None:
        for chunk in self.chunks:
            self.pooled.rows(chunk, self.columns[2], out[chunk.flat])

    def targets(self, chunk: Chunk) -> Tensor:
        return self.pooled.rows(chunk, self.columns[1])

    def rows(self, chunk: Chunk) -> Tensor:
        return self.pooled.rows(chunk, self.columns[0])

    def add(self, chunk: Chunk, grad_rows: Tensor | None, grad_targets: Tensor) -> None:
        if grad_rows is not None:
            self.pooled.add(chunk, grad_rows, self.columns[0])
        self.pooled.add(chunk, grad_targets, self.columns[1])

    def add_sources(self, grad_sources: Tensor, sums: Layer) -> None:
        """The projections' own gradients come from those of X and r, outside the tile."""
        for chunk in self.chunks:
            self.pooled.add(chunk, grad_sources[chunk.flat], self.columns[2])
