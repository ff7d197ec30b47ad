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
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl

from c2srt.downloads import (
    DownloadError,
    NotFetched,
    alone,
    fetch_once,
    retrying,
)
from c2srt.exchange import make_client
from c2srt.sharding.config import Config
from c2srt.sharding.outcome import Outcome, attempt
from c2srt.sharding.pack import ShardTask
from c2srt.sharding.staging import FOLDER, about_stage, in_order, write_stage
from c2srt.threads import map_in_order

STAGE_ROWS = 256  # also how far downloads run ahead of the slowest one


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
        return map_in_order(self.pool, lambda row: (row["id"], self.one(row)), rows, STAGE_ROWS)

    def one(self, row: dict) -> Outcome:
        """Downloads, checks and converts one image. Whatever goes wrong with it is its outcome,
        never the job's end.
        """
        if not row["url"]:
            return Outcome("no_url", "the CSVs give no URL for this image")
        found = alone(row["url"], lambda: self.converted(row))
        return Outcome(found.status, found.reason) if isinstance(found, NotFetched) else found

    def converted(self, row: dict) -> Outcome | NotFetched:
        """Raises DownloadError if every try failed, and whatever else goes wrong."""
        data = retrying(self.config.download)(self.get, row)
        if isinstance(data, NotFetched):
            return data
        if bad := disagreement(data, row):
            return bad
        return attempt(data, row["rotation"], self.config, exif_first=True)

    def get(self, row: dict) -> bytes | NotFetched:
        """One try: the body, or what an answer says that is final. Raises DownloadError."""
        config = self.config
        body = fetch_once(self.client, row["url"], config.download, config.max_bytes)
        if isinstance(body, NotFetched):
            return body
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
    found = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    if row["original_md5"] and found != row["original_md5"]:
        return Outcome("md5_mismatch", f"MD5 {found}, the CSV says {row['original_md5']}")
    return None
