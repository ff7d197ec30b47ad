"""RAM: Tan et al., Recover and Match: Open-Vocabulary Multi-Label Recognition through
Knowledge-Constrained Optimal Transport, CVPR 2025; code EricTan7/RAM (model/model.py,
model/ot_solver.py, clip/model.py, clip/adapters.py, loss/mmc_loss.py, configs/nus.yml).

On a frozen CLIP: 8 learned prompts in each of the last three blocks, whose class token is the
global feature, and a stream of patches beside all blocks with an adapter at these three
(ladder.py). The global score of a category is the cosine over a learned temperature (from CLIP's
own), the local one the mean of the patches' cosines by an optimal transport plan (transport.py)
over another. The score is the mean of both's softmax over the categories. Loss: of both,
−mean_{positive c} log softmax_c. An unverified category is a negative.

Deviations: the release learns deep prompts in its text tower, too (4 in each of the last six layers
on NUS-WIDE, three on COCO), and encodes every name anew at each step; here text features are those
of `c2srt text`, of unit length, so that any name can be scored and 7,186 of them cost nothing. Its
softmax of the loss is over all categories of all images of a batch, and its mean over all their
positives; here of each image, see base.py: an image without positives costs 0. BatchNorm is a
LayerNorm over each region's channels. Sinkhorn's iteration stops for each image by itself (for all
at once), and the least Q is the image's (the batch's), which changes no plan that has converged. A
plan's columns have the sum 1 (1 / C), so that a local score does not shrink with the length of the
list: `temperature` is the release's times its 925 categories. Temperatures are learned as
logarithms, as CLIP's is (numbers, which a step can take through 0). The softmax and the plan are
over the whole list that is scored, for ZSL too, where the release scores the unseen categories
alone; so a score depends on the list that it is part of. AdamW at one rate for adapters and prompts
(AdamW 5e-6 and 5e-5, SGD 1e-3), without the release's moving average of the weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2srt.backbone.clip import Clip
from c2srt.backbone.protocol import BlockByBlock
from c2srt.errors import UserError
from c2srt.model.baselines.base import Baseline, Terms
from c2srt.model.baselines.ladder import Ladder, plain_rungs
from c2srt.model.baselines.top import wide
from c2srt.model.baselines.transport import Knowledge, Transport, transported
from c2srt.model.graph import Graph
from c2srt.model.kinds import RamSettings
from c2srt.model.loss import negatives


class Ram(Baseline):
    """RAM on a frozen tower."""

    settings: RamSettings
    head: "RamHead"

    def make_head(self, clip: Clip) -> nn.Module:
        self.steps, settings = self.tower.block_by_block(), self.settings
        if settings.blocks > len(self.steps.blocks):
            raise UserError(
                f"model.baseline.blocks={settings.blocks} are more than the"
                f" {len(self.steps.blocks)} of this ViT"
            )
        self.transport = Transport(clip.logit_scale, settings.entropy, settings.knowledge)
        return RamHead(self.steps, clip.width, clip.grid, clip.logit_scale, settings)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, R, W] and the stream of patches [B, P, W] before the adapted blocks."""
        with torch.no_grad():
            tokens = self.steps.embedded(self.pixels(images))
            plain = self.steps.blocks[: -self.settings.blocks]
            return plain_rungs(self.steps, plain, tokens, tokens[:, 1:])

    def terms(self, found: tuple, text: Tensor, labels: Tensor) -> Terms:
        global_, patches, scale, entering = found
        positive, budget = labels == 1, self.budget(labels.device)
        known = positive | negatives(labels, self.loss)
        knowledge = Knowledge(self.frozen_patches(*entering), positive)
        local = transported(patches, text.to(patches.dtype), self.transport, budget, knowledge)
        return {
            "global": (1.0, contrastive(global_, positive, known)),
            "local": (1.0, contrastive(scale * local, positive, known)),
        }

    @torch.no_grad()
    def frozen_patches(self, tokens: Tensor, local: Tensor) -> Tensor:
        """What `features` found -> the frozen CLIP's patches [B, P, D], of unit length."""
        last = self.steps.blocks[-self.settings.blocks :]
        _, local = plain_rungs(self.steps, last, tokens, local)
        return unit(self.steps.joint(local))

    @torch.no_grad()
    def scores(self, images: Tensor, graph: Graph | None = None) -> tuple[Tensor, None]:
        features, budget = self.features(images), self.budget(images.device)
        text = (graph or self.graph_on(images.device)).text.to(features[0])
        global_, patches, scale, _ = self.head(*features, text, budget)
        local = scale * transported(patches, text, self.transport, budget)
        return (global_.softmax(1) + local.softmax(1)) / 2, None


class RamHead(nn.Module):
    """tokens [B, R, W] and stream [B, P, W] before the adapted blocks, text [C, D] -> (global
    logits [B, C], patches [B, P, D] of unit length, what their scores are multiplied by, tokens and
    stream as they came).
    """

    def __init__(
        self,
        steps: BlockByBlock,
        width: int,
        grid: tuple[int, int],
        scale: float,
        settings: RamSettings,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.ladder = Ladder(steps, settings.blocks, settings.prompts, width, grid)
        # of one element each: DeepSpeed broadcasts bytes, and a number without dimensions has none
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.local_log_scale = nn.Parameter(torch.tensor([-math.log(settings.temperature)]))

    def forward(self, tokens: Tensor, local: Tensor, text: Tensor, budget: int) -> tuple:
        behind, stream = self.ladder(tokens, local, text)
        global_, patches = self.steps.joint(behind[:, :1])[:, 0], self.steps.joint(stream)
        cosines = (unit(global_) @ text.T).to(wide(text))
        logits = self.log_scale.to(cosines.dtype).exp() * cosines
        scale = self.local_log_scale.to(cosines.dtype).exp()
        return logits, unit(patches), scale, (tokens, local)


def unit(features: Tensor) -> Tensor:
    """The rows, of unit length."""
    return F.normalize(features, dim=-1)


def contrastive(logits: Tensor, positive: Tensor, known: Tensor) -> Tensor:
    """−mean over the positives of log softmax over the `known` categories, per image [B] of logits
    and masks [B, C]; 0 without a positive.
    """
    least = torch.finfo(logits.dtype).min  # not −∞, whose gradient is NaN where nothing is known
    likelihood = logits - logits.masked_fill(~known, least).logsumexp(1, keepdim=True)
    count = positive.sum(1)
    total = torch.where(positive, likelihood, 0).sum(1)
    return -total / count.clamp(min=1)
