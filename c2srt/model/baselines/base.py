"""What the baselines share: they take the student's place in the training loop, the evaluator, the
export and `predict`.

A baseline sees the same pixels, the same image tower and the same text features as C²SRT (the
originals: VGG-19 or TResNet features and GloVe vectors), has a head and losses of its own, and no
use for the relation graph. Every term of its loss is a value per image, weighted and averaged as
C²SRT's: an image of weight 0 (padding) changes nothing, nor does the way that a batch is dealt to
ranks and micro-batches. So there is no dropout and no batch statistic in any of them: a step is a
function of configuration, inputs and step number alone, and parameters are a model's whole state.

Optimizer and schedule are the loop's own (AdamW, half a cosine) for all of them.
"""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from c2srt.backbone.clip import Clip
from c2srt.errors import UserError
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.kinds import Settings
from c2srt.model.loss import distillation_loss
from c2srt.model.network import Network, no_teacher
from c2srt.model.tiling import MIB

Terms = dict[str, tuple[float, Tensor]]


class Baseline(Network):
    """A student with another head; a subclass reads its `settings` (c2srt/model/kinds.py) and says
    which head it has, and its terms of the loss.
    """

    trains_tower: ClassVar[bool] = False
    """Whether the tower trains (model.trainable_blocks); else it stays CLIP's, as the original's
    backbone did.
    """
    distils: ClassVar[bool] = False
    settings: Settings

    def __init__(
        self,
        clip: Clip,
        config: ModelConfig,
        loss: LossConfig,
        graph: Graph,
        seen_count: int,
        online_teacher: bool = False,
    ) -> None:
        super().__init__(clip, config, loss, graph, seen_count, online_teacher and self.distils)
        if not self.trains_tower:
            self.tower.requires_grad_(False)
        self.settings = config.settings()
        self.head = self.make_head(clip)

    def make_head(self, clip: Clip) -> nn.Module:
        """The head: called with `features`, text [C, D] and a budget in bytes, it returns (scores
        [B, C], *what terms need).
        """
        raise NotImplementedError

    def terms(self, found: tuple, text: Tensor, labels: Tensor) -> Terms:
        """The loss from what the head returned for text [S, D]: by name, (factor, value per image
        [B]).
        """
        raise NotImplementedError

    def forward(
        self, images: Tensor, labels: Tensor, teacher: Tensor | None, weights: Tensor
    ) -> dict[str, Tensor]:
        """As `Student.forward`; the terms are without their factors."""
        if self.loss.distillation > 0 and not self.distils:
            raise UserError(
                f"model.kind={self.config.kind} has no distillation: set loss.distillation=0"
            )
        text, features = self.graph_on(images.device).text[: self.seen_count], self.features(images)
        terms = self.terms(
            self.head(*features, text.to(features[0].dtype), self.budget(images.device)),
            text,
            labels,
        )
        if self.loss.distillation > 0:
            teacher = self.teacher_features(images) if self._teacher else teacher
            if teacher is None:
                raise no_teacher()
            terms["distillation"] = (
                self.loss.distillation,
                distillation_loss(features[1], teacher, self.loss),
            )
        values = {name: (weights * term).mean() for name, (_, term) in terms.items()}
        loss = sum(factor * values[name] for name, (factor, _) in terms.items())
        return values | {"loss": cast(Tensor, loss)}  # there is a term at least

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the head reads of uint8 images [B, 3, S, S]: patch features [B, P, D] and the global
        feature [B, D], raw.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_tower):
            return self.tower(self.pixels(images))

    @torch.no_grad()
    def scores(self, images: Tensor, graph: Graph | None = None) -> tuple[Tensor, None]:
        """As `Student.scores`, without an ISR. Of `graph` only the text features count."""
        features = self.features(images)
        text = (graph or self.graph_on(images.device)).text.to(features[0])
        return self.head(*features, text, self.budget(images.device))[0], None

    def text_gradient(
        self, images: Tensor, labels: Tensor, weights: Tensor, text: Tensor, loss: LossConfig
    ) -> tuple[Tensor, Tensor]:
        """As `Student.text_gradient`; most baselines have none."""
        raise UserError(
            f"model.kind={self.config.kind} has no prompt tuning: tune a C²SRT or an MKT"
        )

    def training_summary(
        self, images: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[str, dict[str, float]]:
        """As `Student.training_summary`."""
        parameters, mib = (
            sum(getattr(p, "ds_numel", p.numel()) for p in self.head.parameters()),
            self.budget(device) / MIB,
        )
        line = (
            f"head of {self.config.kind}: {parameters:,} parameters; categories are scored within"
            f" {mib:,.0f} MiB at a time"
        )
        return line, {"head/parameters": parameters, "head/tile_mib": mib}
