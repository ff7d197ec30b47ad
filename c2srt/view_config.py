"""How the views of an image are drawn. Apart from views.py, so that it is checked without torch."""

from dataclasses import dataclass

from c2srt.errors import UserError
from c2srt.keys import key


@dataclass
class ViewConfig:
    """Random resized crops: `count` views V of each image (0: only the centre view, without
    augmentation), an area of `scale_min`…`scale_max` of the image, width / height in
    `ratio_min`…`ratio_max`, mirrored half of the time if `flip`.
    """

    count: int = key(
        4, "views V of each image: epoch e trains on view e mod V; 0: the centre view only"
    )
    scale_min: float = key(0.3, "share of the image's area that a crop covers, at least …")
    scale_max: float = key(1.0, "… and at most")
    ratio_min: float = key(0.75, "width / height of the crop, at least …")
    ratio_max: float = key(4 / 3, "… and at most")
    flip: bool = key(True, "mirror half of the views")

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
