"""One HTTP exchange with a stranger's server, redirects included, that ends and leads nowhere it
should not.

An `Allowance` holds for whatever a thread does between its start and its end: each connection,
handshake, header, redirect and body takes from the same seconds and the same bytes, counted where
they leave the socket, before any library looks at them. (Only the name service is asked under its
own time limits.) Where connections may go is decided by the address that is connected to, so that
no name can change its mind in between: public addresses only, unless `private` allows all; and the
very host and port of the URL where that names an address itself, or localhost: a mirror of
one's own. Behind a proxy it is the proxy that connects.

No cookie is kept. A body comes as it is: an encoding was not asked for and is refused.
"""

import http.cookiejar
import ipaddress
import netrc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import httpcore2
import httpx2

from c2srt.clients import authorities, making_client

AGENT = "c2srt"
OVERHEAD = 1 << 20
"""Bytes of handshakes, headers and framing, over a whole exchange; a single header has at most
100 kB (h11).
"""
REDIRECTS = 20
NAT64 = ipaddress.ip_network("64:ff9b::/96")
KNOWN = 1 << 12
"""Hosts and addresses that are not looked at again."""
READ_BYTES = 1 << 18
"""A reduced photograph at once, where it has arrived: what a read costs hardly depends on it."""
CURRENT = threading.local()


class NoEnd(Exception):
    """The exchange took all its time."""


class TooMuch(Exception):
    """The exchange took all its bytes."""


class NotAllowed(Exception):
    """The server leads where this program does not go."""


class Gate(Protocol):
    """What requests go through."""

    def enter(self, url: httpx2.URL) -> None:
        """Waits until one for this URL may be made."""

    def leaving(self) -> AbstractContextManager[None]:
        """Round the writing of its first bytes: a connection may have taken its time."""


@dataclass
class Allowance:
    """What is left to an exchange: until a time of `time.monotonic`, bytes, and the addresses that
    are not public: all with `private`, else (host, port) `own`. While it waits to enter the `gate`
    no time passes.
    """

    until: float
    bytes: int
    private: bool = False
    own: tuple[str, int] | None = None
    gate: Gate | None = None
    entered: bool = False

    def enter(self, url: httpx2.URL) -> None:
        """A request is about to be made. Raises what the gate does."""
        if self.gate:
            before = time.monotonic()
            self.gate.enter(url)
            self.until += time.monotonic() - before
            self.entered = True

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Round each writing."""
        first, self.entered = self.entered, False
        if not (first and self.gate):
            yield
            return
        before = time.monotonic()
        with self.gate.leaving():
            self.until += time.monotonic() - before
            yield

    def seconds(self, wanted: float | None) -> float:
        """At most `wanted`. Raises NoEnd if none are left."""
        if (left := self.until - time.monotonic()) <= 0:
            raise NoEnd
        return left if wanted is None else min(left, wanted)

    def take(self, count: int) -> None:
        self.bytes -= count
        if self.bytes < 0:
            raise TooMuch

    def check(self, host: str, port: int, address: str) -> None:
        """Raises NotAllowed unless `address`, found for the host, may be connected to."""
        if not self.private and (host, port) != self.own and not is_public(address):
            raise NotAllowed(
                f"{host} is at {address}, which is no public address (download.private_hosts=true"
                " allows it)"
            )


@lru_cache(KNOWN)
def is_public(address: str) -> bool:
    """Whether an address, and the IPv4 address that it may stand for, belongs to the public
    internet.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    if ip.version == 6 and ip in NAT64:
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    found = inner or ip
    return found.is_global and not found.is_multicast and not getattr(found, "is_site_local", False)


@contextmanager
def within(allowance: Allowance) -> Iterator[None]:
    """This thread's connections live on `allowance` meanwhile."""
    CURRENT.allowance = allowance
    try:
        yield
    finally:
        del CURRENT.allowance


class Stream(httpcore2.NetworkStream):
    """A connection that takes what it reads from the allowance of the thread that reads."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self.stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            data = self.stream.read(max(max_bytes, READ_BYTES), CURRENT.allowance.seconds(timeout))
        except httpcore2.TimeoutException:
            CURRENT.allowance.seconds(
                None
            )  # says so if it is the whole exchange that took too long
            raise
        CURRENT.allowance.take(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with CURRENT.allowance.leaving():
            self.stream.write(buffer, CURRENT.allowance.seconds(timeout))

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context, server_hostname: str | None = None, timeout: float | None = None
    ) -> "Stream":
        return Stream(
            self.stream.start_tls(ssl_context, server_hostname, CURRENT.allowance.seconds(timeout))
        )

    def get_extra_info(self, info: str) -> object:
        return self.stream.get_extra_info(info)


class Backend(httpcore2.NetworkBackend):
    """Connects to the addresses that the thread's allowance permits; through a `proxy` to that
    alone, wherever it is.
    """

    def __init__(self, proxy: bool) -> None:
        self.proxy, self.backend = proxy, httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options=None,
    ) -> Stream:
        for last, address in marked(addresses(host, port)):
            if not self.proxy:
                CURRENT.allowance.check(host, port, address)
            seconds = CURRENT.allowance.seconds(timeout)
            try:
                return Stream(
                    self.backend.connect_tcp(address, port, seconds, local_address, socket_options)
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                CURRENT.allowance.seconds(None)
                if last:
                    raise
        raise httpcore2.ConnectError(f"{host} has no address")


def marked(found: list[str]) -> Iterator[tuple[bool, str]]:
    """(whether it is the last one, address)"""
    return ((number == len(found), address) for number, address in enumerate(found, 1))


def addresses(host: str, port: int) -> list[str]:
    """Raises httpcore2.ConnectError if the host has none."""
    try:
        return list(
            dict.fromkeys(
                str(entry[4][0])
                for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        )
    except (OSError, OverflowError) as error:
        raise httpcore2.ConnectError(str(error)) from error


def make_client(many: int, timeout: float, contact: str = "") -> httpx2.Client:
    """A client of `many` connections whose exchanges live on allowances; `~/.netrc` has its
    passwords. `contact` stands in its User-Agent.

    Raises UserError where proxies or certificates allow none.
    """
    nothing_kept = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    passwords = None
    about = "; ".join(filter(None, ("image data set preparation", contact)))
    with suppress(OSError, netrc.NetrcParseError):
        passwords = httpx2.NetRCAuth()
    with making_client():
        client = httpx2.Client(
            timeout=timeout,
            verify=authorities(),
            headers={"User-Agent": f"{AGENT} ({about})", "Accept-Encoding": "identity"},
            cookies=nothing_kept,
            auth=passwords,
            limits=httpx2.Limits(max_connections=many, max_keepalive_connections=many),
        )
    transports: list[Any] = [client._transport, *client._mounts.values()]
    for transport in filter(None, transports):
        # Neither library has a public way that leaves the environment's proxies in force.
        pool = transport._pool
        pool._network_backend = Backend(
            isinstance(pool, (httpcore2.HTTPProxy, httpcore2.SOCKSProxy))
        )
    return client


def place_of(url: httpx2.URL) -> tuple[str, int]:
    """(host, port). Raises httpx2.InvalidURL where the host is no name in Punycode that can be
    read: httpx2 leaves it as it is, and the name service would be asked for it again and again.
    """
    unread = any(label.startswith("xn--") for label in url.host.split("."))
    if unread and url.raw_host.startswith(b"xn--"):
        raise httpx2.InvalidURL(f"Invalid IDNA hostname: {url.host!r}")
    return url.host, url.port or {"https": 443}.get(url.scheme, 80)


@lru_cache(KNOWN)
def literal(host: str) -> str | None:
    """The address that a host names without a name service, in any of the ways to write it; None
    for a name.
    """
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    with suppress(OSError, UnicodeError):
        return socket.inet_ntoa(socket.inet_aton(host))  # 2130706433, 0x7f.1, 127.1
    return None


def own_host(url: httpx2.URL) -> tuple[str, int] | None:
    """(host, port) of a URL that names an address itself, or localhost. Raises
    httpx2.InvalidURL.
    """
    host, port = place_of(url)
    return (host, port) if literal(host) else None


@contextmanager
def answer_to(client: httpx2.Client, url: httpx2.URL) -> Iterator[httpx2.Response]:
    """The answer, its body not yet read, at the end of all redirects. Raises httpx2.HTTPError,
    NoEnd, TooMuch, NotAllowed.
    """
    request = client.build_request("GET", url)
    for _ in range(REDIRECTS + 1):
        host, port = place_of(request.url)
        if address := literal(host):  # here, since a proxy would ask no more
            CURRENT.allowance.check(host, port, address)
        CURRENT.allowance.enter(request.url)
        answer = client.send(request, stream=True, follow_redirects=False)
        try:
            if answer.next_request is None:
                yield answer
                return
            for _ in (
                answer.iter_raw()
            ):  # to its end, within the allowance: the connection can be used again
                pass
            request = answer.next_request
        finally:
            answer.close()
    raise httpx2.TooManyRedirects(f"more than {REDIRECTS} redirects", request=request)


def body_of(answer: httpx2.Response, most: int) -> bytes:
    """As it was sent. Raises TooMuch if it has, or promises, more than `most` bytes, NotAllowed if
    it is encoded.
    """
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise NotAllowed("the server encodes its answer, which was not asked for")
    announced = answer.headers.get("Content-Length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > most):
        raise TooMuch
    pieces, size = [], 0
    for piece in answer.iter_raw():
        pieces.append(piece)
        if (size := size + len(piece)) > most:
            raise TooMuch
    return b"".join(pieces)
