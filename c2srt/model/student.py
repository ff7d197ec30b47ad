"""What training, evaluation, prompt tuning and export ask of a model, whatever its head."""

from abc import abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph


class Student(Protocol):
    """What every kind of model promises. `Network` (c2srt/model/network.py) has what they share:
    the tower, the teacher, the categories, of which the first `seen_count` are the seen ones.

    Shapes: B images, S pixels a side, C categories, D joint width.
    """

    config: ModelConfig
    loss: LossConfig
    seen_count: int
    tunes_prompts: ClassVar[bool]
    """Whether it has a `text_gradient`."""

    @abstractmethod
    def forward(
        self, images: Tensor, labels: Tensor, teacher: Tensor | None, weights: Tensor
    ) -> dict[str, Tensor]:
        """One training micro-batch over the seen categories: images uint8 [B, 3, S, S], labels [B,
        seen_count] in −1/0/1, the teacher's raw global features [B, D] or None (computed online if
        the model was built so, or not needed), weights [B].

        Returns scalars: loss, the mean of weights × per-image loss, and its terms for the record.
        An image of weight 0 changes nothing. Raises UserError where a teacher is needed and absent.
        """
        raise NotImplementedError

    @abstractmethod
    def scores(self, images: Tensor, graph: Graph | None = None) -> tuple[Tensor, Tensor | None]:
        """uint8 images [B, 3, S, S] -> scores [B, C] in float32 or wider, for the model's own
        categories or another `graph`, and the patch counts [B, C] (None without an ISR).
        """
        raise NotImplementedError

    @abstractmethod
    def text_gradient(
        self, images: Tensor, labels: Tensor, weights: Tensor, text: Tensor, loss: LossConfig
    ) -> tuple[Tensor, Tensor]:
        """The mean of weights × ranking loss of a micro-batch as in `forward`, for text features
        `text` [seen_count, D] of the seen categories, and its gradient for them, of the same shape
        (prompt tuning). Raises UserError where `tunes_prompts` is false.
        """
        raise NotImplementedError

    @abstractmethod
    def training_summary(
        self, images: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[str, dict[str, float]]:
        """How the head will compute micro-batches of `images`: as a line, and as numbers for the
        tracker.
        """
        raise NotImplementedError
