"""BiAM: Narayan et al., Discriminative Region-based Multi-Label Zero-Shot Learning, ICCV 2021; code
akshitac8/BiAM (model.py).

h = norm(ReLU(3×3 convolution)) of the regions, to 256 channels. Region block: multi-head
self-attention over the regions, then a residual feed-forward of twice the width. Scene block: v =
LReLU(1×1 h), gate g = σ(mean_r v ∘ W_g x_G) by the image's global feature x_G, c = g ∘ v, and c +
norm(ReLU(3×3 c)). Both side by side pass a 1×1 convolution and LReLU: e_r. A category's score is
the mean of its 6 best regions' ⟨e_r, W v_c + b⟩. Ranking loss (mean over violating pairs, margin
1).

Deviations: regions and global feature are the frozen CLIP's (VGG-19's conv5 and its fc7 of 4096),
words its text features (GloVe). BatchNorm is a LayerNorm over each region's channels, and there is
no dropout (0.1 and 0.2 in the release): see base.py. The release leaves out training images without
a positive, whose loss is 0 here, and on Open Images those with more than 40. AdamW instead of Adam
with L2 5e-4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.backbone.clip import Clip
from c2srt.model.baselines.attention import Attention
from c2srt.model.baselines.base import Baseline, Terms
from c2srt.model.baselines.top import top_mean
from c2srt.model.kinds import BiamSettings
from c2srt.model.loss import ranking_loss

SLOPE = 0.2


class Biam(Baseline):
    """BiAM on a frozen tower."""

    settings: BiamSettings

    def make_head(self, clip: Clip) -> nn.Module:
        return BiamHead(clip.width, clip.width, clip.width, clip.grid, self.settings)

    def terms(self, found: tuple, text: Tensor, labels: Tensor) -> Terms:
        return {"ranking": (1.0, ranking_loss(found[0], labels, self.loss))}


class BiamHead(nn.Module):
    """patches [B, P, D], global_ [B, G], text [C, W] -> (scores [B, C],). `grid`: rows and columns
    of the P patches.
    """

    def __init__(
        self,
        width: int,
        global_width: int,
        word_width: int,
        grid: tuple[int, int],
        settings: BiamSettings,
    ) -> None:
        super().__init__()
        channels, self.topk = settings.channels, settings.topk
        self.entry = Convolution(width, channels, grid)
        self.attention = Attention(channels, settings.heads)
        self.wider, self.narrower = (
            nn.Linear(channels, 2 * channels),
            nn.Linear(2 * channels, channels),
        )
        self.scene, self.gate = nn.Linear(channels, channels), nn.Linear(global_width, channels)
        self.context = Convolution(channels, channels, grid)
        self.fusion = nn.Linear(2 * channels, width)
        self.classes = nn.Linear(word_width, width)

    def forward(self, patches: Tensor, global_: Tensor, text: Tensor, budget: int) -> tuple[Tensor]:
        entered = self.entry(patches)
        attended = entered + self.attention(entered, entered)
        region = attended + self.narrower(self.wider(attended).relu())
        value = F.leaky_relu(self.scene(entered), SLOPE)
        gated = (value.mean(1) * self.gate(global_)).sigmoid()[:, None] * value
        scene = gated + self.context(gated)
        fused = F.leaky_relu(self.fusion(torch.cat([region, scene], 2)), SLOPE)
        return (top_mean(fused, self.classes(text), self.topk, budget),)


class Convolution(nn.Module):
    """3×3 convolution over the grid, ReLU, norm: [B, P, D] -> [B, P, channels]."""

    def __init__(self, width: int, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.convolution, self.norm = (
            grid,
            nn.Conv2d(width, channels, 3, padding=1),
            nn.LayerNorm(channels),
        )

    def forward(self, regions: Tensor) -> Tensor:
        image = regions.transpose(1, 2).unflatten(2, self.grid)
        return self.norm(self.convolution(image).relu().flatten(2).transpose(1, 2))
