"""What the JSON of a chat endpoint says: a reply, or an error in its own words. Nothing in it is
taken unchecked.

Servers differ: text comes as a string or in chunks, thinking in chunks or fields of its own, token
counts as numbers or not at all, and an error with status 200, with its own status in the body, as
an object, a string or a list.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from c2srt.shown import shown

SHOWN = 300  # characters of an endpoint's words that are kept
READ = 10_000  # characters of an error that are looked at
NAME = 100  # characters of a model's own name, or of the reason why it ended
MOST_TOKENS = 10**9  # a larger count is none
TEXT = (None, "text", "output_text")  # types of the chunks that are the answer; thinking has others
WHOLE = [
    "none",
    "null",
    "stop",
    "stop_sequence",
    "end_turn",
    "eos",
    "eos_token",
    "complete",
    "completed",
    "finished",
    "done",
]
FILTERED = re.compile(
    r"content.?(filter|policy|management|moderation)|responsible.?ai|moderation|flagged|safety"
    r"|data.?inspection|inappropriate|prohibited.?content"
    r"|sensitive.{0,20}(content|information|word)"
)
TOO_LONG = re.compile(
    r"context.?(length|window|size)|too many (input |prompt )?tokens|string_above_max_length"
    r"|(prompt|input|context|message|request).{0,40}too (long|large|many)"
    r"|(exceed|maximum).{0,40}(prompt|context|input|token)"
)
MEANT = {  # by a code, where no status is told
    402: ("insufficient_quota", "insufficient_credit"),
    429: ("rate_limit", "ratelimit", "too_many_requests", "throttl"),
    401: ("api_key", "authentication", "unauthorized"),
    404: ("model_not_found",),
    400: ("invalid_request", "badrequest"),
}


class Malformed(Exception):
    """The body is no chat completion."""


@dataclass(frozen=True)
class Reply:
    """A reply's text ("" if it has none), why it ended, the model's own name, and tokens charged
    (None: not told).
    """

    text: str
    finish: str
    model: str
    input_tokens: int | None
    output_tokens: int | None
    refusal: str | None = None

    @property
    def whole(self) -> bool:
        """Whether the reply ended of itself; an end that is not known as one counts as cut off."""
        return self.finish.casefold() in ("", *WHOLE)

    @property
    def filtered(self) -> bool:
        return FILTERED.search(self.finish.casefold()) is not None


class ApiError(Exception):
    """An error in the endpoint's own words: `status` (of HTTP, else what the body says, else None),
    `code`s in lower case.
    """

    def __init__(self, message: str, status: int | None, code: str = "") -> None:
        message, code = message[:READ], code[:READ]
        super().__init__(shown(message, SHOWN))
        self.status, self.code = status, code
        self._words = f"{code} {message}".casefold()

    def __str__(self) -> str:
        return " ".join(f"{self.status or ''} {self.args[0]}".split())

    def names(self, pattern: str) -> bool:
        """Whether message or code hold the pattern."""
        return re.search(pattern, self._words) is not None

    @property
    def about_content(self) -> bool:
        """A filter refuses this prompt; a server's own faults (5xx) count only where the code says
        so.
        """
        if self.status in (401, 404, 429):
            return False
        return (
            FILTERED.search(self.code if (self.status or 400) >= 500 else self._words) is not None
        )

    @property
    def about_length(self) -> bool:
        """This prompt is too long for the model."""
        return (
            self.status == 413
            or (self.status or 400) in (400, 422)
            and TOO_LONG.search(self._words) is not None
        )


def parse_completion(body: object, model: str) -> Reply:
    """The JSON of a chat completion; `model` stands in where it names none.

    Raises ApiError, or Malformed if it is neither.
    """
    if not isinstance(body, dict):
        raise Malformed(f"the body is no chat completion: {str(body)[:80]!r}")
    choices = body.get("choices")
    choice = (
        choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    )
    if error := error_in(body, choice):
        raise api_error(error)
    finish = shown(choice.get("finish_reason"), NAME)
    message = choice.get("message")
    if message is None and FILTERED.search(finish.casefold()):
        message = {}
    if not isinstance(message, dict):
        raise Malformed(f"the body is no chat completion: {str(body)[:80]!r}")
    usage = body["usage"] if isinstance(body.get("usage"), dict) else {}
    refusals = [
        message.get("refusal"),
        *(chunk.get("refusal") for chunk in chunks(message.get("content"))),
    ]
    refusal = next((words for words in refusals if isinstance(words, str) and words.strip()), None)
    return Reply(
        "".join(text_of(chunk) for chunk in chunks(message.get("content"))),
        finish,
        shown(body.get("model") or model, NAME),
        count(usage.get("prompt_tokens")),
        count(usage.get("completion_tokens")),
        refusal,
    )


def error_in(body: dict, choice: dict) -> object:
    """What the body says went wrong, by any of the keys that servers use for it; false if nothing
    did.
    """
    error = body.get("error") or body.get("errors") or choice.get("error")
    said = isinstance(error, (bool, int, float)) and error
    if said or not choice and (body.get("message") or body.get("detail")):
        return error if isinstance(error, (dict, list, str)) and error else body
    return error


def chunks(content: object) -> Iterator[dict]:
    """The pieces of a message's content, which is a string, a piece, a list of either, or nothing.

    Raises Malformed.
    """
    for chunk in content if isinstance(content, list) else [content]:
        if isinstance(chunk, str):
            yield {"text": chunk}
        elif isinstance(chunk, dict):
            yield chunk
        elif chunk is not None:
            raise Malformed(
                f"the reply's content is neither text nor chunks of it: {str(content)[:80]!r}"
            )


def text_of(chunk: dict) -> str:
    """The text of a piece, "" for thinking and whatever else is no text. Raises Malformed."""
    if chunk.get("type") not in TEXT:
        return ""
    text = chunk.get("text")
    text = text.get("value") if isinstance(text, dict) else text
    if not isinstance(text, str):
        raise Malformed(f"the reply's content has a chunk without text: {str(chunk)[:80]!r}")
    return text


def count(value: object) -> int | None:
    """A number of tokens, or None where it is not told, or in a form that no count has."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 <= value <= MOST_TOKENS
    ):
        return None
    return int(value) if value == int(value) else None


def api_error(error: object, status: int | None = None) -> ApiError:
    """An error object, string or list as the endpoint wrote it; `status` of HTTP counts before one
    in the body.
    """
    if isinstance(error, list) and error:
        error = error[0]
    if not isinstance(error, dict):
        return ApiError(words_of(error), status)
    fields = error | (error["error"] if isinstance(error.get("error"), dict) else {})
    code = " ".join(
        str(fields[key]) for key in ("code", "type", "param", "status") if fields.get(key)
    ).casefold()
    message = next(
        (fields[key] for key in ("message", "detail", "msg", "error") if fields.get(key)), fields
    )
    extra = fields.get("metadata")
    metadata = extra if isinstance(extra, dict) else {}
    # A router's own message, "Provider returned error", says nothing without the provider's.
    raw = f" ({words_of(metadata['raw'])})" if metadata.get("raw") else ""
    told = [
        number
        for key in ("status", "status_code", "http_status", "code")
        if (number := http_status(fields.get(key)))
    ]
    meant = next((it for it, names in MEANT.items() if any(name in code for name in names)), None)
    return ApiError(words_of(message) + raw, status or next(iter(told), meant), code)


def words_of(message: object) -> str:
    """A message on one line, whatever JSON it is."""
    try:
        text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    except RecursionError:
        text = "an error that is nested too deeply to be read"
    return " ".join(text[:READ].split())


def http_status(value: object) -> int | None:
    """An HTTP error status, given as a number or its digits."""
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    return int(text) if re.fullmatch("[45][0-9][0-9]", text) else None
