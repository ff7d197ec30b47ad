"""Images from their URLs: concurrent download with retries, checked against the CSV, converted on
arrival.

Each worker stages what arrives (sharding/staging.py) in pieces of STAGE_ROWS images in
`<out>/staging/<shard>/`, so a killed run repeats at most that many downloads a worker. Whatever
happens to an image becomes its status: missing (HTTP 404, 410) · refused (another HTTP 4xx, a URL
that is none, whatever else stands in one image's way) · unreachable (every try failed: connection,
time-out, cut-off answer, HTTP 429 or 5xx) · placeholder (an XML or HTML page, or a PNG where the
URL promises another format) · size_mismatch, md5_mismatch (not the file of the CSV) · no_url ·
those of sharding/decode.py.
"""

import base64
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
import polars as pl
import tenacity

from c2srt.clients import retry_after
from c2srt.errors import UserError
from c2srt.tracking.redact import HIDDEN, redacted
from sharding.config import Config, DownloadConfig
from sharding.exchange import (
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
from sharding.outcome import Outcome, attempt
from sharding.pack import ShardTask
from sharding.staging import FOLDER, about_stage, in_order, write_stage

STAGE_ROWS = 256  # also how far downloads run ahead of the slowest one
AGAIN = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
GONE = (404, 410)
MASKED = f"://{HIDDEN}@"


class TryAgain(Exception):
    """A failure that may pass; `outcome` is what to record if it does not, `wait_s` what the server
    asked for.
    """

    def __init__(self, outcome: Outcome, wait_s: float = 0) -> None:
        super().__init__(outcome.reason)
        self.outcome, self.wait_s = outcome, wait_s


@dataclass(frozen=True)
class UrlSource:
    """Downloads column `url`.

    Raises UserError where the proxies or certificates allow no client: before the job, not out of
    each of its tasks.
    """

    kind: str = "urls"

    def __post_init__(self) -> None:
        make_client(1, 1).close()

    def outcomes(self, rows: pl.DataFrame, task: ShardTask) -> Iterator[Outcome]:
        """One Outcome for each row (columns id, url, rotation, original_size, original_md5), in
        order.
        """
        pieces = list(rows.iter_slices(STAGE_ROWS))
        stages = [
            Path(task.out, FOLDER, task.name, f"{number:06}") for number in range(len(pieces))
        ]
        about = [
            {"settings": task.settings, "first": piece["id"][0], "rows": len(piece)}
            for piece in pieces
        ]
        whole = [
            (about_stage(stage) or {}).get("about") == wanted
            for stage, wanted in zip(stages, about, strict=True)
        ]
        todo = (
            row
            for piece, done in zip(pieces, whole, strict=True)
            if not done
            for row in piece.iter_rows(named=True)
        )
        with Downloader(task.config) as downloader:
            arrivals = downloader.all(todo)
            for piece, stage, wanted, done in zip(pieces, stages, about, whole, strict=True):
                if not done:
                    write_stage(stage, islice(arrivals, len(piece)), wanted, {})
                yield from in_order([stage], piece["id"].to_list(), Outcome("missing"))


class Downloader:
    """A pool of `download.concurrency` connections; use it in a `with`. Raises UserError as
    `make_client`.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.client = (
            config,
            make_client(config.download.concurrency, config.download.timeout),
        )
        self.pool = ThreadPoolExecutor(config.download.concurrency, thread_name_prefix="download")

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.client.close()

    def all(self, rows: Iterable[dict]) -> Iterator[tuple[str, Outcome]]:
        """(id, outcome) in the order of `rows`, downloads running at most STAGE_ROWS ahead."""
        return ahead(self.pool, lambda row: (row["id"], self.one(row)), rows, STAGE_ROWS)

    def one(self, row: dict) -> Outcome:
        """Downloads, checks and converts one image. Whatever goes wrong with it is its outcome,
        never the job's end.
        """
        if not row["url"]:
            return Outcome("no_url", "the CSVs give no URL for this image")
        try:
            data = retrying(self.config.download)(self.get, row)
            if isinstance(data, Outcome):
                return data
            if bad := disagreement(data, row):
                return bad
            return attempt(data, row["rotation"], self.config, exif_first=True)
        except TryAgain as last:
            return last.outcome
        except UserError:  # the machine's fault, not the image's
            raise
        except Exception as error:  # UnicodeError or idna's own for a host: no list is complete
            return Outcome(
                "refused",
                f"{redacted(row['url'], {})[:100]}: {type(error).__name__}: {said(error)}",
            )

    def get(self, row: dict) -> bytes | Outcome:
        """One try: the body, or the outcome of an answer that is final. Raises TryAgain."""
        download, most = self.config.download, self.config.max_bytes
        url = row["url"].replace(MASKED, "://", 1)
        allowance = Allowance(
            time.monotonic() + download.total_timeout,
            most + OVERHEAD,
            download.private_hosts,
            own_host(url),
        )
        try:
            with within(allowance), answer_to(self.client, url) as answer:
                body = outcome_of(answer, MASKED in row["url"]) or body_of(answer, most)
        except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects):
            raise
        except NotAllowed as error:
            return Outcome("refused", said(error))
        except TooMuch:
            return Outcome(
                "too_large", f"the server sends or announces more than max_bytes={most:,}"
            )
        except NoEnd:
            raise TryAgain(
                Outcome("unreachable", f"no end after {download.total_timeout:g} s")
            ) from None
        except httpx2.HTTPError as error:
            raise TryAgain(
                Outcome("unreachable", f"{type(error).__name__}: {said(error)}")
            ) from error
        if (
            isinstance(body, bytes)
            and row["original_size"]
            and len(body) < row["original_size"]
            and body[:2] == b"\xff\xd8"
        ):
            raise TryAgain(
                Outcome(
                    "size_mismatch", f"{len(body):,} bytes, the CSV says {row['original_size']:,}"
                )
            )
        return body


def outcome_of(answer: httpx2.Response, masked: bool) -> Outcome | None:
    """Of an answer that brings no image; `masked`: the URL held a password. Raises TryAgain."""
    status = answer.status_code
    if status in AGAIN:
        raise TryAgain(
            Outcome("unreachable", f"HTTP {status}"),
            retry_after(answer.headers.get("Retry-After")) or 0,
        )
    if status == 200:
        return None
    hint = (
        "; the password in its URL is not kept: write it into ~/.netrc"
        if masked and status == 401
        else ""
    )
    return Outcome("missing" if status in GONE else "refused", f"HTTP {status}{hint}")


def said(error: Exception) -> str:
    """An error's words on one line, printable and without passwords."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(redacted(text, {}).split())[:150]


def disagreement(data: bytes, row: dict) -> Outcome | None:
    """What the bytes say against being the CSV's image: placeholders first, since Flickr answers
    them for removed photos.
    """
    if data.startswith(b"\x89PNG") and not urlsplit(row["url"]).path.lower().endswith(".png"):
        return Outcome(
            "placeholder",
            "a PNG where the URL promises another format, as Flickr answers for a removed photo",
        )
    if data[:64].lstrip()[:1] == b"<" or not data:
        return None  # sharding/decode.py names it
    if row["original_size"] and len(data) != row["original_size"]:
        return Outcome(
            "size_mismatch", f"{len(data):,} bytes, the CSV says {row['original_size']:,}"
        )
    found = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    if row["original_md5"] and found != row["original_md5"]:
        return Outcome("md5_mismatch", f"MD5 {found}, the CSV says {row['original_md5']}")
    return None


def retrying(config: DownloadConfig) -> tenacity.Retrying:
    """Tries again on TryAgain: after doubling, jittered waits, or later if the server asks for it
    (up to `backoff_max`).
    """
    growing = tenacity.wait_exponential_jitter(
        initial=config.backoff, max=config.backoff_max, jitter=config.backoff
    )

    def wait(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        last = cast(TryAgain, state.outcome.exception())
        return min(config.backoff_max, max(last.wait_s, growing(state)))

    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(config.attempts),
        wait=wait,
        reraise=True,
        retry=tenacity.retry_if_exception_type(TryAgain),
    )


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any], window: int
) -> Iterator[Any]:
    """`map` on a pool, in order, with at most `window` items in flight or waiting to be taken."""
    items = iter(items)
    running: deque[Future] = deque()
    while True:
        running.extend(pool.submit(function, item) for item in islice(items, window - len(running)))
        if not running:
            return
        yield running.popleft().result()
