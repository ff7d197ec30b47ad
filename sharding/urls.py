"""Images from their URLs: concurrent download with retries, checked against the CSV, converted on
arrival.

Each worker stages what arrives in pieces (sharding/pieces.py) in `<out>/staging/<shard>/`, so a
killed run repeats at most STAGE_ROWS downloads a worker. Whatever happens to an image becomes its
status: missing (HTTP 404, 410) · refused (another HTTP 4xx, a URL that is none, X-Robots-Tag: noai,
whatever else stands in one image's way) · unreachable (every try failed: connection, time-out,
cut-off answer, HTTP 429 or 5xx; or its site was given up) · placeholder (an XML or HTML page, or a
PNG where the URL promises another format) · size_mismatch, md5_mismatch (not the file of the CSV) ·
no_url · those of sharding/decode.py.
"""

import base64
import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from urllib.parse import urlsplit

import polars as pl

from c2srt.downloads import DownloadError, Downloads, NotFetched, alone
from c2srt.exchange import make_client
from c2srt.sharding.config import Config
from c2srt.sharding.outcome import Outcome, attempts
from c2srt.sharding.pack import ShardTask
from c2srt.sharding.pieces import STAGE_ROWS, Piece, pieces_of
from c2srt.sharding.staging import in_order, write_stage
from c2srt.sites import Closed, Sites
from c2srt.threads import map_as_they_come

WAITING = 2
"""Images that may lie in memory until they are converted, beside those that connections hold."""


@dataclass(frozen=True)
class UrlSource:
    """Downloads column `url`.

    In a pass (sharding/passes.py), which has a name: `tasks` share a site's rate, images of a
    status in `again` are asked for again, and sites that an earlier one found `closed` are
    left alone as long as they asked for.

    Raises UserError where the proxies or certificates allow no client: before the job, not out of
    each of its tasks.
    """

    kind: str = "urls"
    name: str = ""
    tasks: int = 1
    again: tuple[str, ...] = ()
    closed: Mapping[str, Closed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_client(1, 1).close()

    def outcomes(self, rows: pl.DataFrame, task: ShardTask) -> Iterator[Outcome]:
        """One Outcome for each row (columns id, url, rotation, original_size, original_md5), in
        order; what is staged is not asked for again.
        """
        for piece in self.stages(rows, task, ()):
            yield from in_order([piece.stage], piece.ids, Outcome("missing"))

    def stages(
        self, rows: pl.DataFrame, task: ShardTask, again: tuple[str, ...]
    ) -> Iterator[Piece]:
        """The shard's pieces, in order, each when its stage is there."""
        pieces = pieces_of(rows, task)
        wanted = [piece.wanted(again) for piece in pieces]
        if not any(wanted) and all(piece.whole for piece in pieces):
            yield from pieces
            return
        with Downloader(task.config, self.sites(task.config)) as downloader:
            arrivals = downloader.all(chain.from_iterable(wanted))
            for piece, asked in zip(pieces, wanted, strict=True):
                if asked or not piece.whole:
                    fresh = islice(arrivals, len(asked))
                    write_stage(piece.stage, chain(fresh, piece.others(asked)), piece.about, {})
                yield piece

    def sites(self, config: Config) -> Sites:
        """What this process knows of the sites in this pass."""
        with LOCK:
            if not SITES or SITES[0][0] != self.name or not self.name:
                SITES[:] = [(self.name, Sites(config.download, self.tasks, self.closed))]
            return SITES[0][1]


SITES: list[tuple[str, Sites]] = []
LOCK = threading.Lock()


class Downloader:
    """A pool of `download.concurrency` connections; use it in a `with`. Raises UserError as
    `make_client`.
    """

    def __init__(self, config: Config, sites: Sites | None = None) -> None:
        self.config = config
        self.downloads = Downloads(config.download, config.max_bytes, sites)
        self.pool = ThreadPoolExecutor(config.download.concurrency, thread_name_prefix="download")

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(self, *_: object) -> None:
        self.downloads.stop()
        self.pool.shutdown(cancel_futures=True)
        self.downloads.client.close()

    def all(self, rows: Iterable[dict]) -> Iterator[tuple[str, Outcome]]:
        """(id, outcome) in the order of `rows`. What arrives is converted in whatever order it
        comes, none of it more than STAGE_ROWS behind the first that is still on its way.
        """
        most = self.config.download.concurrency + WAITING
        arrivals = map_as_they_come(self.pool, self.one, rows, most, STAGE_ROWS)
        taken: deque[tuple[int, str]] = deque()

        def arriving() -> Iterator[tuple[bytes | Outcome, int | None]]:
            for number, (row, found) in arrivals:
                taken.append((number, row["id"]))
                yield found, row["rotation"]

        held: dict[int, tuple[str, Outcome]] = {}
        due = 0
        for outcome in attempts(arriving(), self.config, exif_first=True):
            number, image_id = taken.popleft()
            held[number] = image_id, outcome
            while due in held:
                yield held.pop(due)
                due += 1

    def one(self, row: dict) -> tuple[dict, bytes | Outcome]:
        """Downloads and checks an image. Whatever goes wrong with it is its outcome, never the
        job's end.
        """
        if not row["url"]:
            return row, Outcome("no_url", "the CSVs give no URL for this image")
        found = alone(row["url"], lambda: self.checked(row))
        return row, Outcome(found.status, found.reason) if isinstance(found, NotFetched) else found

    def checked(self, row: dict) -> bytes | Outcome | NotFetched:
        """Raises DownloadError if every try failed, and whatever else goes wrong."""
        data = self.downloads.tried(row["url"], lambda body: long_enough(body, row))
        return data if isinstance(data, NotFetched) else disagreement(data, row) or data


def long_enough(body: bytes, row: dict) -> bytes:
    """Raises DownloadError on a JPEG that is shorter than the CSV's: cut off, perhaps."""
    size = row["original_size"]
    if size and len(body) < size and body[:2] == b"\xff\xd8":
        raise DownloadError(
            NotFetched("size_mismatch", f"{len(body):,} bytes, the CSV says {size:,}")
        )
    return body


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
    expected = row["original_md5"]
    if expected and (found := md5(data)) != expected:
        return Outcome("md5_mismatch", f"MD5 {found}, the CSV says {expected}")
    return None


def md5(data: bytes) -> str:
    """As the CSVs write it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
