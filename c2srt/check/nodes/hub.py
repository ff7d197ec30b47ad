"""The coordinator's side of the connections: who is there, questions to all, answers in time."""

import hmac
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from c2srt.check.nodes import wire

PATIENCE_S = 5.0
"""For a connection to say who it is, and for a node to take a question."""


LOOK_S = 0.5
"""Between two looks at who has ended."""


class Interrupted(Exception):
    """Told to end meanwhile; the text says by what."""


class Hub:
    """Listens at `address`; a probe that says the token and one of `names` is a node.

    `interrupted` is asked several times a second: what it says, if anything, ends the check.
    """

    def __init__(
        self,
        names: Iterable[str],
        address: str = "127.0.0.1",
        interrupted: Callable[[], str] = lambda: "",
    ) -> None:
        self.names, self.interrupted = list(names), interrupted
        self.token, self.numbers = secrets.token_hex(16), count(1)
        self.server = socket.create_server((address, 0), backlog=512)
        self.address, self.port = address, self.server.getsockname()[1]
        self.connections: dict[str, socket.socket] = {}
        self.events: SimpleQueue = SimpleQueue()
        self.gone: set[str] = set()
        """Those whose connection ended before the check did."""
        self.sent: dict[str, float] = {}
        self.took: dict[str, tuple[float, float]] = {}
        """Of the last answer of each: the seconds at which it was asked, and answered."""
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Takes connections, in a thread, until `close`."""
        with suppress(OSError):
            while True:
                connection, _ = self.server.accept()
                threading.Thread(target=self.listen, args=(connection,), daemon=True).start()

    def listen(self, connection: socket.socket) -> None:
        """Turns a node's lines into events, in a thread; a stranger is left."""
        with suppress(OSError), connection:
            connection.settimeout(PATIENCE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            said = wire.lines(connection)
            hello = next(said, {})
            name = hello.get("name")
            if name not in self.names or not hmac.compare_digest(
                str(hello.pop("token", "")), self.token
            ):
                return
            connection.settimeout(None)
            self.connections[name] = connection
            self.events.put((name, hello, time.time()))
            for line in said:
                self.events.put((name, line, time.time()))
            self.events.put((name, None, time.time()))

    def wait_for_all(self, seconds: float, ended: Callable[[], set[str]] = set) -> dict[str, dict]:
        """What each node said of itself, of those that came in time; nobody waits for a node in
        `ended`.
        """
        here: dict[str, dict] = {}
        deadline = time.monotonic() + seconds
        while {*self.names} - here.keys() - ended() and time.monotonic() < deadline:
            event = self.next_event(min(deadline, time.monotonic() + LOOK_S))
            if event and event[1] is not None and "name" in event[1]:
                here[event[0]] = event[1]
        return {name: here[name] for name in self.names if name in here}

    def ask(
        self, what: str, orders: Mapping[str, dict[str, Any]], seconds: float
    ) -> dict[str, dict[str, Any]]:
        """The answers of the nodes in `orders` that came within `seconds`; one who could not do
        what was asked gives {"fault": why}.
        """
        number = next(self.numbers)
        waiting = {name for name, order in orders.items() if self.tell(name, what, number, order)}
        answers: dict[str, dict[str, Any]] = {}
        deadline = time.monotonic() + seconds
        while waiting and (event := self.next_event(deadline)):
            name, content, arrived = event
            if content is None:
                self.gone.add(name)
                waiting.discard(name)
            elif name in waiting and content.get("number") == number:
                waiting.discard(name)
                answers[name] = content["answer"]
                self.took[name] = self.sent[name], arrived
        return {name: answers[name] for name in orders if name in answers}

    def tell(self, name: str, what: str, number: int, order: dict[str, Any]) -> bool:
        """Sends one question; whether it could be sent."""
        connection = self.connections.get(name)
        if connection is None:
            return False
        self.sent[name] = time.time()
        try:
            wire.send(connection, {"ask": what, "number": number, **order})
        except OSError:
            return False
        return True

    def next_event(self, deadline: float) -> tuple[str, dict | None, float] | None:
        """The next (node, line, time it came), or None at the deadline. Raises Interrupted."""
        while (left := deadline - time.monotonic()) > 0:
            if why := self.interrupted():
                raise Interrupted(why)
            with suppress(Empty):
                return self.events.get(timeout=min(left, 0.2))
        return None

    def close(self) -> None:
        """Hangs up: every probe ends of that."""
        self.server.close()
        for connection in [*self.connections.values()]:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
