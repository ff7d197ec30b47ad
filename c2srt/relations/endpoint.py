"""One attempt at an OpenAI-compatible chat endpoint: the only file that imports openai.

Address, model and key come from OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY (the first two may
be given in the config); vLLM, Ollama, llama.cpp and hosted services all speak the protocol. The
client's own retries are off: the caller records every attempt. What the endpoint says is kept
without the key, should it ever echo it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import httpx2
import openai

from c2srt.clients import making_client, retry_after, scheme, without_user
from c2srt.errors import RetryableError, UserError
from c2srt.opened import parse_json
from c2srt.relations.completion import (
    SHOWN,
    ApiError,
    Malformed,
    Reply,
    api_error,
    parse_completion,
)
from c2srt.shown import printable, shown

KEY, URL, MODEL = "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"
PATH = "/v1/chat/completions"
LIMIT, OLD_LIMIT = (
    "max_completion_tokens",
    "max_tokens",
)  # the second is what servers know that do not know the first
FORMAT = "response_format"
ABOUT_FORMAT = "response.?format|json.?(schema|object|mode)|structured|grammar|guided"
LONGEST_WAIT_S = 900.0
SECRET = 6  # characters; a shorter key is a placeholder ("none"), not a secret
MOST_BYTES = 8 << 20  # of an answer: far more than the longest thinking
PLAIN = {"Accept-Encoding": "identity"}


class RequestError(RetryableError):
    """`limited`: a rate limit, which holds for all requests. `billed`: the request may have been
    charged although no reply came. `told`: in the endpoint's own words, so that its address is
    right.
    """

    def __init__(
        self,
        reason: str,
        wait: float | None = None,
        limited: bool = False,
        billed: bool = False,
        told: bool = False,
    ) -> None:
        super().__init__(reason, wait)
        self.limited, self.billed, self.told = limited, billed, told


class Unsupported(Exception):
    """The endpoint refuses a key of the request. `sure`: it names the key; else it may be this
    prompt that it refuses.
    """

    def __init__(self, reason: str, key: str, sure: bool) -> None:
        super().__init__(reason)
        self.key, self.sure = key, sure


class Refused(Exception):
    """The endpoint refuses this request, others it may answer. `content`: a filter refuses what it
    is about.
    """

    def __init__(self, reason: str, content: bool = False) -> None:
        super().__init__(reason)
        self.content = content


def model_name(model: str | None) -> str:
    """The model asked for. Raises UserError if neither the config nor the environment names one."""
    if not (name := (model or os.environ.get(MODEL, "")).strip()):
        raise UserError(f"no model: give model=… or set {MODEL}")
    return name


def key_of_environment() -> str:
    """The key. Raises UserError if there is none, or if it holds what no HTTP header can."""
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise UserError(
            f"no key: set {KEY} in the environment (any word will do for a local server that checks"
            " none)"
        )
    for place, letter in enumerate(key, 1):
        if not "!" <= letter <= "~":
            raise UserError(
                f"{KEY} holds a character that no key has (character {place}, U+{ord(letter):04X}):"
                " copy the key again, whole"
            )
    return key


def address_of(url: str | None) -> str | None:
    """The address of the API that config or environment give; None: OpenAI's own. Raises UserError
    if it is none.
    """
    name, address = ("url", url) if url else (URL, os.environ.get(URL, "").strip())
    if not address:
        return None
    try:
        good = (
            "://" in address and scheme(address) in ("http", "https") and httpx2.URL(address).host
        )
    except (ValueError, httpx2.InvalidURL):
        good = False
    if not good:
        raise UserError(
            f"{name}={without_user(address)} is not an address: write http(s)://host/v1"
        )
    return address


class Bounded(httpx2.AsyncByteStream):
    """The body of an answer, as it comes, up to MOST_BYTES. Raises Malformed behind them."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self.stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for block in self.stream:
            size += len(block)
            if size > MOST_BYTES:
                raise Malformed(f"the answer has more than {MOST_BYTES >> 20} MiB")
            yield block

    async def aclose(self) -> None:
        await self.stream.aclose()


async def bound(response: httpx2.Response) -> None:
    """Called with every answer before its body is read. Raises Malformed where it is packed: nobody
    asked for that, and what it unpacks to has no bound.
    """
    if (packed := response.headers.get("Content-Encoding", "identity").strip().lower()) not in (
        "",
        "identity",
    ):
        raise Malformed(f"the answer is packed as '{shown(packed)}', which was not asked for")
    response.stream = Bounded(cast(httpx2.AsyncByteStream, response.stream))


class Endpoint:
    """Opens the connection pool; `await endpoint.close()` closes it.

    Raises UserError if key, model or address are missing or none, or if the environment's proxies
    cannot be used.
    """

    def __init__(self, model: str | None, url: str | None, timeout_s: float) -> None:
        self.model, self._key, address = model_name(model), key_of_environment(), address_of(url)
        self.timeout_s = timeout_s
        with making_client():
            client = openai.DefaultAsyncHttpxClient(event_hooks={"response": [bound]})
            self._client = openai.AsyncOpenAI(
                api_key=self._key,
                base_url=address,
                max_retries=0,
                timeout=timeout_s,
                default_headers=PLAIN,
                http_client=client,
            )
        self.url = without_user(str(self._client.base_url)).rstrip("/")

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, body: dict) -> Reply:
        """Sends one chat request. Raises RequestError, Unsupported, Refused; UserError where no
        request can be answered.

        The client's own timeout is between two pieces of an answer; this one is for all of it.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                # `post` instead of `chat.completions.create`: the latter walks every typed field,
                # half of the client's CPU time.
                answer = await self._client.post(
                    "/chat/completions", body=body, cast_to=httpx2.Response
                )
            return self.reply(answer.content)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise RequestError("no reply in time", billed=True) from error
        except openai.APIStatusError as error:
            page = isinstance(error.body, str) and error.body.lstrip().startswith("<")
            said = api_error(
                "a web page" if page else error.body or error.message, error.status_code
            )
            raise self.fault(said, body, error.response.headers) from error
        except ApiError as error:
            raise self.fault(error, body) from error
        except Malformed as error:
            raise RequestError(str(error), billed=True) from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            if isinstance(cause, Malformed):
                raise RequestError(self.clean(str(cause)), billed=True) from error
            sent = not isinstance(cause, httpx2.ConnectError)
            raise RequestError(
                self.clean(f"connection failed: {type(cause).__name__} {cause}"), billed=sent
            ) from error
        # whatever a client makes of one odd answer or header must not end the other questions
        except Exception as error:
            raise RequestError(
                shown(self.clean(f"{type(error).__name__} {error}"), SHOWN), billed=True
            ) from error

    def reply(self, content: bytes) -> Reply:
        """The body of a chat completion. Raises ApiError, or Malformed if it is none (cut off, or
        a web page).
        """
        text = content.decode(errors="replace")
        try:
            return parse_completion(self.masked(parse_json(text)), self.model)
        except ValueError as error:
            begins = shown(self.clean(text[:1000]), 80)
            raise Malformed(
                f"the body is no chat completion ({type(error).__name__}): {begins!r}"
            ) from error

    def fault(
        self, said: ApiError, body: dict, headers: Mapping[str, str] | None = None
    ) -> Exception:
        """What an error means for the caller, be its status HTTP's or the body's."""
        words, status = self.clean(str(said)), said.status
        if said.about_content or said.about_length:
            return Refused(words, said.about_content)
        if status == 402 or said.names("insufficient_(quota|credit)"):
            return UserError(f"the account at {self.url} has no credit left: {words}")
        if status == 429:
            wait = retry_after((headers or {}).get("retry-after"))
            if wait is not None and wait > LONGEST_WAIT_S:
                return UserError(
                    f"{self.url} asks to wait {wait:,.0f} s: run the same command again after that"
                )
            return RequestError(words, wait, limited=True, told=True)
        if status in (401, 403):
            return UserError(
                f"{self.url} refuses the key in {KEY} (status {status}): check the key and what it"
                " may use"
            )
        if status == 404:
            return UserError(
                f"{self.url} has no model {self.model!r}, or it is not the address of the API"
                f" (status {words})"
            )
        if status in (400, 422):
            return self.refusal(said, body, words)
        if status in (None, 408, 409, 425) or status >= 500:
            return RequestError(words, retry_after((headers or {}).get("retry-after")), told=True)
        return UserError(f"{self.url} refuses the request (status {words})")

    def refusal(self, said: ApiError, body: dict, words: str) -> Exception:
        """Status 400 or 422: a key that the server does not know, if it names one, or this one
        request.
        """
        if LIMIT in body and said.names(LIMIT):
            return Unsupported(words, LIMIT, True)
        if FORMAT in body:
            return Unsupported(words, FORMAT, said.names(ABOUT_FORMAT))
        return Refused(words)

    def clean(self, text: str) -> str:
        """The text on one line, fit for a terminal, without the key."""
        return printable(self.masked(text))

    def masked(self, value: Any) -> Any:
        """A parsed value without the key, which an escape in the JSON may have hidden before. It is
        nested as `parse_json` allows.
        """
        if len(self._key) < SECRET:
            return value
        if isinstance(value, dict):
            return {self.masked(key): self.masked(below) for key, below in value.items()}
        if isinstance(value, list):
            return [self.masked(below) for below in value]
        return value.replace(self._key, "[key]") if isinstance(value, str) else value
