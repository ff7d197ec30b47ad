"""Which CLIP everything starts from; nothing heavy is imported here."""

from dataclasses import dataclass

from c2srt.keys import key

RANDOM = "random"


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
