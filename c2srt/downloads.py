"""A file from its URL: one try within its time and bytes (c2srt/exchange.py), further tries where
another may succeed, and in words why nothing came.

Where connections may go is decided in c2srt/exchange.py: public addresses, and those that a URL
names itself. A list of URLs from a stranger may still name your own network's addresses: it is to
be looked at before it is read.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TypeVar, cast

import httpx2
import tenacity

from c2srt.clients import retry_after
from c2srt.download_config import DownloadConfig
from c2srt.errors import RetryableError, UserError
from c2srt.exchange import (
    OVERHEAD,
    Allowance,
    NoEnd,
    NotAllowed,
    TooMuch,
    answer_to,
    body_of,
    make_client,
    own_host,
    within,
)
from c2srt.redact import HIDDEN, redacted

T = TypeVar("T")
AGAIN = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
GONE = (404, 410)
MASKED = f"://{HIDDEN}@"


@dataclass(frozen=True)
class NotFetched:
    """Why nothing came: `status` is missing (HTTP 404, 410), refused (another HTTP 4xx, a URL that
    is none), unreachable (connection, time-out, HTTP 429 or 5xx) or too_large; `reason` says more.
    """

    status: str
    reason: str


class DownloadError(RetryableError):
    """`outcome` is what to record if no other attempt does better."""

    def __init__(self, outcome: NotFetched, wait: float | None = None) -> None:
        super().__init__(outcome.reason, wait)
        self.outcome = outcome


class Downloads:
    """Fetches URLs, from several threads at a time. Raises UserError where the proxies or
    certificates allow no client.
    """

    def __init__(self, config: DownloadConfig, most: int) -> None:
        """`most` bytes has a file."""
        self.config, self.most = config, most
        self.client = make_client(config.concurrency, config.timeout)

    def __enter__(self) -> "Downloads":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    def fetch(self, url: str) -> bytes | NotFetched:
        """A file's bytes, or why there are none; whatever goes wrong is this URL's alone."""
        once = partial(fetch_once, self.client, url, self.config, self.most)
        return alone(url, partial(retrying(self.config), once))


def alone(url: str, action: Callable[[], T]) -> T | NotFetched:
    """What `action` gives of a URL; whatever goes wrong with that is this URL's alone. Raises
    UserError: the machine's fault.
    """
    try:
        return action()
    except DownloadError as last:
        return last.outcome
    except UserError:
        raise
    except Exception as error:
        return unforeseen(url, error)


def fetch_once(
    client: httpx2.Client, url: str, config: DownloadConfig, most: int
) -> bytes | NotFetched:
    """One try: the body, or what an answer says that is final. Raises DownloadError, and whatever
    else libraries raise on URLs that are none.
    """
    masked, url = MASKED in url, url.replace(MASKED, "://", 1)
    allowance = Allowance(
        time.monotonic() + config.total_timeout,
        most + OVERHEAD,
        config.private_hosts,
        own_host(url),
    )
    try:
        with within(allowance), answer_to(client, url) as answer:
            return said_by(answer, masked) or body_of(answer, most)
    except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects):
        raise
    except NotAllowed as error:
        return NotFetched("refused", said(error))
    except TooMuch:
        return NotFetched(
            "too_large", f"the server sends or announces more than max_bytes={most:,}"
        )
    except NoEnd:
        raise DownloadError(
            NotFetched("unreachable", f"no end after {config.total_timeout:g} s")
        ) from None
    except httpx2.HTTPError as error:
        raise DownloadError(
            NotFetched("unreachable", f"{type(error).__name__}: {said(error)}")
        ) from error


def said_by(answer: httpx2.Response, masked: bool) -> NotFetched | None:
    """Of an answer that brings no file; `masked`: the URL held a password. Raises DownloadError."""
    status = answer.status_code
    if status in AGAIN:
        raise DownloadError(
            NotFetched("unreachable", f"HTTP {status}"),
            retry_after(answer.headers.get("Retry-After")),
        )
    if status == 200:
        return None
    hint = (
        "; the password in its URL is not kept: write it into ~/.netrc"
        if masked and status == 401
        else ""
    )
    return NotFetched("missing" if status in GONE else "refused", f"HTTP {status}{hint}")


def unforeseen(url: str, error: Exception) -> NotFetched:
    """Of an error that no list foresees: UnicodeError or idna's own for a host, and others."""
    return NotFetched(
        "refused", f"{redacted(url, {})[:100]}: {type(error).__name__}: {said(error)}"
    )


def said(error: Exception) -> str:
    """An error's words on one line, printable and without passwords."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(redacted(text, {}).split())[:150]


def retrying(config: DownloadConfig) -> tenacity.Retrying:
    """Tries again on DownloadError: after doubling, jittered waits, or later if the server asks for
    it (up to `backoff_max`).
    """
    growing = tenacity.wait_exponential_jitter(
        initial=config.backoff, max=config.backoff_max, jitter=config.backoff
    )

    def wait(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        last = cast(DownloadError, state.outcome.exception())
        return min(config.backoff_max, max(last.wait or 0, growing(state)))

    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(config.attempts),
        wait=wait,
        reraise=True,
        retry=tenacity.retry_if_exception_type(DownloadError),
    )
