"""An export behind `mlflow models serve`: pictures come in as base64, ranked labels go out.

    POST /invocations  {"inputs": [{"image": "<base64 of a JPEG, PNG, …>"}], "params": {"labels": ["dog", "red car"], "topk": 5}}
    →                  {"predictions": [{"labels": [{"label": "dog", "score": 7.1}, …]}]}

Without "labels" the model's vocabulary is ranked. A picture that cannot be read has "labels": [] and an "error". MLflow finds
`_load_pyfunc` by this module's name; nothing is unpickled.
"""

import base64
import binascii
import io
import tempfile
import threading
from typing import Any

from PIL import Image

from c2srt.pictures import magic
from c2srt.predict import Encoded, Prediction, Predictor, load
from c2srt.relations.words import WordsConfig

TOPK = 5


def _load_pyfunc(path: str) -> "Tagger":
    return Tagger(path)


class Tagger:
    """The model in `path`, as MLflow calls it. New words are kept while the process lives, not beside the model."""

    def __init__(self, path: str) -> None:
        self._words = tempfile.TemporaryDirectory(prefix="c2srt-words-")
        self._predictor: Predictor = load(path, WordsConfig(cache=self._words.name))
        self._one_at_a_time = threading.Lock()  # the head reuses its buffers

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """One answer for each row of a data frame with a column "image". Raises UserError for senseless labels."""
        wanted = params or {}
        labels, topk = [str(label) for label in wanted.get("labels", ())] or None, int(wanted.get("topk", TOPK))
        pictures = [decoded(text) for text in model_input["image"]]
        with self._one_at_a_time:
            found = iter(self._predictor.predict([picture for picture in pictures if picture], labels, max(1, topk)))
        return [answer(next(found)) if picture else {"labels": [], "error": "not the base64 of a picture"} for picture in pictures]


def decoded(text: str) -> Encoded | None:
    """The file of a picture, which `predict` decodes as any other; None if the text is no base64 of one."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        return None
    return Encoded(data) if magic(data) else None


def answer(prediction: Prediction) -> dict[str, Any]:
    labels = [{"label": label, "score": score} for label, score in prediction.labels]
    return {"labels": labels} | ({"error": prediction.error} if prediction.error else {})


def example(size: int) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """An input with its parameters, for MLflow to show: a grey picture of `size` pixels."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), "grey").save(file, "JPEG")
    return [{"image": base64.b64encode(file.getvalue()).decode()}], {"labels": ["dog", "red car"], "topk": TOPK}
