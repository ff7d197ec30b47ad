"""One attempt at an OpenAI-compatible chat endpoint: the only file that imports openai.

Address, model and key come from OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY (the first two may be given in the config);
vLLM, Ollama, llama.cpp and hosted services all speak the protocol. The client's own retries are off: the caller records every
attempt. What the endpoint says is kept without the key, should it ever echo it.
"""

import email.utils
import json
import os
import time
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import openai
from httpx2 import ConnectError, Response

from c2srt.errors import UserError

KEY, URL, MODEL = "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"
PATH = "/v1/chat/completions"
LONGEST_WAIT_S = 900.0
SECRET = 6  # characters; a shorter key is a placeholder ("none"), not a secret


class Again(Exception):
    """This attempt failed, another may not. `wait`: seconds the endpoint asks for, or None. `limited`: a rate limit, which
    holds for all requests. `billed`: the request may have been charged although no reply came."""

    def __init__(self, reason: str, wait: float | None = None, limited: bool = False, billed: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.limited, self.billed = wait, limited, billed


class Unsupported(Exception):
    """The endpoint refuses structured output."""


@dataclass(frozen=True)
class Reply:
    """A reply's text ("" if it has none), why it ended, the model's own name, and tokens charged (None: not told)."""

    text: str
    finish: str
    model: str
    input_tokens: int | None
    output_tokens: int | None
    refusal: str | None = None


def model_name(model: str | None) -> str:
    """The model asked for. Raises UserError if neither the config nor the environment names one."""
    if not (name := (model or os.environ.get(MODEL, "")).strip()):
        raise UserError(f"no model: give model=… or set {MODEL}")
    return name


class Endpoint:
    """Opens the connection pool; `await endpoint.close()` closes it. Raises UserError if key, model or address are missing."""

    def __init__(self, model: str | None, url: str | None, timeout_s: float) -> None:
        self._key = os.environ.get(KEY, "").strip()
        self.model = model_name(model)
        address = url or os.environ.get(URL, "").strip() or None
        if not self._key:
            raise UserError(f"no key: set {KEY} in the environment (any word will do for a local server that checks none)")
        if address and urlsplit(address).scheme not in ("http", "https"):
            raise UserError(f"url={without_user(address)} is not an address: write http(s)://host/v1")
        self._client = openai.AsyncOpenAI(api_key=self._key, base_url=address, max_retries=0, timeout=timeout_s)
        self.url = without_user(str(self._client.base_url)).rstrip("/")

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, body: dict) -> Reply:
        """Sends one chat request. Raises Again, Unsupported, or UserError where asking again cannot help."""
        try:
            # `post` instead of `chat.completions.create`: the latter walks every typed field, half of the client's CPU time.
            return self.reply((await self._client.post("/chat/completions", body=body, cast_to=Response)).content)
        except openai.APIStatusError as error:
            raise self.status_fault(error, "response_format" in body) from error
        except openai.APITimeoutError as error:
            raise Again("no reply in time", billed=True) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            sent = not isinstance(cause, ConnectError)
            raise Again(self.clean(f"connection failed: {type(cause).__name__} {cause}"), billed=sent) from error
        except openai.OpenAIError as error:
            raise Again(self.clean(f"{type(error).__name__} {error}"), billed=True) from error

    def reply(self, content: bytes) -> Reply:
        """The body of a chat completion. Raises Again if it is none (cut off, or a web page)."""
        text = self.clean(content.decode(errors="replace"))
        try:
            return parse_completion(json.loads(text), self.model)
        except ValueError as error:
            raise Again(f"the body is no chat completion ({type(error).__name__}): {text[:80]!r}", billed=True) from error

    def status_fault(self, error: openai.APIStatusError, structured: bool) -> Exception:
        """What an HTTP error status means for the caller."""
        status, code, message = error.status_code, str(error.code or ""), self.clean(said(error))[:300]
        if status == 429 and code == "insufficient_quota":
            return UserError(f"the account at {self.url} has no credit left: {message}")
        if status == 429:
            wait = retry_after(error.response.headers)
            if wait is not None and wait > LONGEST_WAIT_S:
                return UserError(f"{self.url} asks to wait {wait:,.0f} s: run the same command again after that")
            return Again("429 too many requests", wait, limited=True)
        if status in (408, 409, 425) or status >= 500:
            return Again(f"{status} {message}", retry_after(error.response.headers))
        if status in (401, 403):
            return UserError(f"{self.url} refuses the key in {KEY} (status {status}): check the key and what it may use")
        if status == 404:
            return UserError(f"{self.url} has no model {self.model!r}, or it is not the address of the API (status 404: "
                             f"{message})")
        if structured and status in (400, 422):
            return Unsupported(f"{status} {message}")
        return UserError(f"{self.url} refuses the request (status {status}): {message}")

    def clean(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self._key, "[key]") if len(self._key) >= SECRET else text


def parse_completion(body: object, model: str) -> Reply:
    """The JSON of a chat completion; `model` stands in where it names none. Raises Again if it is something else."""
    try:
        choice, usage = body["choices"][0], body.get("usage") or {}
        message = choice["message"]
        return Reply(message.get("content") or "", str(choice.get("finish_reason")), str(body.get("model") or model),
                     usage.get("prompt_tokens"), usage.get("completion_tokens"), message.get("refusal"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Again(f"the body is no chat completion ({type(error).__name__}): {str(body)[:80]!r}", billed=True) from error


def said(error: openai.APIStatusError) -> str:
    """The endpoint's own words about an error, if it has any."""
    return str(error.body.get("message") or error.message) if isinstance(error.body, dict) else str(error.message)


def retry_after(headers) -> float | None:
    """Seconds that a Retry-After header asks for (a number, or a date: RFC 9110, 10.2.3); None without a usable one."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except (TypeError, ValueError):
            return None


def without_user(url: str) -> str:
    """The address without a name and password in it, and without its query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
