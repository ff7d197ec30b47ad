"""sharding/urls.py against a real HTTP server that misbehaves in every way that a list of nine
million URLs does.
"""

import contextlib
import gzip
import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certifi
import polars as pl
import pytest
from PIL import Image

from c2srt.clients import retry_after
from c2srt.download_config import DownloadConfig
from c2srt.downloads import DownloadError, retrying
from c2srt.errors import UserError
from c2srt.exchange import authorities, is_public
from sharding.config import Config, DataConfig
from sharding.inputs import prepare_inputs
from sharding.openimages import OpenImages
from sharding.outcome import Outcome
from sharding.pack import ShardTask, pack_shard
from sharding.plan import plan_split
from sharding.raw_files import find_root
from sharding.urls import Downloader, UrlSource
from tests.raw_images import jpeg, md5, name, write_csvs

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
    inside = most_inside = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        kind = self.path.strip("/").split("?")[0].removesuffix(".jpg")
        with Handler.lock:
            Handler.seen[kind] += 1
            Handler.times.setdefault(kind, []).append(time.monotonic())
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


@pytest.fixture(scope="module")
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def fresh():
    Handler.seen.clear()
    Handler.times.clear()
    Handler.most_inside = 0


def config(**download) -> Config:
    fast = {
        "concurrency": 4,
        "timeout": 1.0,
        "total_timeout": 1.5,
        "attempts": 3,
        "backoff": 0.02,
        "backoff_max": 2.0,
    }
    return Config(download=DownloadConfig(**fast | download), max_bytes=1_000_000)


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
        return downloader.one(row(url, size, digest))


def test_a_good_answer_is_checked_and_reduced(server):
    outcome = fetch(f"{server}/good.jpg", len(GOOD), md5(GOOD))
    assert (outcome.status, outcome.width, outcome.height) == ("ok", 384, 256)
    assert min(Image.open(io.BytesIO(outcome.jpeg)).size) == 256


@pytest.mark.parametrize("kind, tries", [("hiccup", 2), ("cutonce", 2), ("busy", 2)])
def test_what_passes_is_tried_again(server, kind, tries):
    assert fetch(f"{server}/{kind}.jpg", len(GOOD), md5(GOOD)).status == "ok"
    assert Handler.seen[kind] == tries


def test_retry_after_is_waited_for(server):
    fetch(f"{server}/busy.jpg")
    first, second = Handler.times["busy"]
    assert second - first >= 1


def test_retry_after_is_capped():
    def passing() -> Outcome:
        raise DownloadError(Outcome("unreachable", "HTTP 429"), wait=1)

    pauses = []
    again = retrying(config(backoff_max=0.1).download).copy(sleep=pauses.append)
    with pytest.raises(DownloadError):
        again(passing)
    assert pauses == [0.1, 0.1]


@pytest.mark.parametrize(
    "kind, status, reason, tries",
    [
        ("gone", "missing", "HTTP 404", 1),
        ("forbidden", "refused", "HTTP 403", 1),
        ("broken", "unreachable", "HTTP 503", 3),
        ("cut", "unreachable", "RemoteProtocolError", 3),
        ("silent", "unreachable", "ReadTimeout", 3),
        ("drip", "unreachable", "no end after", 3),
        ("page", "placeholder", "XML", 1),
        ("removed", "placeholder", "PNG", 1),
        ("grey", "placeholder", "PNG", 1),
        ("colourful", "placeholder", "PNG", 1),
        ("other", "size_mismatch", "the CSV says", 1),
        ("short", "size_mismatch", "the CSV says", 3),
        ("none", "empty", "0 bytes", 1),
        ("large", "too_large", "max_bytes", 1),
        ("loop", "refused", "redirect", 21),
    ],
)
def test_what_does_not_pass_has_its_status(server, kind, status, reason, tries):
    """With the size and MD5 of the CSV, as for real."""
    good = (
        GOOD if len(GOOD) < len(jpeg(1, 600, 400)) else GOOD[:-100]
    )  # so that "other" is never taken for a cut-off answer
    outcome = fetch(f"{server}/{kind}.jpg", len(good), md5(good))
    assert (
        (outcome.status, Handler.seen[kind]) == (status, tries)
        and reason in outcome.reason
        and not outcome.jpeg
    )


def test_the_right_size_with_a_wrong_md5(server):
    assert fetch(f"{server}/good.jpg", len(GOOD), md5(b"else")).status == "md5_mismatch"


def test_without_size_and_md5_half_a_jpeg_is_corrupt(server):
    assert fetch(f"{server}/short.jpg").status == "corrupt"


@pytest.mark.parametrize(
    "url, status",
    [
        ("", "no_url"),
        ("ftp://127.0.0.1/x.jpg", "refused"),
        ("not a url", "refused"),
        ("file:///etc/passwd", "refused"),
        ("http://127.0.0.1:1/x.jpg", "unreachable"),
        (f"http://{'a' * 64}.example/x.jpg", "refused"),
        ("http://xn--/x.jpg", "refused"),
        ("http://xn--a-ecp.example/x.jpg", "refused"),
        ("http://\u0378.example/x.jpg", "refused"),
        ("http://a..b/x.jpg", "refused"),
        ("http://[::1/x.jpg", "refused"),
        ("http://127.0.0.1:99999/x.jpg", "unreachable"),
        ("http://127.0.0.1/\x00.jpg", "refused"),
    ],
)
def test_urls_that_lead_nowhere(url, status):
    outcome = fetch(url)
    assert outcome.status == status and outcome.reason


def test_a_redirect_to_nowhere_and_an_odd_fault_are_that_image_s_own(server, monkeypatch):
    outcome = fetch(f"{server}/astray.jpg")
    assert outcome.status in ("refused", "unreachable") and outcome.reason
    rows = [
        row(f"{server}/good.jpg", number=0),
        row("http://xn--/x.jpg", number=1),
        row(f"{server}/good.jpg", number=2),
    ]
    with Downloader(config()) as downloader:
        assert [outcome.status for _, outcome in downloader.all(rows)] == ["ok", "refused", "ok"]
    monkeypatch.setattr("sharding.urls.disagreement", lambda data, row: 1 / 0)
    assert (
        fetch(f"{server}/good.jpg").reason
        == f"{server}/good.jpg: ZeroDivisionError: division by zero"
    )


def test_downloads_overlap_keep_their_order_and_the_limit(server):
    rows = [
        row(f"{server}/wait-{number}.jpg" if number % 3 else f"{server}/gone.jpg", number=number)
        for number in range(24)
    ]
    with Downloader(config(concurrency=8)) as downloader:
        results = list(downloader.all(rows))
    assert [image_id for image_id, _ in results] == [each["id"] for each in rows]
    assert [outcome.status for _, outcome in results] == [
        "ok" if number % 3 else "missing" for number in range(24)
    ]
    assert 2 < Handler.most_inside <= 8


def test_a_killed_download_resumes_from_its_stage(server, tmp_path, monkeypatch):
    """The first piece is staged; a second run downloads only the second."""
    monkeypatch.setattr("sharding.urls.STAGE_ROWS", 4)
    table = pl.DataFrame(
        [row(f"{server}/good-{number}.jpg", number=number) for number in range(8)],
        schema={
            "id": pl.String,
            "url": pl.String,
            "rotation": pl.Int32,
            "original_size": pl.Int64,
            "original_md5": pl.String,
        },
    )
    table = table.sort("id")
    task = ShardTask(
        "train-000000",
        "train",
        "",
        0,
        8,
        str(tmp_path),
        "settings",
        UrlSource(),
        config(concurrency=1),
    )
    results = UrlSource().outcomes(table, task)
    first = [next(results) for _ in range(3)]
    results.close()
    assert sum(Handler.seen.values()) < 8
    Handler.seen.clear()
    again = list(UrlSource().outcomes(table, task))
    assert (
        again[:3] == first and len(again) == 8 and all(outcome.status == "ok" for outcome in again)
    )
    assert set(Handler.seen) == {
        url.rpartition("/")[2].removesuffix(".jpg") for url in table["url"][4:]
    }


@pytest.mark.parametrize(
    "header, seconds",
    [(None, 0), ("7", 7), ("soon", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("-3", 0), ("²", 0)],
)
def test_retry_after_headers(header, seconds):
    assert (retry_after(header) or 0) == seconds


def test_a_senseless_download_configuration_is_refused():
    with pytest.raises(UserError, match="download.attempts=0"):
        DownloadConfig(attempts=0)
    with pytest.raises(UserError, match="data.images=web"):
        DataConfig(images="web")


# --- servers that mean harm: answers without an end or a bound, and redirects to where nobody
# should go

PRIVATE = [
    "127.0.0.1",
    "127.8.9.10",
    "10.0.0.5",
    "172.16.3.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::7",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.1.2.3",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_no_public_address(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::101:101"]
)
def test_what_is_one(address):
    assert is_public(address)


@pytest.fixture
def raw_server():
    """A server that sends what a test's function sends into the connection: server(send) -> its
    address.
    """
    running = []

    def serve(send: Callable[[socket.socket], None]) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        running.append(listening)

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        serve.requests.append(connection.recv(65536))
                        send(connection)

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    serve.requests = []
    yield serve
    for listening in running:
        listening.close()


def forever(start: bytes, piece: bytes, pause: float = 0.05) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 " + start)
        while True:
            connection.sendall(piece)
            time.sleep(pause)

    return send


def answer(head: str, body: bytes = b"") -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(
        f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode("latin-1") + body
    )


DRIPS = {
    "status line": forever(b"200 O", b"K"),
    "header": forever(b"200 OK\r\nX: ", b"a"),
    "headers": forever(b"200 OK\r\n", b"X: y\r\n", 0.1),
    "continue": forever(b"100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "early hints": forever(b"103 E\r\n\r\n", b"HTTP/1.1 103 E\r\n\r\n"),
    "body": forever(b"200 OK\r\n\r\n", b"\xff\xd8"),
    "chunk size": forever(b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "chunk extension": forever(b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "trailer": forever(b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    "redirect": forever(b"302 F\r\nLocation: /x\r\n\r\n", b"x"),
    "silence": lambda connection: time.sleep(30),
}


@pytest.mark.parametrize("kind", DRIPS)
def test_no_answer_outlives_its_time(raw_server, kind):
    outcome = fetch(f"{raw_server(DRIPS[kind])}/x.jpg", timeout=10, total_timeout=0.6, attempts=1)
    assert outcome.status == "unreachable" and outcome.reason == "no end after 0.6 s"


@pytest.mark.parametrize(
    "start",
    [
        b"200 OK\r\n\r\n",
        b"302 F\r\nLocation: /x\r\n\r\n",
        b"302 F\r\nContent-Length: 9999999999\r\nLocation: /x\r\n\r\n",
        b"100 Continue\r\n\r\n",
    ],
)
def test_no_answer_outgrows_its_bytes(raw_server, start):
    piece = b"HTTP/1.1 100 Continue\r\n\r\n" * 4096 if start.startswith(b"100") else bytes(1 << 16)
    outcome = fetch(
        f"{raw_server(forever(start, piece, 0))}/x.jpg", timeout=10, total_timeout=120, attempts=1
    )
    assert outcome.status == "too_large" and "max_bytes=1,000,000" in outcome.reason


@pytest.mark.parametrize(
    "encoding", ["gzip", "gzip, gzip, gzip", "deflate", "br", "GZIP", "identity, gzip"]
)
def test_an_encoding_is_refused_before_it_is_undone(raw_server, encoding):
    url = raw_server(
        answer(f"200 OK\r\nContent-Encoding: {encoding}", gzip.compress(bytes(1 << 20)))
    )
    outcome = fetch(f"{url}/x.jpg", attempts=1)
    assert (outcome.status, outcome.reason) == (
        "refused",
        "the server encodes its answer, which was not asked for",
    )


def test_the_word_identity_is_no_encoding(raw_server):
    server = raw_server(answer("200 OK\r\nContent-Encoding: Identity", GOOD))
    assert fetch(f"{server}/x.jpg").status == "ok"


@pytest.mark.parametrize(
    "header",
    [
        "\u00b2",
        "9" * 400,
        "9" * 5000,
        "-1",
        "Wed, 21 Oct 99999 07:28:00 GMT",
        "nan",
        "inf",
        "1e9",
        "0x10",
        "",
        "Wed, 21 Oct 2015 07:28:00 -9999999999",
        "Wed, 21 Oct 2015 99:99:99 GMT",
    ],
)
def test_an_odd_retry_after_is_waited_for_no_longer_than_we_like(raw_server, header):
    url = raw_server(answer(f"503 x\r\nContent-Length: 0\r\nRetry-After: {header}"))
    outcome = fetch(f"{url}/x.jpg", attempts=2, backoff_max=0.05)
    assert (outcome.status, outcome.reason) == ("unreachable", "HTTP 503")


@pytest.mark.parametrize(
    "location",
    [
        "http://xn--/a.jpg",
        f"http://{'a' * 70}.example/a.jpg",
        "http://127.0.0.2:{port}/a.jpg",
        "http://localhost:{port}/a.jpg",
        "http://[::1]:{port}/a.jpg",
        "http://[::ffff:127.0.0.1]:{port}/a.jpg",
        "http://2130706433:{port}/a.jpg",
        "http://0x7f.1:{port}/a.jpg",
        "http://127.0.0.1:1/a.jpg",
        "http://0:{port}/a.jpg",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "gopher://127.0.0.1/a",
    ],
)
def test_a_redirect_leads_to_public_places_only(raw_server, server, location):
    """The second server would answer with a picture, were it asked."""
    place = location.replace("{port}", server.rpartition(":")[2])
    outcome = fetch(
        f"{raw_server(answer(f'302 F{chr(13)}{chr(10)}Location: {place}'))}/x.jpg", attempts=1
    )
    assert outcome.status == "refused" and outcome.reason and not sum(Handler.seen.values())


def test_a_proxy_is_not_asked_for_private_places_either(raw_server, monkeypatch):
    """A proxy on loopback, as they often are, that would answer with a picture wherever it is
    sent.
    """
    monkeypatch.setenv("http_proxy", raw_server(answer("200 OK", GOOD)))
    for variable in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    assert fetch("http://example.org/x.jpg").status == "ok"
    assert raw_server.requests[0].startswith(b"GET http://example.org/x.jpg ")
    monkeypatch.setenv(
        "http_proxy",
        raw_server(answer("302 F\r\nLocation: http://169.254.169.254/latest/meta-data")),
    )
    assert "169.254.169.254, which is no public address" in fetch("http://example.org/x.jpg").reason


def test_private_places_are_for_who_allows_them(raw_server, server):
    redirect = f"302 F\r\nLocation: {server.replace('127.0.0.1', 'localhost')}/good.jpg"
    assert (
        "is no public address (download.private_hosts=true"
        in fetch(f"{raw_server(answer(redirect))}/x.jpg").reason
    )
    assert fetch(f"{raw_server(answer(redirect))}/x.jpg", private_hosts=True).status == "ok"


def test_the_address_that_is_connected_to_is_the_one_that_was_checked(server, monkeypatch):
    """A name of the CSV that says public when asked first and loopback afterwards."""
    port, asked = int(server.rpartition(":")[2]), []

    def rebinding(host: str, *_: object, **__: object) -> list:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("c2srt.exchange.socket.getaddrinfo", rebinding)
    outcome = fetch(f"http://rebinding.example:{port}/good.jpg", attempts=1)
    assert outcome.status == "refused" and "rebinding.example is at 127.0.0.1" in outcome.reason
    assert asked == ["rebinding.example"] and not sum(Handler.seen.values())
    assert fetch(f"http://rebinding.example:{port}/good.jpg", private_hosts=True).status == "ok"


def test_no_cookie_comes_back(raw_server):
    got = []

    def send(connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
            + GOOD
        )
        got.append(connection.recv(65536))

    url = raw_server(send)
    with Downloader(config()) as downloader:
        assert [downloader.one(row(f"{url}/{number}.jpg")).status for number in range(2)] == [
            "ok",
            "ok",
        ]
    assert b"GET /1.jpg" in got[0] and b"ookie" not in got[0]


def test_a_password_is_nowhere_and_netrc_has_it(raw_server, tmp_path, monkeypatch):
    raw, out, url = tmp_path / "raw", tmp_path / "out", raw_server(answer("200 OK", GOOD))
    with_password = f"{url.replace('://', '://ann:s3cret@')}/{{}}.jpg"
    write_csvs(
        raw,
        {
            "train": [
                {"id": name(number), "url": with_password.format(number)} for number in range(2)
            ]
        },
    )
    settings = Config(data=DataConfig(root=str(raw), images="urls"), out=str(out), splits=["train"])
    report, *_ = prepare_inputs(OpenImages(find_root(raw), settings.data), "train", out)
    assert "train: 2 URLs hold a name or a password: masked as ***" in "\n".join(report.lines())
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password s3cret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    (task,) = plan_split(out, "train", "s", UrlSource(), settings)
    assert pack_shard(task).count == 2
    assert all(
        b"Authorization: Basic YW5uOnMzY3JldA==" in request for request in raw_server.requests
    )
    assert not [
        path for path in out.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()
    ]
    assert b"://***@127" in (out / "train-000000.tar").read_bytes()


def test_who_may_vouch_for_a_server_is_said_by_the_environment_else_by_certifi(
    monkeypatch, tmp_path
):
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)
    end = "-----END CERTIFICATE-----\n"
    known = Path(certifi.where()).read_text(encoding="utf-8")
    assert authorities().cert_store_stats()["x509_ca"] == known.count(end) > 1
    (tmp_path / "one.pem").write_text(known.partition(end)[0] + end, encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))
    assert authorities().cert_store_stats()["x509_ca"] == 1
