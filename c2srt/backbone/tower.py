"""What the towers share, and the frozen image half. Shapes as in protocol.py."""

import re
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from c2srt.backbone.protocol import ImageTower
from c2srt.errors import UserError


class BlockTower(nn.Module, ImageTower):
    """What towers of transformer blocks share: freezing, and the depth of a parameter."""

    BLOCKS: ClassVar[str]
    """Name of the blocks, below the tower."""
    BEHIND: ClassVar[tuple[str, ...]]
    """How the names of parameters begin that belong to `behind`."""

    @property
    def blocks(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.get_submodule(self.BLOCKS))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def freeze(self, trainable_blocks: int | None) -> None:
        blocks = self.blocks
        if trainable_blocks is not None and not 0 <= trainable_blocks <= len(blocks):
            raise UserError(
                f"model.trainable_blocks={trainable_blocks} is outside 0…{len(blocks)}, the blocks"
                " of this ViT"
            )
        self.requires_grad_(trainable_blocks is None)
        if trainable_blocks is not None:
            for part in (*self.behind(), *blocks[len(blocks) - trainable_blocks :]):
                part.requires_grad_(True)

    def depth(self, name: str) -> int:
        blocks = len(self.blocks)
        if match := re.match(rf"{re.escape(self.BLOCKS)}\.(\d+)\.", name):
            return blocks - int(match[1])
        return 0 if name.startswith(self.BEHIND) else blocks + 1


def not_block_by_block(why: str) -> UserError:
    return UserError(
        f"this CLIP's image tower {why}, and this model goes through its blocks one by one: take"
        " an open_clip ViT, such as ViT-B-16"
    )


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """[B, 3, S, S] uint8 -> float with CLIP's own mean and std (shape [3]), in their dtype."""
    return (images.to(mean.dtype) / 255 - mean[:, None, None]) / std[:, None, None]


@dataclass
class ImageEncoder:
    """The frozen image half: everything that encodes pictures with the CLIP itself does it here."""

    tower: BlockTower
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to(self, device: torch.device | str) -> "ImageEncoder":
        """Moves the tower; returns itself."""
        self.tower.to(device)
        return self

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> normalised pixels, float32, on the images' device."""
        mean, std = (torch.tensor(values, device=images.device) for values in (self.mean, self.std))
        return normalise(images, mean, std)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, 3, S, S] on the tower's device -> patch features [B, P, D] and the global
        feature [B, D], raw, in float32.
        """
        patches, global_ = self.tower(self.pixels(images))
        return patches.float(), global_.float()

    @torch.no_grad()
    def global_features(self, images: Tensor) -> Tensor:
        """The second of `encode` alone."""
        return self.tower.global_features(self.pixels(images)).float()
