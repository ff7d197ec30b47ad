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
from c2srt.model.ist import with_self_loops
from c2srt.model.loss import ranking_loss
from c2srt.model.subgraph import dense, k_hop, subgraph_tiles
from c2srt.model.tile import Nodes, Shared, Tile, empty_sums, finish_sums
from c2srt.model.tiling import Tiling


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
        self.table = with_self_loops(graph.table, shared.config.self_loops)

    def gradients(self, batch: MicroBatch, loss: LossConfig) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The mean of weights × ranking loss, the ISR's [Σ mean patches, Σ capped share, images],
        and the loss's gradients for patches, global_ and every one of `shared.tensors`.

        Features that are not finite give a loss and gradients of NaN.
        """
        leaves = [batch.patches, batch.global_, *self.shared.tensors.values()]
        total, statistics = self.zero(batch), batch.patches.new_zeros(3, dtype=torch.float32)
        if not (batch.patches.isfinite().all() and batch.global_.isfinite().all()):
            nan = float("nan")
            return total + nan, statistics, [torch.full_like(leaf, nan) for leaf in leaves]
        compute = compute_dtype(batch.patches.dtype)
        found = [torch.zeros_like(leaf, dtype=compute) for leaf in leaves[:2]]
        sums = empty_sums(self.shared.tensors, len(self.graph.text))
        for images, nodes in self.tiles(batch.labels, loss):
            tile = self.tile(images, nodes, batch.patches, batch.global_)
            value, grad_scores = ranking_of(tile, images, batch, loss)
            total += value
            tile.count(statistics)
            found[0][images], found[1][images] = tile.backward(grad_scores, sums)
        gradients = finish_sums(self.shared.tensors, sums, self.graph.text)
        return total, statistics, [*found, *gradients]

    def scores(self, patches: Tensor, global_: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores [B, C] in float32 or wider of patches [B, P, D] and global_ [B, D], and the ISR's
        patch counts [B, C] (None without ISR).
        """
        scores, counts = [], []
        everyone = torch.arange(patches.shape[0], device=patches.device)
        for images, nodes in self.whole_tiles(everyone):
            tile = self.tile(images, nodes, patches, global_)
            scores.append(tile.scores(keep=False))
            counts.append(tile.patch_counts())
        known = [count for count in counts if count is not None]
        return torch.cat(scores), torch.cat(known) if known else None

    def tile(self, images: Tensor, nodes: Nodes, patches: Tensor, global_: Tensor) -> Tile:
        """The next tile; the one before must have been used up."""
        compute = compute_dtype(patches.dtype)
        return self.kind(
            self.shared, nodes, patches[images].to(compute), global_[images].to(compute)
        )

    def zero(self, batch: MicroBatch) -> Tensor:
        """A loss of 0, in float32 or wider."""
        wide = softmax_dtype(compute_dtype(batch.patches.dtype))
        return torch.zeros((), dtype=wide, device=batch.patches.device)

    def tiles(self, labels: Tensor, loss: LossConfig) -> Iterator[tuple[Tensor, Nodes]]:
        """(images of the batch, their nodes), tile after tile: everything, or what the verified
        categories need.
        """
        everyone, config = list(range(len(labels))), self.shared.config
        if loss.unverified == Unverified.IGNORE:
            mask = k_hop(labels, self.table, config.layers if config.ist else 0)
            for found in subgraph_tiles(mask, self.table, self.tiling.images * len(self.table)):
                yield found.images, Nodes.some(self.graph.text, self.rows, found)
            everyone = dense(mask)
        yield from self.whole_tiles(torch.tensor(everyone, dtype=torch.long, device=labels.device))

    def whole_tiles(self, images: Tensor) -> Iterator[tuple[Tensor, Nodes]]:
        """Tiles with every category; those of one size share what follows from the table."""
        nodes, many = None, images.shape[0]  # not len(): a traced program would keep this number
        whole = torch.compiler.is_exporting()
        for some in (images,) if whole else images.split(self.tiling.images) if many else ():
            if nodes is None or nodes.images != some.shape[0]:
                nodes = Nodes.all(self.graph.text, self.rows, self.table, some.shape[0])
            yield some, nodes

    @cached_property
    def rows(self) -> Tensor | None:
        """What `affine` makes of the categories' text [C, E], the part that no image changes; None
        without IST.
        """
        if not self.shared.config.ist:
            return None
        affine, width = self.shared.tensors["affine"], self.graph.text.shape[1]
        of_text, bias = affine[:, width : 2 * width], affine[:, 2 * width]
        return F.linear(self.graph.text.to(affine.dtype), of_text, bias)


def ranking_of(
    tile: Tile, images: Tensor, batch: MicroBatch, loss: LossConfig
) -> tuple[Tensor, Tensor]:
    """A tile's share of the loss, and the gradient of its scores [b, n], ready for `backward`."""
    labels = tile.nodes.labels_of(batch.labels[images])
    scores = tile.scores(keep=True).requires_grad_()
    with torch.enable_grad():
        each = ranking_loss(scores, labels, loss)
        value = (batch.weights[images] * each).sum() / len(batch.labels)
        (grad_scores,) = torch.autograd.grad(value, scores)
    return value.detach(), grad_scores
