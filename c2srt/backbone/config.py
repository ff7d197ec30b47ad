"""Which CLIP everything starts from; nothing heavy is imported here."""

from dataclasses import dataclass

RANDOM = "random"


@dataclass
class ClipConfig:
    """Which CLIP: `name` an open_clip model or the path of a model config (.json); `pretrained` an
    open_clip tag, the path of a weights file (safetensors, or a tensors-only torch file), or
    `random` (seeded; tests and benchmarks).
    """

    name: str = "ViT-B-16"
    pretrained: str = "openai"
