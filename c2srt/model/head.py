"""The head: ISR → FFN_in → GATv2 layers → cosine scores → ranking loss, streamed in tiles.

The ranking loss is a sum over images, so in training the head runs forward *and backward* for a few
images at a time, accumulating the gradients of patch features, global features and parameters; the
ViT's backward follows once. To autograd all of it is one ordinary node (`Inline`), so every
parameter's gradient hook fires once, after all tiles: that is what DeepSpeed's ZeRO stages rely on.
Head memory does not depend on the batch.

Inside a tile everything over categories goes part by part, layer by layer, so that no part needs
another part's neighbours in the same layer. FFN_in's first layer is affine and pooling is linear,
so it is applied to P patch rows instead of C category rows; without a deeper FFN_in, the first
GATv2 layer's projections go the same way (`plan.fold`; all exact).

Shapes: B images, b images of a tile, P patches, C categories, D width, H heads, K neighbours, L
layers, d = D / H.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.errors import UserError
from c2srt.model.closure import closures, dense, needed
from c2srt.model.config import HeadConfig, Init, LossConfig, Unverified
from c2srt.model.isr import softmax_dtype
from c2srt.model.ist import with_self_loops
from c2srt.model.loss import ranking_loss
from c2srt.model.parts import Buffers
from c2srt.model.plan import Plan
from c2srt.model.tile import Nodes, Tile, empty_sums, finish_sums


@dataclass
class Graph:
    """The categories that are scored: unit text features [C, D] and neighbour table [C, K] (columns
    of C, −1 absent).
    """

    text: Tensor
    table: Tensor

    def to(self, device: torch.device) -> "Graph":
        return Graph(self.text.to(device), self.table.to(device))

    def first(self, count: int) -> "Graph":
        """The graph of the first `count` categories (the seen ones, which hear only each other)."""
        return Graph(self.text[:count], self.table[:count])


class Head(nn.Module):
    """ISR and IST with their parameters, all direct members so that one ZeRO-3 gather brings the
    whole head.
    """

    def __init__(self, width: int, config: HeadConfig, isr_scale: float) -> None:
        super().__init__()
        if config.ist and width % config.heads:
            raise UserError(f"model.heads={config.heads} does not divide the joint width {width}")
        self.config, self.isr_scale = config, config.isr_scale or isr_scale
        if not config.ist:
            return
        layers, heads, deeper = config.layers, config.heads, config.input_layers - 1
        self.input_image = nn.Parameter(torch.empty(width, width))
        self.input_text = nn.Parameter(torch.empty(width, width))
        self.input_bias = nn.Parameter(torch.zeros(width))
        if deeper:
            self.hidden_weight = nn.Parameter(torch.empty(deeper, width, width))
            self.hidden_bias = nn.Parameter(torch.zeros(deeper, width))
        self.source = nn.Parameter(torch.empty(layers, width, width))
        self.target = nn.Parameter(torch.empty(layers, width, width))
        self.attention = nn.Parameter(torch.empty(layers, heads, width // heads))
        self.output = nn.Parameter(torch.empty(layers, heads, width // heads, width // heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Xavier-uniform matrices; with init=clip the head starts as the identity on the image
        feature.
        """
        for parameter in self.parameters():
            if parameter.dim() > 1:
                for matrix in parameter.view(-1, *parameter.shape[-2:]):
                    nn.init.xavier_uniform_(matrix)
        if self.config.init == Init.CLIP:
            self.input_image.copy_(torch.eye(len(self.input_image)))
            for name in ("input_text", "output", "hidden_weight"):
                if hasattr(self, name):
                    getattr(self, name).zero_()

    def forward(
        self,
        patches: Tensor,
        global_: Tensor,
        labels: Tensor,
        weights: Tensor,
        graph: Graph,
        loss: LossConfig,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        """Mean of weights × ranking loss, and [mean patches, capped share] of the ISR: patches [B,
        P, D], global_ [B, D], labels [B, C] in −1/0/1, weights [B]. Features that are not finite
        give a loss of NaN, which the training loop leaves out.
        """
        if not len(patches):
            raise UserError("the head was given no image: a batch needs at least one")
        if labels.shape != (len(patches), len(graph.text)):
            raise UserError(
                f"the labels are {tuple(labels.shape)}, not {len(patches)} images ×"
                f" {len(graph.text)} categories"
            )
        tensors, statistics = (
            self.tensors(patches.dtype, plan.fold),
            patches.new_zeros(3, dtype=torch.float32),
        )

        def compute(
            patches: Tensor, global_: Tensor, *values: Tensor
        ) -> tuple[Tensor, list[Tensor]]:
            return self.gradients(
                dict(zip(tensors, values, strict=True)),
                patches,
                global_,
                labels,
                weights,
                graph,
                loss,
                plan,
                statistics,
            )

        total = Inline.apply(compute, patches, global_, *tensors.values())
        return total, statistics[:2] / statistics[2].clamp(min=1)

    def gradients(
        self,
        tensors: dict[str, Tensor],
        patches: Tensor,
        global_: Tensor,
        labels: Tensor,
        weights: Tensor,
        graph: Graph,
        loss: LossConfig,
        plan: Plan,
        statistics: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss, and its gradients for patches, global_ and every one of `tensors`, tile by
        tile.
        """
        compute = self.compute_dtype(patches.dtype)
        if not (patches.isfinite().all() and global_.isfinite().all()):
            return not_a_number(compute, patches, global_, *tensors.values())
        total = torch.zeros((), dtype=softmax_dtype(compute), device=patches.device)
        found = [torch.zeros_like(patches, dtype=compute), torch.zeros_like(global_, dtype=compute)]
        sums = empty_sums(tensors, len(graph.text))
        for images, tile, value, grad_scores in self.scored_tiles(
            tensors, patches, global_, labels, weights, graph, loss, plan
        ):
            total += value
            tile.count(statistics)
            found[0][images], found[1][images] = tile.backward(grad_scores, sums)
        return total, [*found, *finish_sums(tensors, sums, graph.text)]

    def scored_tiles(
        self,
        tensors: dict[str, Tensor],
        patches: Tensor,
        global_: Tensor,
        labels: Tensor,
        weights: Tensor,
        graph: Graph,
        loss: LossConfig,
        plan: Plan,
        kind: type[Tile] = Tile,
    ) -> Iterator[tuple[Tensor, Tile, Tensor, Tensor]]:
        """(images, their tile, its share of the loss, the gradient of its scores), tile after tile,
        each ready for `backward`.
        """
        compute, buffers = self.compute_dtype(patches.dtype), Buffers()
        for images, nodes in self.tiles(graph, labels, loss, plan, tensors):
            tile = kind(
                self.config,
                self.isr_scale,
                tensors,
                nodes,
                patches[images].to(compute),
                global_[images].to(compute),
                plan.categories,
                buffers,
            )
            scores = tile.scores(keep=True).requires_grad_()
            with torch.enable_grad():
                each = ranking_loss(scores, nodes.labels_of(labels[images]), loss)
                value = (weights[images] * each).sum() / len(labels)
                (grad_scores,) = torch.autograd.grad(value, scores)
            yield images, tile, value.detach(), grad_scores

    def tiles(
        self, graph: Graph, labels: Tensor, loss: LossConfig, plan: Plan, tensors: dict[str, Tensor]
    ) -> Iterator[tuple[Tensor, Nodes]]:
        """(images of the batch, their nodes), tile after tile: everything, or what the verified
        categories need.
        """
        table, rows = (
            with_self_loops(graph.table, self.config.self_loops),
            self.text_rows(tensors, graph),
        )
        everyone = list(range(len(labels)))
        if loss.unverified == Unverified.IGNORE:
            mask = needed(labels, table, self.config.layers if self.config.ist else 0)
            for closure in closures(mask, table, plan.images * len(table)):
                yield closure.images, Nodes.some(graph.text, rows, closure)
            everyone = dense(mask)
        yield from whole_tiles(
            torch.tensor(everyone, dtype=torch.long, device=labels.device),
            graph.text,
            rows,
            table,
            plan.images,
        )

    @torch.no_grad()
    def scores(
        self, patches: Tensor, global_: Tensor, graph: Graph, plan: Plan
    ) -> tuple[Tensor, Tensor | None]:
        """Scores [B, C] in float32 or wider and the ISR's patch counts [B, C] (None without
        ISR).
        """
        tensors, table = (
            self.tensors(patches.dtype, plan.fold),
            with_self_loops(graph.table, self.config.self_loops),
        )
        compute, rows, buffers, found = (
            self.compute_dtype(patches.dtype),
            self.text_rows(tensors, graph),
            Buffers(),
            [],
        )
        for images, nodes in whole_tiles(
            torch.arange(patches.shape[0], device=patches.device),
            graph.text,
            rows,
            table,
            plan.images,
        ):
            tile = Tile(
                self.config,
                self.isr_scale,
                tensors,
                nodes,
                patches[images].to(compute),
                global_[images].to(compute),
                plan.categories,
                buffers,
            )
            found.append((tile.scores(keep=False), tile.patch_counts()))
        scores, counts = zip(*found, strict=True)
        return torch.cat(scores), torch.cat(counts) if self.config.isr else None

    def compute_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """float16 is computed in float32, whose gradients do not underflow."""
        return torch.float32 if dtype == torch.float16 else dtype

    def tensors(self, dtype: torch.dtype, fold: bool) -> dict[str, Tensor]:
        """What the tiles compute with, by name, in the compute type; FFN_in's first layer and what
        is folded into it become one map `affine` [E, 2 D + 1] of image feature, text feature and 1.
        """
        compute = self.compute_dtype(dtype)
        if not self.config.ist:
            return {}
        wide = softmax_dtype(compute)
        affine = torch.cat([self.input_image, self.input_text, self.input_bias[:, None]], 1).to(
            wide
        )
        if fold:
            affine = torch.cat(
                [affine, self.target[0].to(wide) @ affine, self.source[0].to(wide) @ affine]
            )
        others = {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("input_")
        }
        return {
            "affine": affine.to(compute),
            **{name: parameter.to(compute) for name, parameter in others.items()},
        }

    def text_rows(self, tensors: dict[str, Tensor], graph: Graph) -> Tensor | None:
        """What `affine` makes of the categories' text [C, E], the part that no image changes; None
        without IST.
        """
        if not self.config.ist:
            return None
        affine, width = tensors["affine"], graph.text.shape[1]
        return F.linear(
            graph.text.to(affine.dtype), affine[:, width : 2 * width], affine[:, 2 * width]
        )


def whole_tiles(
    images: Tensor, text: Tensor, rows: Tensor | None, table: Tensor, size: int
) -> Iterator[tuple[Tensor, Nodes]]:
    """Tiles of `size` images with every category; those of one size share what follows from the
    table.
    """
    nodes, many = (
        None,
        images.shape[0],
    )  # not len(): a program traced for any number of images would keep this one
    for part in (images,) if torch.compiler.is_exporting() else images.split(size) if many else ():
        if nodes is None or nodes.images != part.shape[0]:
            nodes = Nodes.all(text, rows, table, part.shape[0])
        yield part, nodes


def not_a_number(dtype: torch.dtype, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """NaN as the loss and as all of its gradients."""
    value = torch.full((), float("nan"), dtype=softmax_dtype(dtype), device=inputs[0].device)
    return value, [torch.full_like(tensor, float("nan")) for tensor in inputs]


class Inline(torch.autograd.Function):
    """A scalar whose gradients are computed together with it: apply(compute, *inputs),
    compute(*inputs) -> (value, gradients).
    """

    @staticmethod
    def forward(ctx, compute, *inputs):
        ctx.dtypes = [tensor.dtype for tensor in inputs]
        value, gradients = compute(*inputs)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    def backward(ctx, upstream):
        return None, *[
            (gradient * upstream.to(gradient.dtype)).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
