"""QKS: Zhu et al., Query-Based Knowledge Sharing for Open-Vocabulary Multi-Label Classification,
ACM TOMM 2025, arXiv 2401.01181; code jasonseu/QKS (models/qks.py, models/utils.py with its
BERT, lib/losses.py, lib/metrics.py, evaluate.py, README).

Learned queries (22 on Open Images, 12 on NUS-WIDE) pass BERT layers (8; 7), each self-attention
among the queries, cross-attention to all tokens of the frozen CLIP (the class token too) before its
projection, and a feed-forward of four times the width, each with the norm behind the residual sum.
CLIP's projection, trained, takes them to the joint space; a category's score is the best query's
⟨q, t_c⟩. Loss on Open Images: binary cross-entropy, mean over the categories, an unverified one
being a negative; on NUS-WIDE the asymmetric loss (γ₋ = 4, γ₊ = 0, its focusing factor without
gradient, × 1000).

Deviations: text features are of unit length (raw in the release). No dropout (0.1 in BERT): see
base.py. The layers are as wide as the ViT (the release fixes both at 768). With
`loss.unverified=ignore` the mean is over an image's verified categories.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.backbone.clip import Clip
from c2srt.model.baselines.attention import Attention
from c2srt.model.baselines.base import Baseline, Terms
from c2srt.model.baselines.top import top_mean
from c2srt.model.kinds import QksLoss, QksSettings
from c2srt.model.loss import negatives

HEAD_WIDTH, EPSILON, DEVIATION = 64, 1e-12, 0.02
FOCUS, SCALE, FLOOR = 4, 1000, 1e-5
"""Of the asymmetric loss: γ₋, its factor, and the least probability inside the logarithm."""


class Qks(Baseline):
    """QKS on a frozen tower; the head has the projection that trains, a copy of the tower's."""

    settings: QksSettings

    def make_head(self, clip: Clip) -> nn.Module:
        return QksHead(self.tower.projection.detach(), self.settings)

    def features(self, images: Tensor) -> tuple[Tensor]:
        """All tokens [B, R, W] behind the last norm, before the projection."""
        with torch.no_grad():
            return (self.tower.tokens(self.pixels(images)),)

    def terms(self, found: tuple, text: Tensor, labels: Tensor) -> Terms:
        positive, negative = labels == 1, negatives(labels, self.loss)
        cost = asymmetric if self.settings.loss == QksLoss.ASL else cross_entropy
        each = cost(found[0], positive)
        return {
            str(self.settings.loss): (
                1.0,
                (each * (positive | negative)).sum(1) / (positive | negative).sum(1).clamp(min=1),
            )
        }


class QksHead(nn.Module):
    """tokens [B, R, W], text [C, D] -> (scores [B, C],)."""

    def __init__(self, projection: Tensor, settings: QksSettings) -> None:
        super().__init__()
        width = len(projection)
        self.queries = nn.Parameter(torch.empty(settings.queries, width))
        self.norm = nn.LayerNorm(width, EPSILON)
        self.layers = nn.ModuleList(Layer(width) for _ in range(settings.layers))
        self.projection = nn.Parameter(projection.clone())
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """BERT's: matrices and queries normal with deviation 0.02, biases 0."""
        nn.init.normal_(self.queries, std=DEVIATION)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=DEVIATION)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, text: Tensor, budget: int) -> tuple[Tensor]:
        hidden = self.norm(self.queries).expand(len(tokens), -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, tokens)
        return (top_mean(hidden @ self.projection, text, 1, budget),)


class Layer(nn.Module):
    """One BERT layer with cross-attention: hidden [B, Q, W], tokens [B, R, W] -> [B, Q, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = max(1, width // HEAD_WIDTH)
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.wider, self.narrower = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, EPSILON) for _ in range(3))

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        hidden = self.norms[0](hidden + self.own(hidden, hidden))
        hidden = self.norms[1](hidden + self.cross(hidden, tokens))
        return self.norms[2](hidden + self.narrower(F.gelu(self.wider(hidden))))


def cross_entropy(scores: Tensor, positive: Tensor) -> Tensor:
    """Binary cross-entropy of every score [B, C]."""
    return F.binary_cross_entropy_with_logits(scores, positive.to(scores.dtype), reduction="none")


def asymmetric(scores: Tensor, positive: Tensor) -> Tensor:
    """The asymmetric loss (Ridnik et al. 2021) of every score [B, C], as the release sets it: a
    negative counts by its probability to the power of 4, which has no gradient.
    """
    probability = scores.sigmoid()
    likelihood = torch.where(positive, probability, 1 - probability).clamp(min=FLOOR)
    focus = torch.where(positive, 1.0, probability.detach() ** FOCUS)
    return -SCALE * focus * likelihood.log()
