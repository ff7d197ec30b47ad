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
    """`slope`, `offset` and `threshold` float32 [C], the last the probability from which a category
    is named; `new` float32 [3], these of any other word.
    """

    slope: Tensor
    offset: Tensor
    threshold: Tensor
    new: Tensor

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores [B, C + n] -> probabilities of the same shape, in float32."""
        slope, offset, _ = self.of(scores.shape[1])
        return torch.sigmoid(slope * scores.float() + offset)

    def thresholds(self, columns: int) -> Tensor:
        """[C + n], of as many columns of scores."""
        return self.of(columns)[2]

    def of(self, columns: int) -> list[Tensor]:
        """Slope, offset and threshold of each column."""
        words = columns - len(self.slope)
        assert words >= 0, f"scores of {len(self.slope)} categories and of other words"
        own = (self.slope, self.offset, self.threshold)
        return [
            torch.cat([known, new.expand(words)]) for known, new in zip(own, self.new, strict=True)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """By name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
