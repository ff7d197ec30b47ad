"""What everything else asks of a backbone: the frozen CLIP (`Backbone`) and its image half
(`ImageTower`), of which the student trains a copy.

A new backbone needs: a tower in a module like vit.py or timm_vit.py, the rule for its config in
check.py (`check_towers`), and its line in clip.py (`with_tower`).

Shapes: B images, S pixels a side, P = rows × columns patches, R tokens of the last block, W width
of the blocks, D joint width of image and text features, n texts, L tokens, V width of the text
tower.
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TowerSizes:
    """What the cost of a tower is counted from. A patch's embedding costs `patch_values` · W
    multiply-adds, going back `embedding_products` times as many (1 where the pixels are its only
    input), and `embedding_values` of an image are kept for that. An MLP has
    `mlp_matrices` of W × `mlp`, and keeps `mlp_rows` of `mlp` of a token (QuickGELU one more).
    Attention keeps `score_rows` of all R scores of a token and head, 0 where they are fused away.
    `joint_weights` and `joint_values` are what a token passes and keeps between the last block and
    the joint space, in multiply-adds and in values.
    """

    tokens: int
    patch_values: int
    embedding_products: int
    embedding_values: int
    width: int
    mlp: int
    mlp_matrices: int
    mlp_rows: int
    attention_heads: int
    score_rows: int
    quick_gelu: bool
    joint_weights: int
    joint_values: int


class BlockByBlock(Protocol):
    """An image tower in its steps, for models that put something between its blocks. Its tokens [B,
    R, W] are the class token, then the P patches'; it has no parameters of its own, so that those
    of the tower stay in one place.
    """

    blocks: list[nn.Module]
    """[B, R, W] -> [B, R, W], with any number of further tokens behind."""
    width: int
    """W."""

    @abstractmethod
    def embedded(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] -> the tokens that the first block takes."""
        raise NotImplementedError

    @abstractmethod
    def value_attention(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """What a block's attention gives for the tokens that it takes, without the residual, where
        values stand for queries and keys, too: a token hears those of like values (CLIP Surgery, Li
        et al. 2023).
        """
        raise NotImplementedError

    @abstractmethod
    def joint(self, tokens: Tensor) -> Tensor:
        """Tokens behind the last block -> raw features [B, R, D]."""
        raise NotImplementedError


class ImageTower(Protocol):
    """An image tower, frozen or trained. What the student trains is a copy of the frozen one."""

    width: int
    """D."""
    image_size: int
    """S."""
    grid: tuple[int, int]
    """Rows and columns of the patches."""

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, first to last, each [B, R, W] -> [B, R, W]; patches come last."""
        raise NotImplementedError

    @property
    @abstractmethod
    def projection(self) -> Tensor:
        """[W, D], from `tokens` to the joint space. Raises UserError where that is no matrix."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 1: normalised pixels [B, 3, S, S] -> patch features [B, P, D] and the global feature
        [B, D], both raw (not of unit length).
        """
        raise NotImplementedError

    @abstractmethod
    def global_features(self, pixels: Tensor) -> Tensor:
        """The second of `forward` alone."""
        raise NotImplementedError

    @abstractmethod
    def tokens(self, pixels: Tensor) -> Tensor:
        """Normalised pixels -> tokens [B, R, W] behind the last norm, the pooled one first."""
        raise NotImplementedError

    @abstractmethod
    def block_by_block(self) -> BlockByBlock:
        """The tower in its steps. Raises UserError where its blocks are not known so well."""
        raise NotImplementedError

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of its parameters, and so of the pixels that it takes."""
        raise NotImplementedError

    @abstractmethod
    def freeze(self, trainable_blocks: int | None) -> None:
        """Leaves gradients on for the last blocks and what lies behind them; on for everything when
        None. Raises UserError if there are not so many blocks.
        """
        raise NotImplementedError

    @abstractmethod
    def depth(self, name: str) -> int:
        """Distance of one of this tower's parameters from the output, for layer decay: 0 for what
        lies behind the blocks, 1 for the last block, …, blocks + 1 for the embeddings (BEiT's rule,
        which MKT uses).
        """
        raise NotImplementedError

    @abstractmethod
    def behind(self) -> Iterable[nn.Module | nn.Parameter]:
        """What lies between the last block and the joint space."""
        raise NotImplementedError

    @abstractmethod
    def clip_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """This tower's entries of a state dict under open_clip's own names (`visual.…`)."""
        raise NotImplementedError

    @abstractmethod
    def sizes(self) -> TowerSizes:
        """For the planner, from a model that may have no memory (torch's meta device)."""
        raise NotImplementedError


class Backbone(Protocol):
    """The frozen CLIP. `c2srt.backbone.clip.Clip` is the only one; `load_clip` makes it."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of pixels in 0…1, by channel."""

    @property
    @abstractmethod
    def tower(self) -> ImageTower:
        """Its image half."""
        raise NotImplementedError

    @property
    @abstractmethod
    def hash(self) -> str:
        """Changes when a feature of any image or text would."""
        raise NotImplementedError

    @property
    @abstractmethod
    def logit_scale(self) -> float:
        """What cosines were multiplied by in its training."""
        raise NotImplementedError

    @property
    @abstractmethod
    def logit_bias(self) -> float | None:
        """What was then added, if each pair had a sigmoid of its own; None for softmax."""
        raise NotImplementedError

    @abstractmethod
    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, 3, S, S] on the tower's device -> patch features [B, P, D] and global features
        [B, D], raw, float32.
        """
        raise NotImplementedError

    @abstractmethod
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Texts, cut where they are too long, -> raw text features [n, D], on the device of the
        text tower.
        """
        raise NotImplementedError

    @abstractmethod
    def count_tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each text, start and end among them, if nothing were cut; at most
        `context_length` are read.
        """
        raise NotImplementedError

    @property
    @abstractmethod
    def context_length(self) -> int:
        """L of the text tower."""
        raise NotImplementedError

    @property
    @abstractmethod
    def causal_text(self) -> bool:
        """Whether prompts can be tuned: the text tower is causal and read out at the last token, so
        that `embed_tokens` and `encode_embedded` make its features.
        """
        raise NotImplementedError

    @abstractmethod
    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """[…] token ids -> […, V] embeddings. For a causal text tower."""
        raise NotImplementedError

    @abstractmethod
    def encode_embedded(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Token embeddings [n, L, V] of texts whose last tokens are at `ends` [n] -> raw features
        [n, D], differentiable. For a causal text tower; L may be shorter than its context.
        """
        raise NotImplementedError
