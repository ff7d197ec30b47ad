"""One pass of the head over a batch, tile by tile: scores, or the ranking loss and its gradients.

A pass makes a tile, uses it up, and only then makes the next one, which overwrites the first one's
buffers: no tile leaves the loops here (and `Tile` checks that none did).

Shapes: B images, b images of a tile, P patches, C categories, D width, E columns of `affine`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.model.config import LossConfig, Unverified
from c2srt.model.graph import Graph
from c2srt.model.isr import compute_dtype, softmax_dtype
from c2srt.model.ist import Table, with_self_loops
from c2srt.model.loss import hinges
from c2srt.model.subgraph import dense, k_hop, subgraph_tiles
from c2srt.model.sums import empty_sums, finish_sums
from c2srt.model.tile import Nodes, Shared, Tile, offset
from c2srt.model.tiling import Tiling

Images = slice | Tensor
"""Of a batch: some in a row, or by their numbers."""


@dataclass(frozen=True)
class MicroBatch:
    """What the ranking loss is taken of: raw patch features [B, P, D] and global features [B, D],
    labels [B, C] in −1/0/1, weights [B].
    """

    patches: Tensor
    global_: Tensor
    labels: Tensor
    weights: Tensor


class TiledHead:
    """The head over the categories of a graph, cut into tiles of class `tile` as a tiling says. Its
    methods are called without autograd.
    """

    def __init__(
        self, shared: Shared, graph: Graph, tiling: Tiling, tile: type[Tile] = Tile
    ) -> None:
        self.shared, self.graph, self.tiling, self.kind = shared, graph, tiling, tile
        loops = shared.config.self_loops
        self.table = graph.once(("table", loops), lambda: with_self_loops(graph.table, loops))

    def gradients(
        self, batch: MicroBatch, loss: LossConfig
    ) -> tuple[Tensor, Tensor, list[Tensor], dict[str, Tensor]]:
        """The mean of weights × ranking loss, the ISR's [mean patches, capped share], and the
        loss's gradients for patches and global_, and by name for `shared.tensors` (`empty_sums`).

        Features that are not finite give a loss of NaN.
        """
        shared, total = self.shared, self.zero(batch)
        statistics, counted, found = list[Tensor](), 0, list[Tensor]()
        sums = empty_sums(shared.tensors, len(self.graph.text))
        for images, nodes in self.tiles(batch.labels, loss):
            tile = self.tile(images, nodes, batch.patches, batch.global_)
            value, grad_scores = ranking_of(tile, images, batch, loss)
            total += value
            statistics.append(tile.statistics())
            counted += nodes.images
            gradients = tile.backward(grad_scores, sums)
            if isinstance(images, slice) and nodes.images == len(batch.labels):
                found = [*gradients]
                continue
            found = found or self.zeros(batch)
            found[0][images], found[1][images] = gradients
        finish_sums(shared.tensors, shared.folded, sums, self.graph.text)
        wide = total.dtype  # 0 · Σ is NaN where a value is not finite
        total.add_(batch.patches.sum(dtype=wide) + batch.global_.sum(dtype=wide), alpha=0)
        mean = sum(statistics[1:], statistics[0]) / counted if statistics else total.new_zeros(2)
        return total, mean.float(), found or self.zeros(batch), sums

    def scores(self, patches: Tensor, global_: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores [B, C] in float32 or wider of patches [B, P, D] and global_ [B, D], and the ISR's
        patch counts [B, C] (None without ISR).
        """
        scores, counts = [], []
        for images, nodes in self.whole_tiles(patches.shape[0]):
            tile = self.tile(images, nodes, patches, global_)
            scores.append(tile.scores(keep=False))
            counts.append(tile.patch_counts())
        known = [count for count in counts if count is not None]
        return torch.cat(scores), torch.cat(known) if known else None

    def tile(self, images: Images, nodes: Nodes, patches: Tensor, global_: Tensor) -> Tile:
        """The next tile; the one before must have been used up. The first of a graph checks what
        it relies on.
        """
        compute = compute_dtype(patches.dtype)
        tile = self.kind(
            self.shared, nodes, patches[images].to(compute), global_[images].to(compute)
        )
        self.graph.once("checked", tile.check)
        return tile

    def zeros(self, batch: MicroBatch) -> list[Tensor]:
        """Gradients of 0 for patches and global_, in the compute type."""
        compute = compute_dtype(batch.patches.dtype)
        return [torch.zeros_like(leaf, dtype=compute) for leaf in (batch.patches, batch.global_)]

    def zero(self, batch: MicroBatch) -> Tensor:
        """A loss of 0, in float32 or wider."""
        wide = softmax_dtype(compute_dtype(batch.patches.dtype))
        return torch.zeros((), dtype=wide, device=batch.patches.device)

    def tiles(self, labels: Tensor, loss: LossConfig) -> Iterator[tuple[Images, Nodes]]:
        """(images of the batch, their nodes), tile after tile: everything, or what the verified
        categories need, for which the host must know which these are.
        """
        config = self.shared.config
        if loss.unverified != Unverified.IGNORE:
            yield from self.whole_tiles(len(labels))
            return
        mask = k_hop(labels, self.table, config.layers if config.ist else 0)
        for found in subgraph_tiles(mask, self.table, self.tiling.images * len(self.table)):
            yield found.images, Nodes.some(self.text, self.rows, found)
        rest = torch.tensor(dense(mask), dtype=torch.long, device=labels.device)
        for images, nodes in self.whole_tiles(len(rest)):
            yield rest[images], nodes

    def whole_tiles(self, count: int) -> Iterator[tuple[slice, Nodes]]:
        """Tiles with every category, of the first images, of the next ones …"""
        if torch.compiler.is_exporting():
            yield slice(None), self.whole(count)
            return
        for start in range(0, count, self.tiling.images):
            images = min(self.tiling.images, count - start)
            yield slice(start, start + images), self.whole(images)

    def whole(self, images: int) -> Nodes:
        """Every category of so many images; what follows from the table is made once a size."""
        table = self.graph.once(
            ("nodes", self.shared.config.self_loops, images),
            lambda: Table(offset(self.table.expand(images, -1, -1))),
        )
        return Nodes.all(self.text, self.rows, table, images)

    @property
    def text(self) -> Tensor:
        """The text [C, D] in the compute type."""
        affine = self.shared.tensors.get("affine")
        return self.graph.text if affine is None else self.graph.text_as(affine.dtype)

    @cached_property
    def rows(self) -> Tensor | None:
        """What `affine` makes of the categories' text [C, E], the part that no image changes; None
        without IST.
        """
        if not self.shared.config.ist:
            return None
        affine, width = self.shared.tensors["affine"], self.graph.text.shape[1]
        of_text, bias = affine[:, width : 2 * width], affine[:, 2 * width]
        return F.linear(self.text, of_text, bias)


def ranking_of(
    tile: Tile, images: Images, batch: MicroBatch, loss: LossConfig
) -> tuple[Tensor, Tensor]:
    """A tile's share of the loss, and the gradient of its scores [b, n], ready for `backward`."""
    labels, weights = tile.nodes.labels_of(batch.labels[images]), batch.weights[images]
    each, grad_scores = hinges(tile.scores(keep=True), labels, loss, weights / len(batch.labels))
    return each.sum(), grad_scores
