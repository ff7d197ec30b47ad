"""What `c2srt text` is told, apart from text.py so that it can be checked without torch."""

from dataclasses import dataclass, field
from typing import Any

from c2srt.backbone.config import ClipConfig
from c2srt.backbone.prompts import check_templates
from c2srt.errors import UserError


@dataclass
class Config:
    """Keys of `c2srt text`, explained in configs/text.yaml."""

    clip: ClipConfig = field(default_factory=ClipConfig)
    templates: Any = "ensemble"
    prompts: dict[str, list[str]] = field(default_factory=dict)
    shards: str = ""
    out: str = ""
    batch: int = 256
    block: int = 512

    def __post_init__(self) -> None:
        if min(self.batch, self.block) < 1:
            raise UserError(f"batch={self.batch} and block={self.block} must be at least 1")
        check_templates(self.chosen_templates)

    @property
    def chosen_templates(self) -> list[str]:
        """The explicit list, or the list of `prompts` that `templates` names. Raises UserError on
        an unknown name.
        """
        if isinstance(self.templates, list):
            return self.templates
        if self.templates not in self.prompts:
            raise UserError(
                f"templates={self.templates} is not known: choose one of {', '.join(self.prompts)},"
                " or give a list, templates='[\"a photo of a {}.\"]'"
            )
        return self.prompts[self.templates]
