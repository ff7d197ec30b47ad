"""One request to a store, answered whole or refused: tried again where its failure may pass, and
given up in time, also where a host drips a byte a second.

httpx2 is imported where it is used: a command that meets no address does not pay for it.
"""

import logging
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from c2srt.clients import authorities, making_client, retry_after
from c2srt.errors import AGAIN, UserError

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

WAITS, LONGER = (0.2, 1, 3, 8), (20, 40, 60)
"""Seconds before each further try; LONGER for what is written: a training's work of hours waits for
a store that is started again, where a read would find it in the next attempt.
"""
PATIENCE_S, LEAST_RATE = 20.0, 128 << 10
"""An answer has these seconds, and one more for every LEAST_RATE bytes."""
MANY = 64
"""Connections of a process."""
PASSING = (408, 429, 500, 502, 503, 504)
PASSING_CODES = ("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable")
CODE = re.compile(rb"<Code>([^<]{1,100})</Code>")
CLIENTS: dict[int, "httpx2.Client"] = {}
"""Of this process: a forked one has none of its parent's connections."""


class Ask(NamedTuple):
    """A request. `url` as it is sent; `most` bytes may be answered."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    most: int = 1 << 20


class Answer(NamedTuple):
    """What came back; `code` is the error's name in S3's XML, else ""."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        found = CODE.search(self.body[:4096])
        return found[1].decode(errors="replace") if found else ""

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def passing(self) -> bool:
        return self.status in PASSING or self.code in PASSING_CODES


class NoAnswer(UserError):
    """A store that does not answer, or not whole, however often it is asked."""


class Slow(Exception):
    """An answer that has taken all its time."""


def answered(make: Callable[[], Ask], what: str, waits: tuple[float, ...] = ()) -> Answer:
    """The answer to what `make` makes anew for each try, after WAITS and `waits`; `what` is for
    people: "s3://b/k cannot be read". Raises NoAnswer where none came, or none but that the store
    is overloaded.
    """
    begun, failure, pauses = time.monotonic(), "", (*WAITS, *waits)
    for number, wait in enumerate((*pauses, None)):
        request, asked = make(), None
        try:
            answer = attempt(request)
            if not answer.passing:
                return answer
            failure, asked = f"status {answer.status} {answer.code}".strip(), answer.headers
        except Slow:
            failure = "it answers too slowly"
        except transport_error() as error:
            failure = reason(error)
        if not number:
            log.warning(f"{what} ({failure}): trying again")
        if wait is not None:
            pause = retry_after(asked.get("retry-after")) if asked else None
            time.sleep(min(pause if pause is not None else wait, 60) * random.uniform(0.8, 1.2))
    raise NoAnswer(
        f"{what} ({failure}, {len(pauses) + 1} times in {time.monotonic() - begun:.0f} s): see that"
        f" the store is up and the network leads there{AGAIN}"
    )


def transport_error() -> type[Exception]:
    import httpx2

    return httpx2.TransportError


def reason(error: Exception) -> str:
    """A library's words, on one line, without an address."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "without sending complete" in text or "IncompleteRead" in text:
        return "its answer was cut short"
    return re.sub(r"\S+://\S+", "…", text)[:120]


def attempt(request: Ask) -> Answer:
    """One try. Raises httpx2.TransportError, Slow."""
    until = time.monotonic() + PATIENCE_S + (len(request.body) + request.most) / LEAST_RATE
    sent = client().build_request(
        request.method, request.url, headers=dict(request.headers), content=request.body or None
    )
    answer = client().send(sent, stream=True)
    try:
        body = bytearray()
        for piece in answer.iter_raw():
            body += piece
            if time.monotonic() > until:
                raise Slow
            if len(body) > request.most:
                break  # whoever asked for a part of it was given the whole
        return Answer(answer.status_code, answer.headers, bytes(body))
    finally:
        answer.close()


def client() -> "httpx2.Client":
    """The client of this process. Raises UserError where proxies or certificates allow none."""
    if os.getpid() not in CLIENTS:
        import httpx2

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # else a line a request
        with making_client():
            CLIENTS[os.getpid()] = httpx2.Client(
                timeout=httpx2.Timeout(PATIENCE_S, connect=5, pool=None),
                verify=authorities(),
                headers={"User-Agent": "c2srt", "Accept-Encoding": "identity"},
                limits=httpx2.Limits(max_connections=MANY, max_keepalive_connections=MANY),
                auth=None,
                follow_redirects=False,
            )
    return CLIENTS[os.getpid()]


def forget() -> None:
    """In a forked process: the parent's connections are neither used nor closed politely, which
    would end them for the parent.
    """
    KEPT.extend(CLIENTS.values())
    CLIENTS.clear()


KEPT: list["httpx2.Client"] = []
os.register_at_fork(after_in_child=forget)
