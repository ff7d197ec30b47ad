"""MKT: He et al., Open-Vocabulary Multi-Label Classification via Multi-Modal Knowledge Transfer,
AAAI 2023; code sunanhe/MKT (models/clip_vit.py, engine_nus_first_stage.py,
engine_nus_second_stage.py).

Two streams of plain products with the text features: per category the mean over its 16 best
patches, and the class token's. Each is divided by its L2 norm over the categories of the image, and
the score is their mean. First stage: ranking loss (mean over violating pairs, margin 1) + L1
distillation (mean over D) of weight 1; the last two blocks, ln_post and proj train, with layer
decay. Second stage: `c2srt tune`, the ranking loss alone, for the template. The head has no
parameter.

Deviations: text features are of unit length (the release multiplies by raw ones). The norm over the
categories is that over all C of the list that is scored, for ZSL too, where the release scores the
unseen ones again alone; so a score depends on the list that it is part of. CLIP's own pixel
statistics (the release: ImageNet's). In the second stage the release trains the rows of the whole
token embedding, names set back to theirs; here the template's positions. Not the release's either:
RandAugment and crops from 0.08 of the area (here those of `views`), the one template "There is a {}
in the scene" (here `c2srt text`'s), 2 of 20 epochs of warm-up (here `schedule.warmup`), and for
evaluation the short side at 256, cut to 224 (here at 224).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.backbone.clip import Clip
from c2srt.model.baselines.base import Baseline, Terms
from c2srt.model.baselines.top import top_mean, wide
from c2srt.model.config import LossConfig
from c2srt.model.kinds import MktSettings
from c2srt.model.loss import ranking_loss


class Mkt(Baseline):
    """MKT's first stage, and the gradient that its second needs."""

    settings: MktSettings
    trains_tower = distils = tunes_prompts = True

    def make_head(self, clip: Clip) -> nn.Module:
        return MktHead(self.settings.topk)

    def terms(self, found: tuple, text: Tensor, labels: Tensor) -> Terms:
        return {"ranking": (1.0, ranking_loss(found[0], labels, self.loss))}

    def text_gradient(
        self, images: Tensor, labels: Tensor, weights: Tensor, text: Tensor, loss: LossConfig
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            features = self.features(images)
        with torch.enable_grad():
            text = text.detach().requires_grad_()
            (scores,) = self.head(*features, text.to(features[0].dtype), self.budget(images.device))
            value = (weights * ranking_loss(scores, labels, loss)).mean()
            return value.detach(), torch.autograd.grad(value, text)[0]


class MktHead(nn.Module):
    """patches [B, P, D], global_ [B, D], text [C, D] -> (scores [B, C],)."""

    def __init__(self, topk: int) -> None:
        super().__init__()
        self.topk = topk

    def forward(self, patches: Tensor, global_: Tensor, text: Tensor, budget: int) -> tuple[Tensor]:
        local = top_mean(patches, text, self.topk, budget)
        whole = (global_ @ text.T).to(wide(text))
        return ((F.normalize(local, dim=1) + F.normalize(whole, dim=1)) / 2,)
