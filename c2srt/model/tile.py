"""One tile of images through the head, forward and backward.

Shapes: b images, n categories an image, N = b · n nodes, P patches, C categories, D width, E
columns of the folded affine map (D, or 3 D), K neighbours (self-loop included).
"""

from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from c2srt.model import kernels
from c2srt.model.chunks import Buffers, Chunk, cut
from c2srt.model.config import HeadConfig, Pooling
from c2srt.model.isr import assignment, check_pooling, count_patches, softmax_dtype
from c2srt.model.ist import (
    DenseInputs,
    Layer,
    LayerInputs,
    Output,
    Table,
    Transfer,
    Upstream,
    add_product,
)
from c2srt.model.pool import Pooled, PooledInputs
from c2srt.model.subgraph import Subgraphs

HIDDEN_NAMES = ("hidden_weight", "hidden_bias")
LAYER_NAMES = ("source", "target", "attention", "output")
CHECKED = 16
"""Rows of A that are looked at, once a graph."""


@dataclass
class Nodes:
    """The categories that a tile computes: unit text [1 or b, n, D], affine rows [1 or b, n, E]
    (None without IST), in-neighbours over the N nodes, and for k-hop subgraphs the categories [b,
    n] and which of the places hold one.
    """

    images: int
    text: Tensor
    rows: Tensor | None
    table: Table
    categories: Tensor | None = None
    present: Tensor | None = None

    @staticmethod
    def all(text: Tensor, rows: Tensor | None, table: Table, images: int) -> "Nodes":
        """Every category for each of `images` images."""
        return Nodes(images, text[None], None if rows is None else rows[None], table)

    @staticmethod
    def some(text: Tensor, rows: Tensor | None, found: Subgraphs) -> "Nodes":
        """What one image needs differs from what the next one needs."""
        return Nodes(
            len(found.images),
            text[found.categories],
            None if rows is None else rows[found.categories],
            Table(offset(found.table)),
            found.categories,
            found.present,
        )

    def labels_of(self, labels: Tensor) -> Tensor:
        """[b, C] -> [b, n]; a place without a category is not verified."""
        if self.categories is None or self.present is None:
            return labels
        return labels.gather(1, self.categories) * self.present


def offset(table: Tensor) -> Tensor:
    """Places of an image [b, n, K] -> nodes of the tile [b · n, K]."""
    images = table.shape[0]
    if not torch.compiler.is_exporting() and images == 1:
        return table[0]
    first = torch.arange(images, device=table.device)[:, None, None] * table.shape[1]
    return torch.where(table >= 0, table + first, -1).flatten(0, 1)


@dataclass(frozen=True)
class Shared:
    """What the tiles of a pass share: settings, logit scale of the ISR, parameters by name and what
    is folded into them (`Head.tensors`), most categories of a chunk, and the buffers, which are one
    tile's at a time.
    """

    config: HeadConfig
    isr_scale: float
    tensors: dict[str, Tensor]
    folded: Tensor | None
    largest: int
    buffers: Buffers = field(default_factory=Buffers)


class Tile:
    """patches [b, P, D] and global_ [b, D] of a tile's images, in the compute type. `scores` first,
    then `patch_counts` and `backward`, all before another tile of the same `Shared` is made: that
    one overwrites what this one kept. What they return is the caller's.
    """

    def __init__(self, shared: Shared, nodes: Nodes, patches: Tensor, global_: Tensor) -> None:
        self.config, self.isr_scale, self.tensors = shared.config, shared.isr_scale, shared.tensors
        self.buffers, self.turn = shared.buffers, shared.buffers.begin()
        self.nodes, self.patches, self.global_ = nodes, patches, global_
        self.width = patches.shape[2]
        self.chunks = cut(nodes.images, nodes.text.shape[1], shared.largest)
        self.features = self.pooled_features()
        values, affine = self.features, self.tensors.get("affine")
        values = values if affine is None else F.linear(values, affine[:, : self.width])
        self.pooled = Pooled(self.pooling(), values, nodes.rows, nodes.categories)

    def check(self) -> None:
        """Raises AssertionError unless what the tile pools by is a mean."""
        if not torch.compiler.is_exporting():
            check_pooling(self.pooled.pooling[0, :CHECKED])

    def pooled_features(self) -> Tensor:
        """What A is applied to [b, P or 1, D]: (F + f_G) / 2, or without ISR f_G."""
        if self.config.isr:
            return self.patches.lerp(self.global_[:, None], 0.5)
        return self.global_[:, None]

    def pooling(self) -> Tensor:
        """A [b, n, P]; without ISR there is one row to pool, the global feature."""
        shape, config = (self.nodes.images, self.nodes.text.shape[1]), self.config
        if not config.isr:
            return self.patches.new_ones(*shape, 1)
        text = self.nodes.text.to(self.patches.dtype)
        if len(self.chunks) == 1:
            return self.assigned(self.chunks[0], text)
        pooling = self.buffers.take("pooling", (*shape, self.patches.shape[1]), self.patches)
        for chunk in self.chunks:
            pooling[chunk.images, chunk.columns] = self.assigned(chunk, text)
        return pooling

    def assigned(self, chunk: Chunk, text: Tensor) -> Tensor:
        """A's rows of a chunk [b', c, P], given the nodes' text [1 or b, n, D]."""
        return assignment(
            self.patches[chunk.images],
            self.of_chunk(text, chunk),
            self.isr_scale,
            self.config.enough,
            self.config.max_patches,
            self.config.pooling == Pooling.WEIGHTED,
        )

    def text(self, chunk: Chunk) -> Tensor:
        """The unit text of a chunk's nodes [b', c, D], in the type of the scores; nothing is copied
        for each image.
        """
        return self.of_chunk(self.unit_text, chunk)

    @cached_property
    def unit_text(self) -> Tensor:
        """[1 or b, n, D]; the kernels widen their rows themselves."""
        return self.nodes.text.to(softmax_dtype(self.patches.dtype))

    def of_chunk(self, text: Tensor, chunk: Chunk) -> Tensor:
        """The rows [b', c, D] of text [1 or b, n, D] that belong to a chunk's nodes."""
        return text.expand(self.nodes.images, -1, -1)[chunk.images, chunk.columns]

    def scores(self, keep: bool) -> Tensor:
        """[b, n] in float32 or wider; `keep` leaves everything for `backward`."""
        nodes = self.nodes.images * self.nodes.text.shape[1]
        self.scored = self.patches.new_empty(nodes, dtype=softmax_dtype(self.patches.dtype))
        self.steps: list[Transfer] = []
        if not self.config.ist:
            for chunk in self.chunks:
                self.score(chunk, self.pooled.rows(chunk))
            return self.scored.view(self.nodes.images, -1)
        inputs = self.entrance()
        for number in range(self.config.layers):
            last = number == self.config.layers - 1
            step = Transfer(
                number,
                self.layer(number),
                inputs,
                self.nodes.table,
                self.chunks,
                self.config.residual,
                self.buffers,
            )
            rows = None if last else self.rows("rows", number + 1)
            step.forward(self.finish if rows is None else partial(write_rows, rows))
            if keep:
                self.steps.append(step)
            if rows is not None:
                inputs = self.dense_inputs(rows, number + 1)
        return self.scored.view(self.nodes.images, -1)

    def entrance(self) -> LayerInputs:
        """What the first layer reads: the pool itself when the layer's projections are folded into
        it.
        """
        if self.folded:
            return PooledInputs(self.pooled, self.chunks)
        rows = self.rows("rows", 0)
        for chunk in self.chunks:
            rows[chunk.flat] = deeper(self.pooled.rows(chunk), self.hidden(), self.config.residual)
        return self.dense_inputs(rows, 0)

    def dense_inputs(self, rows: Tensor, number: int) -> DenseInputs:
        return DenseInputs(
            rows, self.layer(number), self.rows("targets", number), self.rows("gradient", number)
        )

    def rows(self, name: str, number: int) -> Tensor:
        """A buffer [N, D] for the input of layer `number`."""
        return self.buffers.take(
            f"{name} {number}",
            (self.nodes.images * self.nodes.text.shape[1], self.width),
            self.patches,
        )

    @property
    def folded(self) -> bool:
        return self.pooled.values.shape[2] == 3 * self.width

    def hidden(self) -> list[Tensor]:
        """Weights and biases of FFN_in's further layers; empty if there are none."""
        return [self.tensors[name] for name in HIDDEN_NAMES if name in self.tensors]

    def layer(self, number: int) -> Layer:
        return Layer(*[self.tensors[name][number] for name in LAYER_NAMES])

    def finish(self, output: Output) -> None:
        """The scores of the last layer's x'."""
        chunk = output.chunk
        if self.scores_fused(output):
            self.scored[chunk.flat] = kernels.scores(
                output.mixed,
                output.rows,
                self.of_chunk(self.nodes.text, chunk),
                self.config.score_scale,
            )
        else:
            self.score(chunk, output.values())

    def finish_backward(self, grad_scores: Tensor, output: Output) -> tuple[Tensor | None, Tensor]:
        """As `Output.backward`, given the gradient [N] of the scores."""
        upstream = grad_scores[output.chunk.flat]
        if not self.scores_fused(output):
            return output.backward(self.score_gradient(output.chunk, output.values(), upstream))
        text = self.of_chunk(self.nodes.text, output.chunk)
        return kernels.scores_backward(
            upstream, output.mixed, output.rows, text, self.config.score_scale
        )

    def scores_fused(self, output: Output) -> bool:
        """Whether the GPU's kernel can take the scores."""
        return kernels.supports_scores(output.mixed)

    def score(self, chunk: Chunk, rows: Tensor) -> None:
        """Eq. 10 times the score scale, for rows [m, D] of a chunk."""
        dot, norm = self.dot_and_norm(chunk, rows)
        self.scored[chunk.flat] = self.config.score_scale * dot / norm

    def dot_and_norm(self, chunk: Chunk, rows: Tensor) -> tuple[Tensor, Tensor]:
        """h · t and |h| [m] in float32 or wider."""
        text, rows = self.text(chunk), rows.to(self.scored.dtype)
        dot = (rows.view_as(text) * text).sum(-1).flatten()
        return dot, (rows * rows).sum(-1).sqrt_().clamp_(min=1e-12)

    def score_gradient(self, chunk: Chunk, rows: Tensor, upstream: Tensor) -> Tensor:
        """The gradient [m, D] of rows, given that of their scores [m]."""
        dot, norm = self.dot_and_norm(chunk, rows)
        factor, text = (self.config.score_scale * upstream / norm)[:, None], self.text(chunk)
        gradient = (factor.view(*text.shape[:2], 1) * text).view(rows.shape)
        gradient.addcmul_(-factor * (dot / norm**2)[:, None], rows.to(norm.dtype))
        return gradient.to(rows.dtype)

    def backward(self, grad_scores: Tensor, sums: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Gradients of patches [b, P, D] and global_ [b, D] from that of the scores [b, n]; adds
        the parameters' to `sums`.
        """
        self.buffers.check(self.turn)
        self.pooled.begin_backward(sums.get("text"))
        grad_scores, gradient = grad_scores.flatten(), None
        upstream: Upstream = partial(self.finish_backward, grad_scores)
        for number in reversed(range(len(self.steps))):
            step = self.steps.pop()
            step.backward(upstream, Layer(*[sums[name][number] for name in LAYER_NAMES]))
            gradient = step.inputs.gradient
            if gradient is not None:
                upstream = partial(inner_backward, gradient)
        if not self.folded:
            for chunk in self.chunks:
                given = (
                    self.score_gradient(chunk, self.pooled.rows(chunk), grad_scores[chunk.flat])
                    if gradient is None
                    else gradient[chunk.flat]
                )
                self.entrance_backward(chunk, given, sums)
        return self.feature_gradients(sums)

    def entrance_backward(self, chunk: Chunk, gradient: Tensor, sums: dict[str, Tensor]) -> None:
        if "hidden_weight" in self.tensors:
            leaves = [
                leaf.detach().requires_grad_() for leaf in (self.pooled.rows(chunk), *self.hidden())
            ]
            with torch.enable_grad():
                gradient, *found = torch.autograd.grad(
                    deeper(leaves[0], leaves[1:], self.config.residual), leaves, gradient
                )
            for name, value in zip(HIDDEN_NAMES, found, strict=True):
                sums[name] += value
        self.pooled.add(chunk, gradient)

    def feature_gradients(self, sums: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """From the pooled rows' gradient [b, P, E] to the features' and to the image columns of
        `affine`.
        """
        grad, affine = self.pooled.grad_values, self.tensors.get("affine")
        if affine is not None:
            rows = self.features.flatten(0, 1)
            add_product(sums["affine"][:, : self.width], grad.flatten(0, 1).T, rows)
            grad = grad @ affine[:, : self.width]
        if not self.config.isr:
            return torch.zeros_like(self.patches), grad[:, 0]
        grad = grad / 2
        return grad, grad.sum(1)

    def statistics(self) -> Tensor:
        """[Σ mean patches, Σ capped share] over the images of the tile; 0 without ISR."""
        counts, present = self.patch_counts(), self.nodes.present
        if counts is None:
            return self.scored.new_zeros(2)
        both = torch.stack([counts, counts >= self.config.max_patches])
        if present is None:
            return both.sum((1, 2)) / counts.shape[1]
        return ((both * present).sum(2) / present.sum(1)).sum(1)

    def patch_counts(self) -> Tensor | None:
        """n [b, n] of the ISR, None without it."""
        self.buffers.check(self.turn)
        return count_patches(self.pooled.pooling) if self.config.isr else None


def write_rows(rows: Tensor, output: Output) -> None:
    rows[output.chunk.flat] = output.values()


def inner_backward(gradient: Tensor, output: Output) -> tuple[Tensor | None, Tensor]:
    """What a layer that is not the last gives back, given the gradient [N, D] of all its x'."""
    return output.backward(gradient[output.chunk.flat])


def deeper(h: Tensor, hidden: list[Tensor], residual: bool) -> Tensor:
    """The layers of FFN_in after the first, on rows [m, D]; `hidden` holds their weights and their
    biases, or nothing.
    """
    for weight, bias in zip(*hidden, strict=True):
        further = F.linear(F.gelu(h), weight, bias)
        h = h + further if residual else further
    return h
