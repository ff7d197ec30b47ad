"""Which CLIP everything starts from; nothing heavy is imported here."""

import os
from dataclasses import dataclass, replace

from c2srt.keys import key

RANDOM = "random"
FOLDER_CONFIG = "open_clip_config.json"
"""What makes a folder one that `hf download` made of an open_clip model."""


@dataclass
class ClipConfig:
    """Which CLIP: `name` an open_clip model, the path of a model config (.json), or a folder as `hf
    download` makes of an open_clip model (`hf-hub:owner/model`: the one in the hub's cache), which
    brings config, tokenizer and weights; `pretrained` an open_clip tag, the path of a weights file
    (safetensors, or a tensors-only torch file), or `random` (seeded; tests and benchmarks).
    """

    name: str = key(
        "ViT-B-16",
        (
            "an open_clip model, the path of an open_clip model config (.json), or a "
            "folder that `hf download` made of one (hf-hub:owner/model: in its cache)"
        ),
    )
    pretrained: str = key(
        "openai",
        (
            "an open_clip tag, or the path of a weights file (a folder brings its own); "
            "random: no weights (tests and benchmarks only)"
        ),
    )

    def absolute(self) -> "ClipConfig":
        """With absolute paths of what lies here, for a process that runs in another folder; names
        and tags as they are, whatever folders are called like them.
        """
        is_folder = os.path.isfile(os.path.join(self.name, FOLDER_CONFIG))
        return replace(
            self,
            name=os.path.abspath(self.name) if is_folder else absolute_file(self.name),
            pretrained=absolute_file(self.pretrained),
        )


def absolute_file(name: str) -> str:
    return os.path.abspath(name) if os.path.isfile(name) else name
