"""Figure 8."""

from c2srt.figures.draw.predictions import draw

__all__ = ["draw"]
