"""What `c2srt text` is told, apart from text.py so that it can be checked without torch."""

from dataclasses import dataclass
from typing import Any

from c2srt.backbone.config import ClipConfig
from c2srt.backbone.prompts import check_templates, chosen_templates
from c2srt.errors import UserError
from c2srt.keys import Mark, Takes, key, refuse_below
from c2srt.shared_keys import shared

PROVENANCE = "text.json"
"""The record of a folder of text features."""


@dataclass
class Config:
    """Keys of `c2srt text`."""

    clip: ClipConfig = shared("clip")
    templates: Any = key(
        "ensemble",
        "a list of `prompts`, or an explicit list of templates with {} where the name goes",
    )
    prompts: dict[str, list[str]] = key(
        {},
        (
            "the lists to choose from, by data set: configs/datasets/<data>.yaml "
            "(table 5 compares simple and ensemble)"
        ),
        composed=False,
    )
    shards: str = shared("shards")
    out: str = key(
        "",
        "folder written: text.safetensors, text.json",
        mark=Mark.HARMLESS,
        follows="${text}",
        takes=Takes.PLACE,
    )
    batch: int = key(256, "prompts that pass the text tower at a time (memory)", mark=Mark.HARMLESS)
    block: int = key(
        512, "names between two saves: what a killed run loses at most", mark=Mark.HARMLESS
    )

    smooth: int = key(
        0,
        "features become the mean of a category's own and its first so many neighbours' in"
        " `relations`; give such features a folder of their own (out=…); 0: they don't",
    )
    relations: str = shared("relations")

    def __post_init__(self) -> None:
        refuse_below(self, 0, "", "smooth")
        if min(self.batch, self.block) < 1:
            raise UserError(f"batch={self.batch} and block={self.block} must be at least 1")
        check_templates(self.chosen_templates)

    @property
    def chosen_templates(self) -> list[str]:
        """As `chosen_templates` (c2srt/backbone/prompts.py)."""
        return chosen_templates(self.templates, self.prompts)
