"""The ranking loss and its gradient for the categories' text features, through the tiled head and
in its memory.

Text enters the model three times: in the cosine of the score (eq. 10), in FFN_in (eq. 6), and in
ISR's choice of patches. The first two are differentiated, exactly; a choice has no gradient.
Training never needs this (text is frozen there), so it stays beside the head: tiles find it for
prompt tuning (c2srt/tune.py). On top of the tiling's bytes come [C, D] of the sum and a chunk's.

Shapes: B images, P patches, C categories, D width, b images of a tile, m nodes of a chunk.
"""

import torch
from torch import Tensor

from c2srt.model.chunks import Chunk
from c2srt.model.config import LossConfig
from c2srt.model.graph import Graph
from c2srt.model.head import Head
from c2srt.model.ist import Output
from c2srt.model.sums import empty_sums
from c2srt.model.tile import Tile
from c2srt.model.tiled import MicroBatch, TiledHead, ranking_of
from c2srt.model.tiling import Tiling

SCORED = "text as scored"


class TextTile(Tile):
    """A tile whose `backward` also adds what the scores' own text gets to sums[SCORED] [C, D]."""

    def backward(self, grad_scores: Tensor, sums: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.grad_text = sums[SCORED]
        return super().backward(grad_scores, sums)

    def scores_fused(self, output: Output) -> bool:
        """The kernel gives no gradient for the text."""
        return False

    def score_gradient(self, chunk: Chunk, rows: Tensor, upstream: Tensor) -> Tensor:
        _, norm = self.dot_and_norm(chunk, rows)
        gradient = (self.config.score_scale * upstream / norm)[:, None] * rows.to(norm.dtype)
        if self.nodes.categories is None:
            self.grad_text[chunk.columns] += gradient.view(
                -1, chunk.columns.stop - chunk.columns.start, self.width
            ).sum(0)
        else:
            columns = self.nodes.categories[chunk.images, chunk.columns].flatten()
            self.grad_text.index_add_(0, columns, gradient)
        return super().score_gradient(chunk, rows, upstream)


@torch.no_grad()
def text_gradient(
    head: Head,
    patches: Tensor,
    global_: Tensor,
    labels: Tensor,
    weights: Tensor,
    graph: Graph,
    loss: LossConfig,
    tiling: Tiling,
) -> tuple[Tensor, Tensor]:
    """Mean of weights × ranking loss, as `Head.forward`, and its gradient [C, D] for `graph.text`,
    whose rows are taken to be of unit length (the gradient includes their radial part).
    """
    tiled = TiledHead(head.shared(patches.dtype, tiling), graph, tiling, TextTile)
    batch, tensors = MicroBatch(patches, global_, labels, weights), tiled.shared.tensors
    total, sums = tiled.zero(batch), empty_sums(tensors, len(graph.text))
    sums[SCORED] = torch.zeros_like(graph.text, dtype=total.dtype)
    for images, nodes in tiled.tiles(labels, loss):
        tile = tiled.tile(images, nodes, patches, global_)
        value, grad_scores = ranking_of(tile, images, batch, loss)
        tile.backward(grad_scores, sums)
        total += value
    if "text" not in sums:
        return total, sums[SCORED]
    width, wide = graph.text.shape[1], sums["text"].dtype
    of_text = tensors["affine"][:, width : 2 * width].to(wide)
    return total, sums[SCORED] + sums["text"] @ of_text
