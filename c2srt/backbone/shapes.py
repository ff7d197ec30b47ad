"""What the head sees of open_clip's models: patches P and joint width D, from the configs alone.
Nothing is built.
"""

import re

from c2srt.backbone import library
from c2srt.backbone.check import check_towers
from c2srt.errors import UserError

CLIP_PIXELS = 224
CLIP_PATCH = 16
"""open_clip's defaults; the towers of timm that don't name their patches' side have this, too."""


def head_shapes() -> dict[tuple[int, int], list[str]]:
    """(P, D) of every model of open_clip's that is taken, and their names."""
    found: dict[tuple[int, int], list[str]] = {}
    for name in library.model_names():
        content = library.model_config(name) or {}
        try:
            check_towers(content)
        except UserError:
            continue
        shape = (patches_of(content["vision_cfg"]), content["embed_dim"])
        found.setdefault(shape, []).append(name)
    return dict(sorted(found.items()))


def patches_of(vision: dict) -> int:
    """P of a vision_cfg, whose pictures are square."""
    named = re.search(r"patch(\d+)", vision.get("timm_model_name") or "")
    side = int(named[1]) if named else vision.get("patch_size", CLIP_PATCH)
    return (vision.get("image_size", CLIP_PIXELS) // side) ** 2
