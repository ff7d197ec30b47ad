"""Downloads from servers that mean harm: answers without an end or a bound, redirects to where
nobody should go.
"""

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import certifi
import pytest

from c2srt.exchange import authorities, is_public
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.inputs import prepare_inputs
from c2srt.sharding.openimages import OpenImages
from c2srt.sharding.pack import pack_shard
from c2srt.sharding.raw_files import find_root
from c2srt.sharding.tasks import shard_tasks
from c2srt.sharding.urls import Downloader, UrlSource
from tests.image_server import GOOD, Handler, config, fetch, forget, row, running
from tests.raw_images import name, write_csvs


@pytest.fixture(scope="module")
def server():
    with running() as address:
        yield address


@pytest.fixture(autouse=True)
def fresh():
    forget()


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
    outcome = fetch(f"{url}/x.jpg", attempts=2, backoff_max=0.05, patience=0.2)
    assert outcome.status == "unreachable" and outcome.reason.startswith("HTTP 503")


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
        for number in range(2):
            ((_, outcome),) = downloader.all([row(f"{url}/{number}.jpg")])
            assert outcome.status == "ok"
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
    (task,) = shard_tasks(out, "train", "s", UrlSource(), settings)
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
    assert authorities() is authorities()  # read once
    (tmp_path / "one.pem").write_text(known.partition(end)[0] + end, encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))
    assert authorities().cert_store_stats()["x509_ca"] == 1
