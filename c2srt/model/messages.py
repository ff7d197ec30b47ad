"""Score messages: what a trained model's scores of related categories say about a category.

    logit_c = own_c · s_c + Σ_e weights_ce · s_sources_ce + bias_c

over the scores s of the model itself, so that its vocabulary stays open: a word that it never heard
of keeps its own score, on the scale of the others. c2srt/messages fits the numbers, this is all
that predicting needs. Letters: B images, C categories, E sources of a category, n new words.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Messages:
    """`sources` int64 [C, E], columns of the scores; `weights` float32 [C, E], 0 where there is no
    source; `own` and `bias` float32 [C]; `new` float32 [2], own and bias of any other word.
    """

    sources: Tensor
    weights: Tensor
    own: Tensor
    bias: Tensor
    new: Tensor

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores [B, C + n] -> logits of the same shape, in float32."""
        scores = scores.float()
        count = len(self.own)
        logits = torch.empty_like(scores)
        logits[:, count:] = self.new[0] * scores[:, count:] + self.new[1]
        logits[:, :count] = self.own * scores[:, :count] + self.bias
        for sources, weights in zip(self.sources.T, self.weights.T, strict=True):
            logits[:, :count] += weights * scores[:, sources]
        return logits

    def to(self, device: torch.device) -> "Messages":
        return Messages(*(tensor.to(device) for tensor in self.tensors().values()))

    def tensors(self) -> dict[str, Tensor]:
        """By name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
