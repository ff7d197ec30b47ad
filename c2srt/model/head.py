"""The head: ISR → FFN_in → GATv2 layers → cosine scores → ranking loss, streamed in tiles.

The ranking loss is a sum over images, so in training the head runs forward *and backward* for a few
images at a time, accumulating the gradients of patch features, global features and parameters; the
ViT's backward follows once. To autograd all of it is one ordinary node (`Inline`), so every
parameter's gradient hook fires once, after all tiles: that is what DeepSpeed's ZeRO stages rely on.
Head memory does not depend on the batch.

Inside a tile everything over categories goes chunk by chunk, layer by layer, so that no chunk needs
another chunk's neighbours in the same layer. FFN_in's first layer is affine and pooling is linear,
so it is applied to P patch rows instead of C category rows; without a deeper FFN_in, the first
GATv2 layer's projections go the same way (`tiling.fold`; all exact).

Shapes: B images, b images of a tile, P patches, C categories, D width, H heads, K neighbours, L
layers, d = D / H.
"""

from typing import Any

import torch
from torch import Tensor, nn

from c2srt.errors import UserError
from c2srt.model.config import HeadConfig, Init, LossConfig
from c2srt.model.graph import Graph
from c2srt.model.isr import compute_dtype, softmax_dtype
from c2srt.model.sums import ALL, of_parameters, split
from c2srt.model.tile import Shared
from c2srt.model.tiled import MicroBatch, TiledHead
from c2srt.model.tiling import Tiling


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
        tiling: Tiling,
    ) -> tuple[Tensor, Tensor]:
        """Mean of weights × ranking loss, and [mean patches, capped share] of the ISR: patches [B,
        P, D], global_ [B, D], labels [B, C] in −1/0/1, weights [B]. Features that are not finite
        give a loss of NaN, which the training loop leaves out.

        Tensors are arguments of their own, since ZeRO-3 looks for them there.
        """
        if not len(patches):
            raise UserError("the head was given no image: a batch needs at least one")
        if labels.shape != (len(patches), len(graph.text)):
            raise UserError(
                f"the labels are {tuple(labels.shape)}, not {len(patches)} images ×"
                f" {len(graph.text)} categories"
            )
        return Inline.apply(
            self, (labels, weights, graph, loss, tiling), patches, global_, *self.parameters()
        )

    @torch.no_grad()
    def scores(
        self, patches: Tensor, global_: Tensor, graph: Graph, tiling: Tiling
    ) -> tuple[Tensor, Tensor | None]:
        """Scores [B, C] in float32 or wider and the ISR's patch counts [B, C] (None without
        ISR).
        """
        return TiledHead(self.shared(patches.dtype, tiling), graph, tiling).scores(patches, global_)

    def shared(self, dtype: torch.dtype, tiling: Tiling) -> Shared:
        """What the tiles of one pass share, for features of a type."""
        tensors, folded = self.tensors(dtype, tiling.fold)
        return Shared(self.config, self.isr_scale, tensors, folded, tiling.categories)

    def tensors(self, dtype: torch.dtype, fold: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """What the tiles compute with, by name, in the compute type; FFN_in's first layer and what
        is folded into it become one map `affine` [E, 2 D + 1] of image feature, text feature and 1.
        And what is folded, in float32 or wider: the first layer's projections [2 D, D], target's
        and source's, or None.
        """
        compute, folded = compute_dtype(dtype), None
        if not self.config.ist:
            return {}, None
        wide = softmax_dtype(compute)
        affine = torch.cat([self.input_image, self.input_text, self.input_bias[:, None]], 1).to(
            wide
        )
        if fold:
            folded = torch.cat([self.target[0], self.source[0]]).to(wide)
            affine = torch.cat([affine, folded @ affine])
        others = {
            name: parameter.to(compute)
            for name, parameter in self.named_parameters()
            if not name.startswith("input_")
        }
        return {"affine": affine.to(compute), **others}, folded


class Inline(torch.autograd.Function):
    """The ranking loss of a pass, whose gradients are computed together with it: apply(head,
    the other arguments of `Head.forward`, patches, global_, *parameters) -> (loss, statistics).
    """

    @staticmethod
    def forward(
        ctx: Any, head: Head, others: tuple, patches: Tensor, global_: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        labels, weights, graph, loss, tiling = others
        tiled = TiledHead(head.shared(patches.dtype, tiling), graph, tiling)
        batch = MicroBatch(patches, global_, labels, weights)
        value, statistics, found, sums = tiled.gradients(batch, loss)
        ctx.shapes = {name: tensor.shape for name, tensor in tiled.shared.tensors.items()}
        ctx.names = [name for name, _ in head.named_parameters()]
        ctx.dtypes = [one.dtype for one in (patches, global_, *parameters[:1])]
        found += [sums[ALL]] if parameters else []
        ctx.save_for_backward(value, *found)
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        return value, statistics

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        value, *gradients = ctx.saved_tensors
        factor = upstream.add(value, alpha=0)  # NaN, and so each gradient, if the loss is
        patches, global_, *parameters = (
            torch.mul(one, factor, out=torch.empty_like(one, dtype=to))
            for one, to in zip(gradients, ctx.dtypes, strict=True)
        )
        if not parameters:
            return None, None, patches, global_
        by_name = of_parameters(split(parameters[0], ctx.shapes), global_.shape[1])
        return None, None, patches, global_, *(by_name[name] for name in ctx.names)
