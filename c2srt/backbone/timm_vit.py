"""timm's ViTs, through open_clip, as image towers: SigLIP, EVA, Perception Encoder, ViTamin, …

The pooled token is the class token, the mean over the patches, or what a learned query reads of all
tokens (attention pooling, an MLP behind it); then follow a norm (where it stands behind the pool)
and a linear projection, or neither. A patch passes what the pooled token passes, so that both are
in the joint space. Of attention pooling that is the pool of the patch's token alone: attention over
one token is its value, which is how MaskCLIP (Zhou et al. 2022) makes dense features of CLIP's
attention-pooled ResNets. Shapes as in protocol.py.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from c2srt.backbone import library
from c2srt.backbone.protocol import BlockByBlock, TowerSizes
from c2srt.backbone.tower import BlockTower, not_block_by_block
from c2srt.errors import UserError
from c2srt.shown import shown

FILES = (
    "eva",
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "vitamin",
)
"""timm's files of ViTs that keep the grid of patches to the end."""
POOLS = ("token", "avg", "map")
"""timm's pools that are known here."""
LEARNED_BIAS = 4
"""Rows of scores that attention keeps where a learned bias is added to them (measured)."""
NAMES = {
    "pool.": "trunk.attn_pool.",
    "joint.norm.": "trunk.fc_norm.",
    "joint.head.": "trunk.head.",
    "joint.projection.": "head.",
    "vit.": "",
}
"""How our parameters' names begin, and open_clip's below `visual.`."""


def check_vision(vision: dict) -> None:
    """Raises UserError unless a vision_cfg is that of such a ViT. Its name is one of timm's own, so
    that it fetches nothing.
    """
    name, pool, projection = (
        vision.get(key, default)
        for key, default in (("timm_model_name", ""), ("timm_pool", "avg"), ("timm_proj", "linear"))
    )
    if not library.is_timm_model(name, FILES):
        raise UserError(
            f"this CLIP's image tower is timm's {shown(name)}, which keeps no grid of patches"
            " through its blocks: take a ViT model"
        )
    pools = pool in POOLS or (pool == "" and projection in ("linear", "mlp"))
    if not pools or vision.get("timm_model_pretrained"):
        strange = "timm_model_pretrained" if pools else f"timm_pool={shown(pool)}"
        raise UserError(
            f"this CLIP's image tower is timm's {name} with {strange}, which is not known here:"
            " take one of open_clip's ViTs"
        )


class TimmTower(BlockTower):
    """What stands behind the last norm is taken out of the ViT: as modules of this one they take
    patches, too, and ZeRO-3 gathers them for both uses.
    """

    BLOCKS, BEHIND = "vit.trunk.blocks", ("pool.", "joint.", "vit.trunk.norm.")
    pool: Any
    joint: Any
    vit: Any
    """timm's and open_clip's, modules without types."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        trunk = visual.trunk
        check_trunk(visual)
        self.pool, self.pooling = getattr(trunk, "attn_pool", None), trunk.global_pool
        parts = {"norm": trunk.fc_norm, "head": trunk.head, "projection": visual.head}
        self.joint = nn.Sequential(OrderedDict(parts))
        self.vit = visual
        trunk.attn_pool, trunk.global_pool = None, ""
        trunk.fc_norm, trunk.head, visual.head = nn.Identity(), nn.Identity(), nn.Identity()
        self.skipped = trunk.num_prefix_tokens
        pools_all = getattr(trunk, "pool_include_prefix", self.pool is not None)
        self.pooled_from = 0 if pools_all else self.skipped
        last = linears(self.joint)[-1:]
        self.width = last[0].out_features if last else trunk.num_features
        self.image_size, self.grid = visual.image_size[0], tuple(trunk.patch_embed.grid_size)
        self.never_drop()

    def never_drop(self) -> None:
        """Random depth and dropout belong to a recipe of training that is not ours."""
        for module in self.modules():
            for name in ("drop_prob", "p"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)

    def train(self, mode: bool = True) -> "TimmTower":
        """Batch norms keep the statistics of their training: ours has few images at a time."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    @property
    def projection(self) -> Tensor:
        matrix = self.joint.projection if self.pool is None else None
        if not isinstance(matrix, nn.Sequential) or not isinstance(matrix[-1], nn.Linear):
            matrix = None
        if matrix is None or matrix[-1].bias is not None:
            raise UserError(
                "this CLIP's image tower has no projection to the joint space that is a matrix,"
                " which this model trains: take an open_clip ViT, such as ViT-B-16"
            )
        return matrix[-1].weight.T

    def pooled(self, tokens: Tensor) -> Tensor:
        """[B, R, W] -> [B, W]."""
        if self.pool is not None:
            return self.pool(tokens[:, self.pooled_from :])
        if self.pooling == "token":
            return tokens[:, 0]
        return tokens[:, self.pooled_from :].mean(1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.vit(pixels)
        patches = tokens[:, self.skipped :]
        if self.pool is not None:
            alone = self.pool(patches.flatten(0, 1)[:, None])  # [B · P, W]
            patches = alone.unflatten(0, patches.shape[:2])
        return self.joint(patches), self.joint(self.pooled(tokens))

    def global_features(self, pixels: Tensor) -> Tensor:
        return self.joint(self.pooled(self.vit(pixels)))

    def tokens(self, pixels: Tensor) -> Tensor:
        return self.joint.norm(self.vit(pixels))

    def block_by_block(self) -> BlockByBlock:
        raise not_block_by_block("is timm's, whose blocks differ from model to model")

    def behind(self) -> Iterable[nn.Module | nn.Parameter]:
        return [part for part in (self.vit.trunk.norm, self.pool, self.joint) if part is not None]

    def clip_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        begins = {name: next(ours for ours in NAMES if name.startswith(ours)) for name in state}
        return {
            f"visual.{NAMES[begin]}{name.removeprefix(begin)}": state[name]
            for name, begin in begins.items()
        }

    def sizes(self) -> TowerSizes:
        trunk, width = self.vit.trunk, self.vit.trunk.num_features
        block: Any = trunk.blocks[0]
        patches = self.grid[0] * self.grid[1]
        multiply_adds, given = embedding_sizes(trunk.patch_embed)
        weights = sum(part.weight.numel() for part in linears(self.joint))
        kept = 3 * width  # the norm's input and output, the projection's input
        if self.pool is not None:
            hidden = self.pool.mlp.fc1.out_features
            alone = 3 * width**2 + 2 * width * hidden  # value and key, output, MLP
            weights += alone + 2 * width**2  # and key and value once more for the global one
            kept = (9 + len(linears(self.joint))) * width + 2 * hidden
        return TowerSizes(
            tokens=patches + self.skipped,
            patch_values=round(multiply_adds / (patches * width)),
            embedding_products=1 if len(given) == 1 else 2,
            embedding_values=sum(given) + (patches + self.skipped) * width,
            width=width,
            attention_heads=block.attn.num_heads,
            score_rows=0 if getattr(block.attn, "rel_pos", None) is None else LEARNED_BIAS,
            quick_gelu=False,
            **mlp_sizes(block.mlp),
            joint_weights=weights,
            joint_values=kept,
        )


def check_trunk(visual: Any) -> None:
    """Raises UserError unless a tower takes pictures of the size that its config says, and pools
    in a way that is known here.
    """
    trunk, (height, width) = visual.trunk, visual.image_size
    name = trunk.default_cfg.get("architecture", "model")
    if trunk.patch_embed.img_size != (height, width):
        raise UserError(
            f"vision_cfg.image_size={height if height == width else [height, width]} is not the"
            f" size of timm's {name}, {trunk.patch_embed.img_size[0]}"
        )
    if trunk.global_pool not in POOLS:
        raise UserError(
            f"timm's {name} pools its tokens in a way that is not known here"
            f" ({trunk.global_pool or 'none'}): take one of open_clip's ViTs"
        )


def embedding_sizes(embedding: Any) -> tuple[int, list[int]]:
    """Multiply-adds of the patches' embedding for one image, and how many values each of its layers
    is given (and keeps for the backward pass): it is one convolution, or a small network.
    """
    from torch.utils.flop_counter import FlopCounterMode  # only the planner asks

    given: list[int] = []

    def note(module: nn.Module, values: tuple) -> None:
        given.append(values[0].numel())

    layers = [part for part in embedding.modules() if is_layer(part)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    image = next(embedding.parameters()).new_zeros(1, 3, *embedding.img_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        embedding(image)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() // 2, given


def is_layer(module: nn.Module) -> bool:
    """Whether a module computes, and is no group of others."""
    has_own = next(module.parameters(recurse=False), None) is not None
    return has_own or not (list(module.children()) or isinstance(module, nn.Identity))


def linears(module: nn.Module) -> list[nn.Linear]:
    """Its linear layers, in their order."""
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


def mlp_sizes(mlp: nn.Module) -> dict[str, int]:
    """What `TowerSizes` says of a block's MLP, with or without a gate, with or without a norm."""
    layers = linears(mlp)
    hidden, width = layers[-1].in_features, layers[-1].out_features
    matrices = sum(part.weight.numel() for part in layers) // (hidden * width)
    normed = [
        part
        for part in mlp.modules()
        if isinstance(part, nn.LayerNorm) and part.normalized_shape == (hidden,)
    ]
    return {"mlp": hidden, "mlp_matrices": matrices, "mlp_rows": 2 * matrices - 2 + len(normed)}
