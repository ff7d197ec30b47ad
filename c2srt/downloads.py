"""A file from its URL: one try within its time and bytes (c2srt/exchange.py), further tries where
another may succeed, at a site's pace and outside of its pauses (c2srt/sites.py), and in words why
nothing came.

Where connections may go is decided in c2srt/exchange.py: public addresses, and those that a URL
names itself. A list of URLs from a stranger may still name your own network's addresses: it is to
be looked at before it is read.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TypeVar

import httpx2

from c2srt.clients import retry_after
from c2srt.download_config import DownloadConfig
from c2srt.errors import RetryableError, UserError
from c2srt.exchange import (
    AGENT,
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
from c2srt.sites import GivenUp, Site, Sites, Visit, growing

T = TypeVar("T")
AGAIN = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
GONE = (404, 410)
NO_AI = "X-Robots-Tag: noai (download.noai=ignore takes it)"
MASKED = f"://{HIDDEN}@"


@dataclass(frozen=True)
class NotFetched:
    """Why nothing came: `status` is missing (HTTP 404, 410), refused (another HTTP 4xx, a URL that
    is none), unreachable (connection, time-out, HTTP 429 or 5xx) or too_large; `reason` says more.
    """

    status: str
    reason: str


class DownloadError(RetryableError):
    """`outcome` is what to record if no other attempt does better; `site`: whether the fault is
    its site's, not this file's; `asks`: whether the site asks for a pause, of `wait` seconds.
    """

    def __init__(
        self,
        outcome: NotFetched,
        wait: float | None = None,
        *,
        site: bool = False,
        asks: bool = False,
    ) -> None:
        super().__init__(outcome.reason, wait)
        self.outcome, self.site, self.asks = outcome, site, asks


def as_it_came(body: bytes) -> bytes:
    return body


class Downloads:
    """Fetches URLs, from several threads at a time. Raises UserError where the proxies or
    certificates allow no client.
    """

    def __init__(self, config: DownloadConfig, most: int, sites: Sites | None = None) -> None:
        """`most` bytes has a file."""
        self.config, self.most = config, most
        self.sites, self.stopped = sites or Sites(config), threading.Event()
        self.client = make_client(config.concurrency, config.timeout, config.contact)

    def __enter__(self) -> "Downloads":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.client.close()

    def stop(self) -> None:
        """Whoever waits for a site, or for another try, waits no longer."""
        self.stopped.set()

    def fetch(self, url: str) -> bytes | NotFetched:
        """A file's bytes, or why there are none; whatever goes wrong is this URL's alone."""
        return alone(url, partial(self.tried, url))

    def tried(self, url: str, check: Callable[[bytes], bytes] = as_it_came) -> bytes | NotFetched:
        """A file that `check`, which may raise DownloadError, lets pass, or why there is none.

        Raises DownloadError if no try succeeds, and whatever else libraries raise on odd URLs.
        """
        tries = Tries(self.config)
        while True:
            visit = Visit(self.sites, url, self.stopped)
            try:
                return self.once(url, visit, check)
            except GivenUp as reason:
                raise DownloadError(NotFetched("unreachable", str(reason))) from None
            except DownloadError as error:
                if (wait := tries.after(error, visit)) is None:
                    raise
                self.stopped.wait(wait)
            finally:
                visit.left()

    def once(self, url: str, visit: Visit, check: Callable[[bytes], bytes]) -> bytes | NotFetched:
        """Raises DownloadError, GivenUp."""
        found = fetch_once(self.client, url, self.config, self.most, visit)
        visit.answered()
        return found if isinstance(found, NotFetched) else check(found)


class Tries:
    """Those of one file."""

    def __init__(self, config: DownloadConfig) -> None:
        self.config, self.used = config, 0
        self.last: tuple[Site | None, int] = (None, 0)

    def after(self, error: DownloadError, visit: Visit) -> float | None:
        """Seconds to wait before another try, None if there is none left. None is used up while
        the site fails as a whole, and nothing came from it since the last one.
        """
        site = visit.last
        if error.site:
            visit.failed(error.outcome.reason, error.asks, error.wait)
        before, self.last = self.last, (site, site.answers if site else 0)
        if site and site.fails and before == self.last:
            return 0.0
        self.used += 1
        if self.used >= self.config.attempts:
            if site and error.site:
                site.file_used_up(error.outcome.reason)
            return None
        return 0.0 if site and site.closed else growing(self.config, self.used)


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
    client: httpx2.Client, url: str, config: DownloadConfig, most: int, visit: Visit
) -> bytes | NotFetched:
    """One try: the body, or what an answer says that is final. Raises DownloadError, GivenUp, and
    whatever else libraries raise on URLs that are none.
    """
    masked, target = MASKED in url, httpx2.URL(url.replace(MASKED, "://", 1))
    allowance = Allowance(
        time.monotonic() + config.total_timeout,
        most + OVERHEAD,
        config.private_hosts,
        own_host(target),
        visit,
    )
    try:
        with within(allowance), answer_to(client, target) as answer:
            return said_by(answer, masked, config.noai == "respect") or whole_body(answer, most)
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
            NotFetched("unreachable", f"no end after {config.total_timeout:g} s"), site=True
        ) from None
    except httpx2.HTTPError as error:
        raise DownloadError(
            NotFetched("unreachable", f"{type(error).__name__}: {said(error)}"), site=True
        ) from error


def whole_body(answer: httpx2.Response, most: int) -> bytes:
    """Raises DownloadError, this file's fault, where it is cut off; TooMuch, NotAllowed, NoEnd."""
    try:
        return body_of(answer, most)
    except (httpx2.RemoteProtocolError, httpx2.ReadError) as error:
        raise DownloadError(
            NotFetched("unreachable", f"{type(error).__name__}: {said(error)}")
        ) from error


def said_by(answer: httpx2.Response, masked: bool, robots: bool) -> NotFetched | None:
    """Of an answer that brings no file; `masked`: the URL held a password; `robots`: its
    X-Robots-Tag counts. Raises DownloadError.
    """
    status = answer.status_code
    if status in AGAIN:
        wait = retry_after(answer.headers.get("Retry-After"))
        raise DownloadError(
            NotFetched("unreachable", f"HTTP {status}"),
            wait,
            site=True,
            asks=status == 429 or wait is not None,
        )
    if status == 200:
        tags = answer.headers.get_list("X-Robots-Tag") if robots else []
        return NotFetched("refused", NO_AI) if any(map(forbids_ai, tags)) else None
    hint = (
        "; the password in its URL is not kept: write it into ~/.netrc"
        if masked and status == 401
        else ""
    )
    return NotFetched("missing" if status in GONE else "refused", f"HTTP {status}{hint}")


def forbids_ai(tag: str) -> bool:
    """Whether an X-Robots-Tag header keeps its file from us: its words hold for all, or, behind
    "<agent>:", for one agent and what follows it.
    """
    agent = ""
    for part in tag.lower().split(","):
        before, colon, word = part.rpartition(":")
        agent = before.strip() if colon else agent
        if word.strip() in ("noai", "noimageai") and agent in ("", "*", AGENT):
            return True
    return False


def unforeseen(url: str, error: Exception) -> NotFetched:
    """Of an error that no list foresees: UnicodeError or idna's own for a host, and others."""
    return NotFetched(
        "refused", f"{redacted(url, {})[:100]}: {type(error).__name__}: {said(error)}"
    )


def said(error: Exception) -> str:
    """An error's words on one line, printable and without passwords."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(redacted(text, {}).split())[:150]
