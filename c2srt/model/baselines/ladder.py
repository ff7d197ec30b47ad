"""RAM's ladder of local adapters (Tan et al. 2025; code EricTan7/RAM, clip/model.py,
clip/adapters.py): a second stream of patches beside a frozen tower.

The stream starts as the tower's embedded patches. Every block adds what its attention gives where
values stand for queries and keys, too (CLIP Surgery); the last ones also take learned prompts
beside their tokens, and an adapter adds to the stream what it makes of the patches that leave the
block.

Shapes: B images, P patches, R = 1 + P tokens, W width of the blocks, C categories, D joint width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.backbone.protocol import BlockByBlock

DEVIATION = 0.02
"""Of the prompts, at first."""


def plain_rungs(
    steps: BlockByBlock, blocks: list[nn.Module], tokens: Tensor, local: Tensor
) -> tuple[Tensor, Tensor]:
    """tokens [B, R, W] and stream [B, P, W] before some blocks -> both behind them, of the frozen
    tower alone.
    """
    for block in blocks:
        local = local + steps.value_attention(block, tokens)[:, 1:]
        tokens = block(tokens)
    return tokens, local


class Ladder(nn.Module):
    """tokens [B, R, W] and stream [B, P, W] before the adapted blocks, text [C, D] -> both behind
    them. `grid`: rows and columns of the P patches.
    """

    def __init__(
        self, steps: BlockByBlock, blocks: int, prompts: int, joint: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.steps, self.rungs = steps, steps.blocks[-blocks:]  # lists: the tower has them
        self.prompts = nn.Parameter(DEVIATION * torch.randn(blocks, prompts, steps.width))
        self.adapters = nn.ModuleList(LocalAdapter(steps.width, joint, grid) for _ in range(blocks))

    def forward(self, tokens: Tensor, local: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        count = tokens.shape[1]
        for block, prompts, adapter in zip(self.rungs, self.prompts, self.adapters, strict=True):
            local = local + self.steps.value_attention(block, tokens)[:, 1:]
            beside = prompts.expand(len(tokens), -1, -1).to(tokens.dtype)
            tokens = block(torch.cat([tokens, beside], 1))[:, :count]
            local = local + adapter(tokens[:, 1:], text)
        return tokens, local


class LocalAdapter(nn.Module):
    """patches [B, P, W], text [C, D] -> [B, P, W]: two streams of convolution, each hearing the
    text, summed by gates that are convolved of the mean and the maximum over both streams'
    channels.
    """

    def __init__(self, width: int, joint: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.streams = nn.ModuleList(Stream(width, joint, size) for size in (1, 3))
        self.text_norm = nn.LayerNorm(joint)
        self.gate = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.exit = nn.Linear(joint, width, bias=False)

    def forward(self, patches: Tensor, text: Tensor) -> Tensor:
        image, words = patches.transpose(1, 2).unflatten(2, self.grid), self.text_norm(text)
        one, other = (stream(image, words) for stream in self.streams)
        both = torch.cat([one, other], 2)
        of_both = torch.stack([both.mean(2), both.amax(2)], 1).unflatten(2, self.grid)
        gates = self.gate(of_both).sigmoid().flatten(2)[..., None]  # [B, 2, P, 1]
        return self.exit(one * gates[:, 0] + other * gates[:, 1])


class Stream(nn.Module):
    """image [B, W, rows, columns], text [C, D] -> [B, P, D]: convolution, norm and GELU, plus what
    attention to the text gives, which has no parameter but the norm of its queries.
    """

    def __init__(self, width: int, joint: int, size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, joint, size, padding=size // 2, bias=False)
        self.norm, self.query_norm = nn.LayerNorm(joint), nn.LayerNorm(joint)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        regions = F.gelu(self.norm(self.convolution(image).flatten(2).transpose(1, 2)))
        queries = self.query_norm(regions).flatten(0, 1)[None, None]  # the text is every image's
        words = text[None, None]
        heard = F.scaled_dot_product_attention(queries, words, words)[0, 0]
        return regions + heard.unflatten(0, regions.shape[:2])
