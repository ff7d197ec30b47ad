"""Calibration: what a trained model's score says of a category's presence, as a probability.

    p_c = 1 / (1 + exp(−(slope_c · s_c + offset_c)))

One slope for all seen categories (the inverse of a temperature, Guo et al. 2017), an offset for
each (Platt 1999). c2srt/calibration fits the numbers, this is all that predicting needs. Letters: B
images, C categories, n new words.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """`slope` and `offset` float32 [C]; `new` float32 [2], slope and offset of any other word;
    `threshold` float32 [], the probability from which a category is named.
    """

    slope: Tensor
    offset: Tensor
    new: Tensor
    threshold: Tensor

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores [B, C + n] -> probabilities of the same shape, in float32."""
        count, words = len(self.slope), scores.shape[1] - len(self.slope)
        slope, offset = (
            torch.cat([own, new.expand(words)])
            for own, new in ((self.slope, self.new[:1]), (self.offset, self.new[1:]))
        )
        assert words >= 0, f"scores of {count} categories and of other words"
        return torch.sigmoid(slope * scores.float() + offset)

    def tensors(self) -> dict[str, Tensor]:
        """By name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
