"""Which CLIP everything starts from; nothing heavy is imported here."""

from dataclasses import dataclass

from c2srt.keys import key

RANDOM = "random"


@dataclass
class ClipConfig:
    """Which CLIP: `name` an open_clip model or the path of a model config (.json); `pretrained` an
    open_clip tag, the path of a weights file (safetensors, or a tensors-only torch file), or
    `random` (seeded; tests and benchmarks).
    """

    name: str = key(
        "ViT-B-16", "an open_clip model, or the path of an open_clip model config (.json)"
    )
    pretrained: str = key(
        "openai",
        (
            "an open_clip tag, or the path of a weights file; random: no "
            "weights (tests and benchmarks only)"
        ),
    )
