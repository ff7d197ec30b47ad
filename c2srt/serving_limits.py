"""What one request may cost the served model, and what it is told: a sentence (400), no stack
trace, nothing of what it sent.

MLflow reads a whole request, of any kind, before the model is asked, and answers failures with a
traceback or with the input itself. `bounded` stands between: it wraps two functions of MLflow's
server in the process that serves. A proxy in front should still limit what strangers may do: c2srt
knows no passwords and counts no requests.
"""

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

from c2srt.errors import UserError
from c2srt.isolation import give_back_memory
from c2srt.pictures import Limits
from c2srt.predict.finding import has_lone_bytes

log = logging.getLogger(__name__)

BODY_BYTES = 64 << 20  # a request: sixteen photos of 3 MB in base64
PICTURES = 16
PICTURE = Limits(max_bytes=BODY_BYTES, max_pixels=50_000_000)
PICTURE_CPU_S = 20
LABELS = 1000
LABEL_LETTERS = 300  # a text tower reads 77 tokens
TOPK = 1_000_000
KEPT_WORDS = 10 * LABELS
"""New words whose features are kept between requests."""
AT_ONCE = 3
"""Requests that are decoded, each in a process of its own, and parsed, beside each other."""
AFTER_S = 0.5
"""The answer has been sent by then, and what the request took can be given back to the system."""
JSON = "application/json"
BOUNDED = "_bounded_by_c2srt"
PATH, SERVING = "/invocations", "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
"""Where requests come in, and the variable that MLflow sets to "true" in a process that serves."""


def check_count(images: int) -> None:
    """Raises UserError for more pictures than a request may have."""
    if images > PICTURES:
        raise UserError(
            f"a request may have at most {PICTURES} pictures, this one has {images:,}: send several"
        )


def check_size(labels: list, topk: int) -> None:
    """Raises UserError for more or longer labels, or a larger topk, than a request may have, and
    for labels that are no text.
    """
    if len(labels) > LABELS:
        raise UserError(
            f"a request may have at most {LABELS:,} labels, this one has {len(labels):,}: send"
            " several"
        )
    words = [label for label in labels if isinstance(label, str)]
    if any(has_lone_bytes(word) for word in words):
        raise UserError("a label is not text in UTF-8")
    if any(len(word) > LABEL_LETTERS for word in words):
        raise UserError(f"a label may have at most {LABEL_LETTERS} letters")
    if topk > TOPK:
        raise UserError(f"topk must be at most {TOPK:,}")


def bound_the_server() -> None:
    """Wraps MLflow's server, if this process has it. Its own words for a request that is no request
    are kept out, too.
    """
    server: Any = sys.modules.get("mlflow.pyfunc.scoring_server")
    requests = sys.modules.get("starlette.requests")
    if server is not None and not hasattr(server.invocations, BOUNDED):
        server.invocations = bounded(server.invocations, server)
    if server is not None and requests is not None and not hasattr(requests.Request.body, BOUNDED):
        requests.Request.body = short(requests.Request, server)


def bounded(invocations: Callable, server: Any) -> Callable:
    """MLflow's `invocations`, for JSON only, AT_ONCE at a time; whatever it raises becomes one
    sentence.
    """
    turn = threading.BoundedSemaphore(AT_ONCE)

    @wraps(invocations)
    def answered(data: bytes, content_type: str | None, model: Any, input_schema: Any) -> Any:
        try:
            if (content_type or "").partition(";")[0].strip().lower() != JSON:
                raise UserError(f"a request is {JSON}")
            with turn:
                return invocations(data, content_type, model, input_schema)
        except Exception as error:
            said = sentence(error)
        finally:
            timer = threading.Timer(AFTER_S, give_back_memory)
            timer.daemon = True
            timer.start()
        raise refusal(server, said)

    setattr(answered, BOUNDED, True)
    return answered


def short(request: Any, server: Any) -> Callable:
    """`Request.body`, which stops reading at BODY_BYTES; of other applications in this process it
    remains what it was.
    """
    before = request.body

    async def body(self: Any) -> bytes:
        if self.scope.get("path") != PATH or os.environ.get(SERVING) != "true":
            return await before(self)
        if not hasattr(self, "_body"):
            content = bytearray()
            async for piece in self.stream():
                content += piece
                if len(content) > BODY_BYTES:
                    raise refusal(server, f"a request may have at most {BODY_BYTES >> 20} MiB")
                await asyncio.sleep(0)  # others have their turn
            self._body = bytes(content)
        return self._body

    setattr(body, BOUNDED, True)
    return body


def refusal(server: Any, said: str) -> Exception:
    """MLflow's exception that becomes a 400 with this sentence."""
    return server.MlflowException(said, error_code=server.BAD_REQUEST)


def sentence(error: BaseException) -> str:
    """The UserError that lies behind an error; of any other the kind alone, its place goes to the
    server's log.
    """
    behind: BaseException | None = error
    while behind is not None and not is_ours(behind):
        behind = behind.__cause__ or behind.__context__
    if behind is not None:
        return str(behind)
    where = traceback.extract_tb(error.__traceback__)[-1]
    log.warning(
        f"c2srt: a request failed: {type(error).__name__} in {where.name},"
        f" {where.filename}:{where.lineno}"
    )
    return (
        'the request cannot be answered: it is {"inputs": [{"image": "<base64>"}], '
        '"params": {"labels": ["dog"], "topk": 5}}, params may be left out'
    )


def is_ours(error: BaseException) -> bool:
    """Whether it is a UserError; by name, since MLflow may have imported this package twice."""
    return any(
        kind.__name__ == UserError.__name__ and kind.__module__ == UserError.__module__
        for kind in type(error).__mro__
    )
