"""An export behind `mlflow models serve`: pictures come in as base64, ranked labels go out.

    POST /invocations  {"inputs": [{"image": "<base64 of a JPEG, PNG, …>"}], "params": {"labels":
                       ["dog", "red car"], "topk": 5}}
    →                  {"predictions": [{"labels": [{"label": "dog", "score": 7.1}, …]}]}

Without "labels" the model's vocabulary is ranked. A picture that cannot be read has "labels": []
and an "error"; a request that makes no sense, or is larger than c2srt/serving_limits.py says, is
refused (400) with a sentence that repeats nothing of it. MLflow finds `_load_pyfunc` by this
module's name; nothing is unpickled.
"""

import base64
import binascii
import difflib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import wraps
from queue import LifoQueue
from typing import Any

import numpy as np
from PIL import Image

from c2srt import serving_limits as limits
from c2srt.errors import UserError
from c2srt.isolation import Isolated
from c2srt.pictures import magic
from c2srt.predict.inputs import Encoded
from c2srt.predict.labels import check_labels
from c2srt.predict.models import Trained
from c2srt.predict.predictor import Prediction, Predictor, load
from c2srt.relations.config import WordsConfig

TOPK = 5
PARAMETERS = ("labels", "topk")
COLUMN = "image"
CHECKED = "_checked_by_c2srt"


def _load_pyfunc(path: str) -> "Tagger":
    os.environ.setdefault(
        "MLFLOW_DISABLE_SCHEMA_DETAILS", "true"
    )  # its message would hold the whole picture
    models = sys.modules["mlflow.pyfunc"].PyFuncModel  # MLflow is who calls this function
    if not hasattr(models.predict, CHECKED):
        models.predict = checked(models.predict)
    limits.bound_the_server()
    return Tagger(path)


def checked(predict: Callable) -> Callable:
    """MLflow's own `predict`, which sees the parameters before MLflow drops those that it does not
    know.

    MLflow answers its own exceptions with the whole input in base64, any other one with its
    sentence alone.
    """

    @wraps(predict)
    def predicted(self: Any, data: Any, params: Any = None) -> Any:
        model = type(getattr(self, "_model_impl", None))
        if (model.__module__, model.__name__) != (
            __name__,
            Tagger.__name__,
        ):  # MLflow may import this file twice
            return predict(self, data, params)
        check_columns(data)
        check_parameters(params)
        try:
            return predict(self, data, params)
        except Exception as error:
            if not hasattr(error, "error_code"):  # not one of MLflow's
                raise
            raise UserError(
                f"the request cannot be answered: {str(error).splitlines()[0][:200]}"
            ) from None

    setattr(predicted, CHECKED, True)
    return predicted


def check_columns(data: Any) -> None:
    """Raises UserError for a column that MLflow would drop: labels belong to the parameters."""
    rows = data if isinstance(data, list) else [data]
    columns = data.values() if isinstance(data, dict) else [data]
    limits.check_count(
        max(
            (
                len(column)
                for column in columns
                if hasattr(column, "__len__") and not isinstance(column, str)
            ),
            default=0,
        )
    )
    names = [
        name
        for row in rows
        for name in getattr(row, "columns", row if isinstance(row, dict) else ())
    ]
    if (other := next((name for name in names if name != COLUMN), None)) is not None:
        raise UserError(
            f"there is no input{shown(other)}: an input is {{{COLUMN!r}: <base64>}}, and "
            f"{' and '.join(PARAMETERS)} are parameters"
        )


def check_parameters(params: Any) -> None:
    """Raises UserError unless `params` holds nothing but words in `labels` and a number in
    `topk`.
    """
    if not isinstance(params, (dict, type(None))):
        raise UserError(
            'params must be an object such as {"labels": ["dog", "red car"], "topk": 5}'
        )
    for name, value in (params or {}).items():
        if name not in PARAMETERS:
            close = difflib.get_close_matches(str(name), PARAMETERS, 1)
            meant = f", did you mean {close[0]!r}?" if close else ""
            raise UserError(
                f"there is no parameter{shown(name)}{meant} (there are {' and '.join(PARAMETERS)})"
            )
        if name == "labels" and not isinstance(value, list):
            raise UserError(
                'labels must be a list of words, such as ["dog", "red car"]; leave it out to rank'
                " the model's vocabulary"
            )
        if name == "topk" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError("topk must be a whole number from 1")
    limits.check_size((params or {}).get("labels", []), (params or {}).get("topk", TOPK))
    check_labels((params or {}).get("labels"))


def shown(name: Any) -> str:
    """A mistyped name, to be recognised; nothing that could be more than that."""
    return (
        f" {name!r}"
        if isinstance(name, str) and name.isidentifier() and name.isascii() and len(name) <= 20
        else ""
    )


class Tagger:
    """The model in `path`, as MLflow calls it, within the limits of c2srt/serving_limits.py. New
    words are kept while the process lives, not beside the model, and not all of them.
    """

    def __init__(self, path: str) -> None:
        self._words = tempfile.TemporaryDirectory(prefix="c2srt-words-")
        self._predictor: Predictor = load(path, WordsConfig(cache=self._words.name))
        assert isinstance(self._predictor.model, Trained), "an export is served"
        self._model = self._predictor.model
        self._predictor.decode = self._decode
        self._one_at_a_time = threading.Lock()  # the memory of one request's pass
        self._decoders: LifoQueue[Isolated] = LifoQueue()
        for _ in range(limits.AT_ONCE):
            self._decoders.put(Isolated("c2srt.pictures:decode", limits.PICTURE_CPU_S))

    def predict(
        self, model_input: Any, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """One answer for each row of a data frame with a column "image". Raises UserError for
        senseless labels, or too many.
        """
        wanted = params or {}  # MLflow has filled in its defaults: no labels are []
        labels, topk = list(wanted.get("labels", ())) or None, int(wanted.get("topk", TOPK))
        check_parameters({"topk": topk} | ({"labels": labels} if labels else {}))
        limits.check_count(len(model_input[COLUMN]))
        asked = self._predictor.asked(labels)
        read = [
            self._read(text) for text in model_input[COLUMN]
        ]  # one picture at a time is held decoded
        with self._one_at_a_time:
            found = iter(
                list(self._predictor.rank([image for image in read if image], asked, topk, None))
            )
            self._model.new_words.forget_beyond(limits.KEPT_WORDS)
        return [
            answer(next(found)) if image else {"labels": [], "error": "not the base64 of a picture"}
            for image in read
        ]

    def _read(self, text: str) -> tuple | None:
        """What `Predictor.read` says of a picture; None if the text is none."""
        picture = decoded(text)
        return self._predictor.read(picture) if picture else None

    def _decode(self, data: bytes) -> np.ndarray:
        """In a process that no other request is using."""
        decoder = self._decoders.get()
        try:
            return decoder(data, limits.PICTURE)
        finally:
            self._decoders.put(decoder)


def decoded(text: str) -> Encoded | None:
    """The file of a picture, which `predict` decodes as any other; None if the text is no base64 of
    one.
    """
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
    return [{"image": base64.b64encode(file.getvalue()).decode()}], {
        "labels": ["dog", "red car"],
        "topk": TOPK,
    }
