"""open_clip's own VisionTransformer as an image tower. Shapes as in protocol.py."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.backbone.protocol import BlockByBlock, TowerSizes
from c2srt.backbone.tower import BlockTower, not_block_by_block
from c2srt.errors import UserError


class PackedAttention(nn.MultiheadAttention):
    """torch's self-attention, which in training reads queries, keys and values where one product
    wrote them, instead of copying them apart, and writes their gradients side by side.
    """

    @classmethod
    def take(cls, attention: nn.Module) -> None:
        """Turns torch's own attention into this one, in place, where it has biases and one input;
        leaves anything else as it is.
        """
        if type(attention) is not nn.MultiheadAttention or not attention._qkv_same_embed_dim:
            return
        if attention.batch_first and attention.in_proj_bias is not None and not attention.dropout:
            attention.__class__ = cls

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As torch's; attention weights are given in evaluation alone."""
        plain = not self.training or query is not key or key is not value
        if plain or args or kwargs != {"need_weights": False, "attn_mask": None}:
            return super().forward(query, key, value, *args, **kwargs)
        packed = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        by_head = [
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in packed.chunk(3, -1)
        ]
        mixed = F.scaled_dot_product_attention(*by_head)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


class VitTower(BlockTower):
    """A ViT whose patches pass the last norm and the projection as the pooled token does (MKT's
    choice). The projection is taken out of the ViT: as a parameter of this module, `proj` is
    gathered by ZeRO-3 for all of its uses.
    """

    BLOCKS, BEHIND = "vit.transformer.resblocks", ("proj", "vit.ln_post.")
    proj: nn.Parameter
    vit: Any
    """open_clip's, a module without types."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        if visual.proj is None:
            raise UserError(
                "this CLIP's image tower has no projection to the joint space: take a ViT model of"
                " open_clip"
            )
        self.proj = visual.proj
        self.vit = visual
        self.vit.proj, self.vit.output_tokens = None, True
        self.vit.patch_dropout = nn.Identity()  # the head reads every patch, in training too
        self.width, self.image_size = visual.output_dim, visual.image_size[0]
        self.grid = tuple(visual.grid_size)
        for block in self.blocks:
            PackedAttention.take(getattr(block, "attn", nn.Identity()))

    @property
    def projection(self) -> Tensor:
        return self.proj

    def pooled_and_patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled token [B, W] and the patches' [B, P, W], behind the last norm."""
        pooled, patches = self.vit(pixels)
        return pooled, self.vit.ln_post(patches) if self.vit.final_ln_after_pool else patches

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pooled, patches = self.pooled_and_patches(pixels)
        return patches @ self.proj, pooled @ self.proj

    def global_features(self, pixels: Tensor) -> Tensor:
        return self.vit(pixels)[0] @ self.proj

    def tokens(self, pixels: Tensor) -> Tensor:
        pooled, patches = self.pooled_and_patches(pixels)
        return torch.cat([pooled[:, None], patches], 1)

    def block_by_block(self) -> "VitBlocks":
        plain = all(isinstance(block.attn, nn.MultiheadAttention) for block in self.blocks)
        if not plain or self.vit.pool_type != "tok":
            raise not_block_by_block("has no class token, or attention that is not torch's")
        return VitBlocks(self)

    def behind(self) -> Iterable[nn.Module | nn.Parameter]:
        return self.vit.ln_post, self.proj

    def clip_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"visual.{name.removeprefix('vit.')}": tensor for name, tensor in state.items()}

    def sizes(self) -> TowerSizes:
        block: Any = self.blocks[0]
        embedding = self.vit.conv1
        width, tokens = embedding.out_channels, self.grid[0] * self.grid[1] + 1
        return TowerSizes(
            tokens=tokens,
            patch_values=embedding.weight[0].numel(),
            embedding_products=1,
            embedding_values=tokens * width + 3 * self.image_size**2,
            width=width,
            mlp=block.mlp.c_fc.out_features,
            mlp_matrices=2,
            mlp_rows=2,
            attention_heads=block.attn.num_heads,
            score_rows=0,
            quick_gelu=type(block.mlp.gelu).__name__ == "QuickGELU",
            joint_weights=width * self.width,
            joint_values=3 * width,  # ln_post's input and output, proj's input
        )


class VitBlocks(BlockByBlock):
    """Of a `VitTower` whose blocks have torch's attention."""

    def __init__(self, tower: VitTower) -> None:
        self.tower, self.blocks = tower, list(tower.blocks)
        self.width = tower.vit.conv1.out_channels

    def embedded(self, pixels: Tensor) -> Tensor:
        vit = self.tower.vit
        patches = vit.conv1(pixels).flatten(2).transpose(1, 2)
        first = vit.class_embedding.to(patches).expand(len(patches), 1, -1)
        places = vit.positional_embedding.to(patches.dtype)
        return vit.ln_pre(torch.cat([first, patches], 1) + places)

    def value_attention(self, block: Any, tokens: Tensor) -> Tensor:
        attention = block.attn
        weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
        values = F.linear(block.ln_1(tokens), weight, bias)
        values = values.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(values, values, values)
        return block.ls_1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))

    def joint(self, tokens: Tensor) -> Tensor:
        return self.tower.vit.ln_post(tokens) @ self.tower.proj
