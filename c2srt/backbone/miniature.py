"""The shape of the miniature's own CLIP: what `c2srt demo` pre-trains and `c2srt plan` counts."""

from typing import Any

SIZE = 64
"""Pixels a side of the miniature's pictures, and of what its CLIP sees."""
MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIZE, "layers": 4, "width": 64, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
