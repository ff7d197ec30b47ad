"""A server of pictures on loopback, and how they are downloaded from it."""

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from c2srt.download_config import PassesConfig
from c2srt.sharding.config import Config
from c2srt.sharding.urls import Downloader
from tests.raw_images import jpeg, name

GOOD = jpeg(0, 600, 400)


PAGE = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (500, 374), colour).save(file, "PNG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """What to answer is in the path."""

    protocol_version = "HTTP/1.1"
    seen: Counter = Counter()
    times: dict[str, list[float]] = {}
    agents: set[str] = set()
    inside = most_inside = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        kind = self.path.strip("/").split("?")[0].removesuffix(".jpg")
        with Handler.lock:
            Handler.seen[kind] += 1
            Handler.times.setdefault(kind, []).append(time.monotonic())
            Handler.agents.add(self.headers["User-Agent"])
            Handler.inside += 1
            Handler.most_inside = max(Handler.most_inside, Handler.inside)
        self.here = True
        try:
            getattr(self, kind.split("-")[0], self.good)()
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.leave()

    def leave(self) -> None:
        """Before the answer's last bytes: whoever has them may ask again before this thread runs
        on.
        """
        with Handler.lock:
            Handler.inside -= self.here
        self.here = False

    def first(self) -> bool:
        return Handler.seen[self.path.strip("/").removesuffix(".jpg")] == 1

    def answer(self, status: int = 200, body: bytes = GOOD, **headers) -> None:
        self.send_response(status)
        for key, value in {
            "Content-Length": len(body),
            **{key.replace("_", "-"): value for key, value in headers.items()},
        }.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.leave()
        self.wfile.write(body)

    def good(self) -> None:
        self.answer()

    def wait(self) -> None:
        time.sleep(0.2)
        self.answer()

    def gone(self) -> None:
        self.answer(404, b"not here")

    def forbidden(self) -> None:
        self.answer(403, b"no")

    def hiccup(self) -> None:
        self.answer(500, b"oops") if self.first() else self.answer()

    def broken(self) -> None:
        self.answer(503, b"oops")

    def busy(self) -> None:
        self.answer(429, b"slow down", Retry_After=1) if self.first() else self.answer()

    def never(self) -> None:
        self.answer(429, b"slow down")

    never2 = never

    def cut(self) -> None:  # announces all, sends half, hangs up
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        self.wfile.write(GOOD[: len(GOOD) // 2])
        self.close_connection = True

    def cutonce(self) -> None:
        self.cut() if self.first() else self.answer()

    def short(self) -> None:  # does not even announce the length
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(GOOD[: len(GOOD) // 2])
        self.close_connection = True

    def silent(self) -> None:
        time.sleep(2.5)

    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        for place in range(60):
            self.wfile.write(GOOD[place : place + 1])
            self.wfile.flush()
            time.sleep(0.1)
        self.close_connection = True

    def page(self) -> None:
        self.answer(200, PAGE, Content_Type="image/jpeg")

    def removed(self) -> None:  # Flickr redirects a removed photo to a grey PNG
        self.answer(302, b"", Location="/grey.jpg")

    def grey(self) -> None:
        self.answer(200, png((238, 238, 238)), Content_Type="image/jpeg")

    def colourful(self) -> None:
        self.answer(200, png((200, 30, 30)))

    def noai(self) -> None:
        self.answer(200, X_Robots_Tag="noindex, NoAI")

    def noaiother(self) -> None:
        self.answer(200, X_Robots_Tag="otherbot: noai")

    def loop(self) -> None:
        self.answer(302, b"", Location="/loop.jpg")

    def astray(self) -> None:
        self.answer(302, b"", Location=f"http://{'b' * 64}.example/x.jpg")

    def other(self) -> None:
        self.answer(200, jpeg(1, 600, 400))

    def none(self) -> None:
        self.answer(200, b"")

    def large(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(GOOD + bytes(3_000_000))

    def log_message(self, *_: object) -> None:
        pass


def config(**download) -> Config:
    fast = {
        "concurrency": 4,
        "timeout": 1.0,
        "total_timeout": 1.5,
        "attempts": 3,
        "backoff": 0.02,
        "backoff_max": 2.0,
        "patience": 5.0,
    }
    return Config(download=PassesConfig(**fast | download), max_bytes=1_000_000)


def row(url: str, size: int | None = None, digest: str | None = None, number: int = 0) -> dict:
    return {
        "id": name(number),
        "url": url,
        "rotation": None,
        "original_size": size,
        "original_md5": digest,
    }


def fetch(url: str, size: int | None = None, digest: str | None = None, **download):
    with Downloader(config(**download)) as downloader:
        ((_, outcome),) = downloader.all([row(url, size, digest)])
        return outcome


@contextmanager
def running() -> Iterator[str]:
    """Meanwhile the server answers at this address."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def forget() -> None:
    """What was asked of the server so far."""
    Handler.seen.clear()
    Handler.times.clear()
    Handler.agents.clear()
    Handler.most_inside = 0
