"""C²SRT: open-vocabulary multi-label recognition.

`c2srt.load(path).predict(images, labels)` needs nothing else.
"""

from typing import TYPE_CHECKING

from c2srt.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from c2srt.backbone.config import ClipConfig
    from c2srt.predict.predictor import Predictor
    from c2srt.relations.config import WordsConfig

__all__ = ["__version__", "load"]
__version__ = VERSION


def load(
    path: "str | Path",
    words: "WordsConfig | None" = None,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    clip: "ClipConfig | None" = None,
    templates: list[str] | None = None,
    score: str = "auto",
) -> "Predictor":
    """Loads an exported model (the model/ folder of a training). Raises c2srt.errors.UserError if
    there is none at `path`.

    `words` says how words outside the vocabulary find their neighbours; by default by text
    similarity. `device` is auto (None), cpu, cuda, cuda:1, mps; `dtype` torch's, or fp32 (None),
    bf16, fp16. With the path "clip" it is a CLIP as it is, zero-shot: the one that `clip` names
    (c2srt.backbone.config.ClipConfig), with prompts made of `templates` ("a photo of a {}."). The
    scores of a calibrated model are probabilities (`score`: auto | probability | cosine).
    """
    from c2srt.predict.predictor import load  # torch and open_clip take seconds: only those
    # who predict pay

    return load(path, words, device, dtype, clip, templates, score)
