"""C²SRT: open-vocabulary multi-label recognition.

`c2srt.load(path).predict(images, labels)` needs nothing else.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from c2srt.predict.predictor import Predictor
    from c2srt.relations.config import WordsConfig


def load(path: "str | Path", words: "WordsConfig | None" = None) -> "Predictor":
    """Loads an exported model (the model/ folder of a training). Raises c2srt.errors.UserError if
    there is none at `path`.

    `words` says how words outside the vocabulary find their neighbours; by default by text
    similarity.
    """
    from c2srt.predict.predictor import (
        load,  # torch and open_clip take seconds: only those who predict pay
    )

    return load(path, words)
