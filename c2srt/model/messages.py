"""Score messages: what a trained model's scores of related categories say about a category.

    logit_c = own_c · s_c + Σ_e weights_ce · s_sources_ce + bias_c           of a seen category
    logit_c = own_c · s_c + Σ_k shares_ck · logit_neighbours_ck + bias_c     of an unseen one

over the scores s of the model itself, and for an unseen category over the logits of seen ones,
which hear others before; so its vocabulary stays open: a word that it never heard of keeps its own
score, on the scale of the others. c2srt/messages fits the numbers, this is all that predicting
needs. Letters: B images, C categories, S seen, U unseen, E sources, K neighbours, n new words.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Messages:
    """`sources` int64 [S, E], columns of the scores; `weights` float32 [S, E]; `neighbours` int64
    [U, K], columns of seen categories; `shares` float32 [U, K]; weights and shares are 0 where
    there is nobody. `own` and `bias` float32 [C]; `new` float32 [2], own and bias of any other
    word.
    """

    sources: Tensor
    weights: Tensor
    neighbours: Tensor
    shares: Tensor
    own: Tensor
    bias: Tensor
    new: Tensor

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores [B, C + n] -> logits of the same shape, in float32."""
        scores = scores.float()
        count, seen = len(self.own), len(self.sources)
        logits = torch.empty_like(scores)
        logits[:, count:] = self.new[0] * scores[:, count:] + self.new[1]
        logits[:, :count] = self.own * scores[:, :count] + self.bias
        for sources, weights in zip(self.sources.T, self.weights.T, strict=True):
            logits[:, :seen] += weights * scores[:, sources]
        for neighbours, shares in zip(self.neighbours.T, self.shares.T, strict=True):
            logits[:, seen:count] += shares * logits[:, neighbours]
        return logits

    def to(self, device: torch.device) -> "Messages":
        return Messages(*(tensor.to(device) for tensor in self.tensors().values()))

    def tensors(self) -> dict[str, Tensor]:
        """By name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
