"""What the architecture alone says: parameters, FLOPs and saved activations of the student, from a
model without memory.

Shapes: B images, T tokens (P patches, and the class token where there is one), W the ViT's width, D
joint width.
"""

from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import nn

from c2srt.backbone.clip import build_outline
from c2srt.backbone.config import ClipConfig
from c2srt.backbone.tower import BlockTower
from c2srt.model.config import ModelConfig
from c2srt.model.head import Head


@dataclass(frozen=True)
class Outline:
    """Sizes of the ViT, and elements of parameters: of the whole CLIP, the tower, what of it
    trains, the head (all trains).
    """

    image_size: int
    patches: int
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
    blocks: int
    trained_blocks: int
    embeddings_train: bool
    quick_gelu: bool
    joint: int
    joint_weights: int
    joint_values: int
    clip_parameters: int
    tower_parameters: int
    tower_trained: int
    head_parameters: int

    @property
    def parameters(self) -> int:
        return self.tower_parameters + self.head_parameters

    @property
    def trained(self) -> int:
        return self.tower_trained + self.head_parameters

    def block_flops(self) -> tuple[int, int]:
        """FLOPs of one block and image: with weights (qkv, out, MLP), and in attention (QKᵀ, AV); a
        multiply-add is 2.
        """
        t, w = self.tokens, self.width
        return 2 * t * w * (4 * w + self.mlp_matrices * self.mlp), 4 * t * t * w

    def forward_flops(self) -> int:
        """Of the ViT for one image."""
        linear, attention = self.block_flops()
        embedding = 2 * self.patches * self.patch_values * self.width
        return embedding + self.blocks * (linear + attention) + 2 * self.tokens * self.joint_weights

    def backward_flops(self) -> int:
        """Two products for each of the forward's, in the trained blocks and the projection;
        attention computes its scores once more (5 for 2); pixels need no gradient.
        """
        linear, attention = self.block_flops()
        embedding = 2 * self.patches * self.patch_values * self.width * self.embedding_products
        return (
            embedding * self.embeddings_train
            + self.trained_blocks * (2 * linear + attention * 5 // 2)
            + 4 * self.tokens * self.joint_weights
        )

    def saved_bytes(self, images: int, itemsize: int) -> int:
        """What autograd keeps of the ViT for a micro-batch. A trained block: its input, both norms'
        outputs, q, k, v, attention's output, the sum after it (8 rows of W), and the MLP's hidden
        rows before and behind the activation (and once more inside QuickGELU); float32 statistics
        of norms and softmax. What lies behind the blocks keeps `joint_values` of a token.
        """
        scores = self.score_rows * self.attention_heads * self.tokens
        rows = 8 * self.width + self.hidden_values() + scores
        statistics = 4 * (4 + self.attention_heads)
        blocks = self.trained_blocks * (rows * itemsize + statistics)
        values = images * self.tokens * (blocks + self.joint_values * itemsize)
        if self.embeddings_train:
            values += images * itemsize * self.embedding_values
        return values

    def working_bytes(self, images: int, itemsize: int) -> int:
        """Most that one block holds besides: its input and norm, and the MLP's hidden rows before
        and behind the activation; going back, the gradients of as much.
        """
        return images * self.tokens * (2 * self.width + self.hidden_values()) * itemsize

    def hidden_values(self) -> int:
        """What a token keeps inside the MLP."""
        return (self.mlp_rows + self.quick_gelu) * self.mlp


def outline(clip: ClipConfig, model: ModelConfig) -> Outline:
    """Builds the model without memory for its weights and counts it. Raises UserError on a CLIP
    that cannot be trained.
    """
    whole = build_outline(clip)
    clip_parameters = count(whole)
    tower = cast(BlockTower, whole.visual)
    tower.freeze(model.trainable_blocks)
    sizes, blocks, trained = tower.sizes(), len(tower.blocks), model.trainable_blocks
    with torch.device("meta"):
        head = Head(tower.width, model, 1.0)
    return Outline(
        image_size=tower.image_size,
        patches=tower.grid[0] * tower.grid[1],
        **asdict(sizes),
        blocks=blocks,
        trained_blocks=blocks if trained is None else trained,
        embeddings_train=trained is None,
        joint=tower.width,
        clip_parameters=clip_parameters,
        tower_parameters=count(tower),
        tower_trained=count(tower, True),
        head_parameters=count(head),
    )


def count(module: nn.Module, trained: bool = False) -> int:
    """Elements of its parameters, or of those that train."""
    return sum(
        parameter.numel()
        for parameter in module.parameters()
        if parameter.requires_grad or not trained
    )
