"""LESA: Huynh and Elhamifar, A Shared Multi-Attention Framework for Multi-Label Zero-Shot Learning,
CVPR 2020; code hbdat/cvpr20_LESA (core/model_share_attention.py, zeroshot_experiments/).

Regions pass a 2×2 convolution, normalisation and ReLU: f_r. T = 10 attentions that all categories
share, with the logits e_r = W₂ᵀ[tanh(W₁ᵀ[f_r; 1]); 1] and α = softmax over regions, give T features
h_t = Σ_r α_tr f_r; a category's vector is W v_c and its score max_t ⟨h_t, W v_c⟩. Losses: ranking
(mean over violating pairs, margin 1) + 0.1 distribution: mean_t (Σ_{positive c} softmax_t ⟨h_t, W
v_c⟩)², which spreads an image's positives over the attentions + 0.001 global: Σ_c max(0, −y_c (s_c
− ⟨mean_r f_r, W v_c⟩)), y in −1/0/1: attention should tell more than the mean of all regions + 0.01
span: ‖E Eᵀ without its diagonal‖, the rows of E being the attentions' logits e, each of unit length
over the regions.

Deviations: regions are the frozen CLIP's patch features (VGG-19's conv5), words its text features
(300-d GloVe). BatchNorm is a LayerNorm over each region's channels, with as many parameters: its
running statistics would be state that no checkpoint of parameters holds, and batch statistics would
change with padding, micro-batch and ranks. The release sums `global` over its batch of 32 and takes
one norm of `span` over it; per image that is 32 and √32 times the weight, which is what the factors
here are. AdamW instead of RMSProp 1e-3.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.backbone.clip import Clip
from c2srt.model.baselines.base import Baseline, Terms
from c2srt.model.baselines.top import top_mean, wide
from c2srt.model.kinds import LesaSettings
from c2srt.model.loss import ranking_loss

RELEASED_BATCH = 32


class Lesa(Baseline):
    """LESA on a frozen tower."""

    settings: LesaSettings

    def make_head(self, clip: Clip) -> nn.Module:
        return LesaHead(clip.width, clip.width, self.settings.attentions, clip.grid)

    def terms(self, found: tuple, text: Tensor, labels: Tensor) -> Terms:
        scores, attended, classes, average, logits = found
        of_average = (average @ classes.T).to(scores.dtype)
        return {
            "ranking": (1.0, ranking_loss(scores, labels, self.loss)),
            "distribution": (self.settings.distribution, distribution(attended, classes, labels)),
            "global": (
                self.settings.global_ * RELEASED_BATCH,
                ((of_average - scores) * labels).clamp(min=0).sum(1),
            ),
            "span": (self.settings.span * math.sqrt(RELEASED_BATCH), span(logits)),
        }


class LesaHead(nn.Module):
    """patches [B, P, D], text [C, W] -> (scores [B, C], attended features [B, T, D], class vectors
    [C, D], mean region [B, D], attention logits [B, T, P]). `grid`: rows and columns of the P
    patches.
    """

    def __init__(self, width: int, word_width: int, attentions: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.convolution, self.norm = nn.Conv2d(width, width, 2, bias=False), nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, attentions)
        self.classes = nn.Linear(word_width, width, bias=False)

    def forward(
        self, patches: Tensor, global_: Tensor, text: Tensor, budget: int
    ) -> tuple[Tensor, ...]:
        image = F.pad(
            patches.transpose(1, 2).unflatten(2, self.grid), (0, 1, 0, 1)
        )  # TensorFlow's SAME for an even kernel
        regions = self.norm(self.convolution(image).flatten(2).transpose(1, 2)).relu()
        logits = self.outer(self.inner(regions).tanh()).transpose(1, 2)
        attended, classes = logits.softmax(2) @ regions, self.classes(text)
        return top_mean(attended, classes, 1, budget), attended, classes, regions.mean(1), logits


def distribution(attended: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """mean_t (Σ over the positives of softmax_t)² per image [B]; only the positives' products [·,
    T] are computed.
    """
    image, category = (labels == 1).nonzero(as_tuple=True)
    products = torch.einsum("ntd,nd->nt", attended[image], classes[category])
    shares = products.to(wide(products)).softmax(1)
    return shares.new_zeros(attended.shape[:2]).index_add(0, image, shares).square().mean(1)


def span(logits: Tensor) -> Tensor:
    """Frobenius norm of the attentions' cosines without the diagonal, per image [B]."""
    unit = F.normalize(logits.to(wide(logits)), dim=2)
    others = 1 - torch.eye(unit.shape[1], device=unit.device, dtype=unit.dtype)
    return ((unit @ unit.transpose(1, 2)) * others).flatten(1).norm(dim=1)
