"""How the views of an image are drawn, apart from views.py so that a command line can check it without
torch.
"""

from dataclasses import dataclass

from c2srt.errors import UserError


@dataclass
class ViewConfig:
    """Random resized crops: `count` views V of each image (0: only the centre view, without
    augmentation), an area of `scale_min`…`scale_max` of the image, width / height in
    `ratio_min`…`ratio_max`, mirrored half of the time if `flip`.
    """

    count: int = 4
    scale_min: float = 0.3
    scale_max: float = 1.0
    ratio_min: float = 0.75
    ratio_max: float = 4 / 3
    flip: bool = True

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UserError(f"views.count={self.count}: take 0 (no augmentation) or more")
        if not 0 < self.scale_min <= self.scale_max <= 1:
            raise UserError(
                f"views: 0 < scale_min ≤ scale_max ≤ 1 must hold, not {self.scale_min} and"
                f" {self.scale_max}"
            )
        if not 0 < self.ratio_min <= self.ratio_max:
            raise UserError(
                f"views: 0 < ratio_min ≤ ratio_max must hold, not {self.ratio_min} and"
                f" {self.ratio_max}"
            )
