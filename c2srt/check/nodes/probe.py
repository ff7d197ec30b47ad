"""The part of a check that runs on a node: connects to the coordinator, does what is asked, and
ends when the coordinator hangs up, when its time is over, or when nobody is there.

    C2SRT_CHECK_TOKEN=… python -m c2srt.check.nodes.probe <name> <coordinator's address> <port>
        <seconds>
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import IO, Any, cast

from c2srt.check.nodes import facts, feeding, links, reach, wire
from c2srt.check.nodes.places import Places
from c2srt.surroundings import say, show_everything

TOKEN = "C2SRT_CHECK_TOKEN"
UNREACHABLE = "cannot reach the coordinator"
SPARE_S = 20.0
"""What is left of a probe beyond the check's time: for one whose coordinator died."""
Compose = Callable[[list[str]], dict[str, Any]]


class Probe:
    """Answers the coordinator's questions; `compose` says which folders a training's keys mean."""

    def __init__(self, name: str, address: str, compose: Compose | None) -> None:
        self.name, self.address, self.compose = name, address, compose
        self.places, self.doors = Places(name), reach.Doors()
        self.link: subprocess.Popen[str] | None = None
        self.answers: dict[str, Callable[..., dict[str, Any]]] = {
            "clock": lambda: {"time": time.time()},
            "versions": facts.versions,
            "machine": lambda: facts.machine(os.environ.get("C2SRT_TMP", "/tmp")),
            "keys": self.keys,
            "places": self.places.look,
            "words": self.places.find,
            "remove": self.places.remove,
            "listen": lambda ports, word: self.doors.listen(self.address, ports, word),
            "visit": reach.visit,
            "doors": self.doors.close,
            "begin": self.begin,
            "host": lambda: self.ranks("host", address=self.address),
            **{what: partial(self.ranks, what) for what in ("torch", "join", "all_reduce")},
            "exchange": partial(self.ranks, "exchange"),
            "loader": feeding.rate,
        }

    def keys(self, keys: list[str]) -> dict[str, Any]:
        """The folders that a training with these keys reads and writes."""
        if self.compose is None:
            return {"fault": "this probe knows no keys of a training"}
        return self.compose(keys)

    def begin(self) -> dict[str, Any]:
        """Starts the process of this node's rank, which imports torch meanwhile."""
        self.link = subprocess.Popen(
            [sys.executable, "-m", "c2srt.check.nodes.links"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        return {}

    def ranks(self, what: str, **order: Any) -> dict[str, Any]:
        """What this node's rank says; it has begun before."""
        link = cast("subprocess.Popen[str]", self.link)
        orders, answers = cast(IO[str], link.stdin), cast(IO[str], link.stdout)
        orders.write(json.dumps({"ask": what, **order}) + "\n")
        orders.flush()
        if line := answers.readline():
            return dict(json.loads(line))
        return {"fault": f"its process ended with status {link.wait()}"}

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Does what is asked."""
        what, number = order.pop("ask"), order.pop("number")
        return {"number": number, "answer": links.answered(self.answers[what], order)}


def main(arguments: list[str], compose: Compose | None = None) -> int:
    """One probe; returns the exit status."""
    show_everything()
    name, address, port, seconds = (
        arguments[0],
        arguments[1],
        int(arguments[2]),
        float(arguments[3]),
    )
    watch = threading.Timer(seconds + SPARE_S, os._exit, (1,))
    watch.daemon = True
    watch.start()
    try:
        connection = connected(address, port, seconds / 6)
    except OSError as error:
        say(f"{name} {UNREACHABLE} at {address}:{port}: {error.strerror or error}")
        return 1
    own = connection.getsockname()[0]
    probe = Probe(name, own, compose)
    orders: SimpleQueue = SimpleQueue()
    threading.Thread(target=listen, args=(connection, orders, probe), daemon=True).start()
    with suppress(OSError):
        token = os.environ.pop(TOKEN, "")
        wire.send(connection, {"name": name, "token": token, "address": own})
        while order := orders.get():
            wire.send(connection, probe.answer(order))
    probe.places.remove()
    return 0


def connected(address: str, port: int, seconds: float) -> socket.socket:
    """A connection, tried again for a while. Raises OSError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection((address, port), max(1.0, seconds / 3))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
            continue
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def listen(connection: socket.socket, orders: SimpleQueue, probe: Probe) -> None:
    """Passes questions on, in a thread; when the coordinator hangs up, the process ends, whatever
    it is at.
    """
    with suppress(OSError):
        for order in wire.lines(connection):
            orders.put(order)
    orders.put(None)
    time.sleep(2)
    probe.places.remove()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
