"""ZS-SDL: Ben-Cohen et al., Semantic Diversity Learning for Zero-Shot Multi-label Classification,
ICCV 2021; code Alibaba-MIIL/ZS_SDL (src/loss_functions/SDL_loss.py, src/models/utils/factory.py,
train.py: that of COCO, with M = 2, w = 0.01, Adam at 2.5e-5 and 10 epochs).

One linear layer takes the image feature to a matrix A of M = 7 rows in the words' space; a
category's score is max_m ⟨A_m, v_c⟩. Loss of an image with positives P and negatives N, w = 0.3: 2
((1 − w) (1 + D) Σ_{p, n} log(1 + exp(s_n − s_p)) / |P| + w ‖var_m A‖₁), where D, the semantic
diversity, is the variance of the positives' word vectors, summed over dimensions (0 for one), and
var_m the variance over the rows of A; both unbiased. An unverified category is a negative.

Deviations: the image feature is the student's global one, and its tower trains like C²SRT's
(TResNet-M or -L, end to end); words are CLIP's text features of unit length (300-d word vectors).
An image without positives or negatives costs only its regulariser.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.backbone.clip import Clip
from c2srt.model.baselines.base import Baseline, Terms
from c2srt.model.baselines.top import top_mean, wide
from c2srt.model.kinds import ZsSdlSettings
from c2srt.model.loss import negatives


class ZsSdl(Baseline):
    """ZS-SDL with the student's tower."""

    settings: ZsSdlSettings
    trains_tower = True

    def make_head(self, clip: Clip) -> nn.Module:
        return ZsSdlHead(clip.width, clip.width, self.settings.rows)

    def terms(self, found: tuple, text: Tensor, labels: Tensor) -> Terms:
        scores, matrix = found
        ranking = SoftplusPairs.apply(scores, labels == 1, negatives(labels, self.loss))
        weight, spread = self.settings.regulariser, matrix.to(wide(matrix)).var(1).sum(1)
        return {
            "ranking": (2 * (1 - weight), (1 + diversity(labels, text)) * ranking),
            "spread": (2 * weight, spread),
        }


class ZsSdlHead(nn.Module):
    """global_ [B, D], text [C, W] -> (scores [B, C], matrix [B, M, W])."""

    def __init__(self, width: int, word_width: int, rows: int) -> None:
        super().__init__()
        self.rows, self.embedding = rows, nn.Linear(width, rows * word_width, bias=False)

    def forward(
        self, patches: Tensor, global_: Tensor, text: Tensor, budget: int
    ) -> tuple[Tensor, Tensor]:
        matrix = self.embedding(global_).unflatten(1, (self.rows, -1))
        return top_mean(matrix, text, 1, budget), matrix


def diversity(labels: Tensor, text: Tensor) -> Tensor:
    """Variance of the positives' text features [C, D], summed over dimensions, per image [B]: (Σ
    ‖v‖² − ‖Σ v‖² / n) / (n − 1).
    """
    positive, text = (labels == 1).to(text.dtype), text.detach()
    count = positive.sum(1)
    within = positive @ text.square().sum(1) - (positive @ text).square().sum(1) / count.clamp(
        min=1
    )
    return within.clamp(min=0) / (count - 1).clamp(min=1)


class SoftplusPairs(torch.autograd.Function):
    """Σ_{p, n} log(1 + exp(s_n − s_p)) / |P| per image [B] of scores [B, C] and bool masks, one
    positive of every image at a time: memory is a few [B, C], whatever the number of positives.
    """

    @staticmethod
    def forward(ctx, scores, positive, negative):
        count = positive.sum(1)
        best, order = scores.masked_fill(~positive, torch.inf).topk(
            int(count.max()), largest=False
        )  # inf: no such positive
        total, gradient = scores.new_zeros(len(scores)), torch.zeros_like(scores)
        for rank in range(best.shape[1]):
            difference = scores - best[:, rank, None]
            total += (F.softplus(difference) * negative).sum(1)
            slope = difference.sigmoid() * negative
            gradient += slope
            gradient.scatter_add_(1, order[:, rank, None], -slope.sum(1, keepdim=True))
        share = 1 / count.clamp(min=1).to(scores.dtype)
        ctx.save_for_backward(gradient * share[:, None])
        return total * share

    @staticmethod
    def backward(ctx, upstream):
        return upstream[:, None] * ctx.saved_tensors[0], None, None
