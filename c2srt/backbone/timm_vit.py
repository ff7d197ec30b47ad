"""timm's attention-pooled ViT, through open_clip, as an image tower: SigLIP's and SigLIP 2's.

A learned query attends to all tokens, and an MLP follows; there is no class token and no
projection. A patch's feature in the joint space is what that pool makes of its token alone (the
attention over one token is its value), so that patches and the global feature, the pool of all of
them, pass the same weights. Shapes as in protocol.py.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from c2srt.backbone.protocol import TowerSizes
from c2srt.backbone.tower import BlockTower
from c2srt.errors import UserError

NAMES = ("vit_base_patch16_siglip_512", "test_vit3")
"""timm's names of those that were tried; the second is timm's own tiny one, for tests."""
POOL, PROJECTION = "map", "none"
"""timm_pool and timm_proj of their configs."""


class TimmTower(BlockTower):
    """The pool is taken out of the ViT: as a module of its own it takes patches, too, and ZeRO-3
    gathers it for both uses.
    """

    BLOCKS, BEHIND = "vit.trunk.blocks", ("pool.", "vit.trunk.norm.")
    pool: Any
    vit: Any
    """timm's and open_clip's, modules without types."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        trunk = visual.trunk
        self.pool, self.vit = trunk.attn_pool, visual
        trunk.attn_pool, trunk.global_pool = None, ""
        self.skipped = trunk.num_prefix_tokens
        self.pools_skipped = trunk.pool_include_prefix
        self.width, self.image_size = trunk.num_features, visual.image_size[0]
        self.grid = tuple(trunk.patch_embed.grid_size)
        if trunk.patch_embed.img_size != visual.image_size:
            raise UserError(
                f"vision_cfg.image_size={self.image_size} is not the size of timm's"
                f" {trunk.default_cfg.get('architecture', 'model')},"
                f" {trunk.patch_embed.img_size[0]}"
            )

    @property
    def projection(self) -> Tensor:
        raise UserError(
            "this CLIP's image tower is pooled by attention and has no projection to the joint"
            " space, which this model trains: take an open_clip ViT, such as ViT-B-16"
        )

    def pooled(self, tokens: Tensor) -> Tensor:
        return self.pool(tokens if self.pools_skipped else tokens[:, self.skipped :])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.vit(pixels)
        patches = tokens[:, self.skipped :]
        alone = self.pool(patches.flatten(0, 1)[:, None])  # [B · P, D]
        return alone.unflatten(0, patches.shape[:2]), self.pooled(tokens)

    def global_features(self, pixels: Tensor) -> Tensor:
        return self.pooled(self.vit(pixels))

    def tokens(self, pixels: Tensor) -> Tensor:
        return self.vit(pixels)

    def behind(self) -> Iterable[nn.Module | nn.Parameter]:
        return self.vit.trunk.norm, self.pool

    def clip_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            f"visual.trunk.attn_pool.{name.removeprefix('pool.')}"
            if name.startswith("pool.")
            else f"visual.{name.removeprefix('vit.')}": tensor
            for name, tensor in state.items()
        }

    def sizes(self) -> TowerSizes:
        block: Any = self.blocks[0]
        trunk = self.vit.trunk
        width, hidden = self.width, self.pool.mlp.fc1.out_features
        alone = 3 * width**2 + 2 * width * hidden  # value and key, output, MLP
        return TowerSizes(
            tokens=self.grid[0] * self.grid[1] + self.skipped,
            patch_values=trunk.patch_embed.proj.weight[0].numel(),
            width=width,
            mlp=block.mlp.fc1.out_features,
            attention_heads=block.attn.num_heads,
            quick_gelu=False,
            joint_weights=alone + 2 * width**2,  # and key and value once more for the global one
            joint_values=9 * width + 2 * hidden,
        )
