"""The head: ISR → FFN_in → GATv2 layers → cosine scores → ranking loss, streamed in tiles.

The ranking loss is a sum over images, so in training the head runs forward *and backward* for a few images at a time
(`InlineHead`), accumulating the gradients of patch features, global features and parameters; the ViT's backward follows
once. Head memory then does not depend on the batch. Inside a tile, everything over categories goes chunk by chunk, layer
by layer, so that no chunk needs another chunk's neighbours.

Because FFN_in is affine in its first layer and pooling is linear, W_img is applied to P patch rows instead of C
category rows, and W_txt · T once per batch (both exact).

Shapes: B images, P patches, C categories, D width, H heads, K neighbours, L layers, d = D / H.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from c2srt.errors import UserError
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.isr import assignment, count_patches
from c2srt.model.ist import GatLayer, cosine_scores, with_self_loops
from c2srt.model.loss import ranking_loss
from c2srt.model.plan import Plan


@dataclass
class Graph:
    """The categories that are scored: unit text features [C, D] and neighbour table [C, K] (columns of C, −1 absent)."""

    text: Tensor
    table: Tensor

    def to(self, device: torch.device) -> "Graph":
        return Graph(self.text.to(device), self.table.to(device))

    def first(self, count: int) -> "Graph":
        """The graph of the first `count` categories (the seen ones, which hear only each other)."""
        return Graph(self.text[:count], self.table[:count])


class Head(nn.Module):
    """ISR and IST with their parameters, all direct members so that one ZeRO-3 gather brings the whole head."""

    def __init__(self, width: int, config: ModelConfig, isr_scale: float) -> None:
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
        """Xavier-uniform matrices; with init=clip the head starts as the identity on the image feature."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                for matrix in parameter.view(-1, *parameter.shape[-2:]):
                    nn.init.xavier_uniform_(matrix)
        if self.config.init == "clip":
            self.input_image.copy_(torch.eye(len(self.input_image)))
            for name in ("input_text", "output", "hidden_weight"):
                if hasattr(self, name):
                    getattr(self, name).zero_()

    def forward(self, patches: Tensor, global_: Tensor, labels: Tensor, weights: Tensor, graph: Graph, loss: LossConfig,
                plan: Plan) -> tuple[Tensor, Tensor]:
        """Mean of weights × ranking loss, and [mean patches, capped share] of the ISR: patches [B, P, D], global_ [B, D],
        labels [B, C] in −1/0/1, weights [B]."""
        tensors = self.tensors(patches.dtype)
        rows = self.text_rows(tensors, graph)
        statistics = patches.new_zeros(2, dtype=torch.float32)

        def tile_loss(tile: slice, patches: Tensor, global_: Tensor, rows: Tensor, *values: Tensor) -> Tensor:
            named = dict(zip(tensors, values))
            scores, counts = self.tile_scores(named, patches, global_, rows, graph, plan.categories)
            if counts is not None:
                statistics[0] += counts.float().mean(1).sum() / len(labels)
                statistics[1] += (counts >= self.config.max_patches).float().mean(1).sum() / len(labels)
            return (weights[tile] * ranking_loss(scores, labels[tile], loss)).sum() / len(labels)

        total = InlineHead.apply(tile_loss, plan.images, patches, global_, rows, *tensors.values())
        return total, statistics

    @torch.no_grad()
    def scores(self, patches: Tensor, global_: Tensor, graph: Graph, plan: Plan) -> tuple[Tensor, Tensor | None]:
        """Scores [B, C] in float32 or wider and the ISR's patch counts [B, C] (None without ISR)."""
        tensors = self.tensors(patches.dtype)
        rows = self.text_rows(tensors, graph)
        tiles = [self.tile_scores(tensors, patches[i : i + plan.images].to(rows.dtype), global_[i : i + plan.images].to(rows.dtype),
                                  rows, graph, plan.categories) for i in range(0, len(patches), plan.images)]
        scores, counts = zip(*tiles)
        return torch.cat(scores), torch.cat(counts) if counts[0] is not None else None

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The parameters by name in the compute type: float16 becomes float32, whose gradients do not underflow."""
        compute = torch.float32 if dtype == torch.float16 else dtype
        return {name: parameter.to(compute) for name, parameter in self.named_parameters()}

    def text_rows(self, tensors: dict[str, Tensor], graph: Graph) -> Tensor:
        """W_txt · T + bias [C, D], the part of eq. 6 that no image changes; the text itself without IST."""
        if not self.config.ist:
            return graph.text
        return F.linear(graph.text.to(tensors["input_text"].dtype), tensors["input_text"], tensors["input_bias"])

    def tile_scores(self, tensors: dict[str, Tensor], patches: Tensor, global_: Tensor, rows: Tensor, graph: Graph,
                    chunk: int) -> tuple[Tensor, Tensor | None]:
        """One tile of images, all categories, `chunk` at a time -> scores [b, C], patch counts [b, C] or None."""
        pooling = self.pool(patches, graph.text, chunk) if self.config.isr else None
        counts = count_patches(pooling) if pooling is not None else None
        if self.config.ist:
            h = self.propagate(tensors, self.node_features(tensors, pooling, patches, global_, rows), graph.table, chunk)
        elif pooling is not None:
            h = (pooling @ patches + global_[:, None]) / 2
        else:
            h = global_[:, None].expand(-1, len(graph.text), -1)
        parts = zip(h.split(chunk, 1), graph.text.split(chunk))
        return torch.cat([recomputed(cosine_scores, part, text, self.config.score_scale) for part, text in parts], 1), counts

    def pool(self, patches: Tensor, text: Tensor, chunk: int) -> Tensor:
        """The pooling matrix A [b, C, P], made `chunk` categories at a time."""
        config = self.config
        parts = [assignment(patches, part, self.isr_scale, config.threshold, config.max_patches, config.pooling == "weighted")
                 for part in text.split(chunk)]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def node_features(self, tensors: dict[str, Tensor], pooling: Tensor | None, patches: Tensor, global_: Tensor, rows: Tensor) -> Tensor:
        """h_0 [b, C, D] of eq. 6 with f_img = (f_L + f_G) / 2, or f_G without ISR."""
        image = tensors["input_image"]
        if pooling is None:
            h = F.linear(global_, image)[:, None] + rows
        else:
            h = torch.baddbmm((F.linear(global_ / 2, image)[:, None] + rows), pooling, F.linear(patches / 2, image))
        for weight, bias in zip(tensors.get("hidden_weight", ()), tensors.get("hidden_bias", ())):
            deeper = F.linear(F.gelu(h), weight, bias)
            h = h + deeper if self.config.residual else deeper
        return h

    def propagate(self, tensors: dict[str, Tensor], h: Tensor, table: Tensor, chunk: int) -> Tensor:
        """The GATv2 layers over h [b, C, D], `chunk` categories at a time."""
        table = with_self_loops(table, self.config.self_loops)
        for layer in range(self.config.layers):
            weights = [tensors[name][layer] for name in ("source", "target", "attention", "output")]
            h = GatLayer.apply(h, *weights, table, chunk, self.config.residual)
        return h


def recomputed(function: Callable[..., Tensor], *arguments: object) -> Tensor:
    """Calls `function`, saving only its inputs for the backward."""
    return checkpoint(function, *arguments, use_reentrant=False) if torch.is_grad_enabled() else function(*arguments)


class InlineHead(torch.autograd.Function):
    """Σ over image tiles of a loss, whose gradients are computed tile by tile in the forward pass.

    forward(tile_loss, tile, patches, global_, *shared): `tile_loss(slice, patches, global_, *shared)` gives one tile's scalar.
    To autograd it is one ordinary node, so every parameter's gradient hook fires once, after all tiles: that is what
    DeepSpeed's ZeRO stages rely on. Gradients of `shared` accumulate in float32 or wider.
    """

    @staticmethod
    def forward(ctx, tile_loss, tile, patches, global_, *shared):
        wanted = [tensor.requires_grad for tensor in shared]
        ctx.dtypes = [patches.dtype, global_.dtype, *(tensor.dtype for tensor in shared)]
        compute = shared[0].dtype if shared else patches.dtype
        sums = [torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32)) if w else None for t, w in zip(shared, wanted)]
        leaves = [tensor.detach().requires_grad_(want) for tensor, want in zip(shared, wanted)]
        gradients, total = ([], []), 0.0
        for start in range(0, len(patches), tile):
            part = slice(start, start + tile)
            with torch.enable_grad():
                inputs = [t[part].detach().to(compute).requires_grad_() for t in (patches, global_)]
                loss = tile_loss(part, *inputs, *leaves)
                needed = [leaf for leaf, want in zip(leaves, wanted) if want]
                found = torch.autograd.grad(loss, [*inputs, *needed], allow_unused=True)
            total = total + loss.detach()
            for kept, value, like in zip(gradients, found[:2], inputs):
                kept.append(torch.zeros_like(like) if value is None else value)
            for accumulated, value in zip([s for s in sums if s is not None], found[2:]):
                if value is not None:
                    accumulated += value
        ctx.save_for_backward(torch.cat(gradients[0]), torch.cat(gradients[1]), *[s for s in sums if s is not None])
        ctx.wanted = wanted
        return total

    @staticmethod
    def backward(ctx, upstream):
        patches, global_, *shared = ctx.saved_tensors
        remaining = iter(shared)
        found = [patches, global_, *(next(remaining) if want else None for want in ctx.wanted)]
        scaled = [None if g is None else (g * upstream.to(g.dtype)).to(dtype) for g, dtype in zip(found, ctx.dtypes)]
        return None, None, *scaled
