"""The ranking loss and its gradient for the categories' text features, through the tiled head and
in its memory.

Text enters the model three times: in the cosine of the score (eq. 10), in FFN_in (eq. 6), and in
ISR's choice of patches. The first two are differentiated, exactly; a choice has no gradient.
Training never needs this (text is frozen there), so it stays beside the head: tiles find it for
prompt tuning (c2srt/tune.py). On top of the tile planned come [C, D] of the sum and a part's.

Shapes: B images, P patches, C categories, D width, b images of a tile, m nodes of a part.
"""

import torch
from torch import Tensor

from c2srt.model.config import LossConfig
from c2srt.model.head import Graph, Head
from c2srt.model.parts import Part
from c2srt.model.plan import Plan
from c2srt.model.tile import Tile, empty_sums


class TextTile(Tile):
    """A tile whose `backward` also adds what the scores' own text gets to `grad_text` [C, D]; set
    it first.
    """

    grad_text: Tensor

    def score_gradient(self, part: Part, rows: Tensor, upstream: Tensor) -> Tensor:
        _, norm = self.dot_and_norm(part, rows)
        gradient = (self.config.score_scale * upstream / norm)[:, None] * rows.to(norm.dtype)
        if self.nodes.categories is None:
            self.grad_text[part.columns] += gradient.view(
                -1, part.columns.stop - part.columns.start, self.width
            ).sum(0)
        else:
            self.grad_text.index_add_(
                0, self.nodes.categories[part.images, part.columns].flatten(), gradient
            )
        return super().score_gradient(part, rows, upstream)


@torch.no_grad()
def text_gradient(
    head: Head,
    patches: Tensor,
    global_: Tensor,
    labels: Tensor,
    weights: Tensor,
    graph: Graph,
    loss: LossConfig,
    plan: Plan,
) -> tuple[Tensor, Tensor]:
    """Mean of weights × ranking loss, as `Head.forward`, and its gradient [C, D] for `graph.text`,
    whose rows are taken to be of unit length (the gradient includes their radial part).
    """
    tensors, total, direct = head.tensors(patches.dtype, plan.fold), 0, None
    sums = empty_sums(tensors, len(graph.text))
    for _, tile, value, grad_scores in head.scored_tiles(
        tensors, patches, global_, labels, weights, graph, loss, plan, TextTile
    ):
        direct = tile.grad_text = (
            torch.zeros_like(graph.text, dtype=grad_scores.dtype) if direct is None else direct
        )
        tile.backward(grad_scores, sums)
        total = total + value
    if "text" in sums:
        width = graph.text.shape[1]
        direct = direct + sums["text"] @ tensors["affine"][:, width : 2 * width].to(
            sums["text"].dtype
        )
    return total, direct
