"""Whether nodes reach each other, and whether the ports that a job will use are free.

A node listens on those ports and on one that the system gives, as torch and Ray's workers do, and
every other node says a word to each. Standard library only.
"""

import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

CONNECT_S, VISIT_S = 4.0, 9.0
"""For one port, and for all: where nothing answers the rest is not tried."""
AT_ONCE = 32


class Doors:
    """The ports on which this node listens meanwhile, and answers with a word."""

    def __init__(self) -> None:
        self.open: list[socket.socket] = []
        self.ended = threading.Event()

    def listen(self, address: str, ports: list[int], word: str) -> dict[str, Any]:
        """{"any": a port that the system gave, "open": [those of `ports`], "taken": {port: why}}"""
        taken = {}
        for port in [0, *ports]:
            try:
                self.open.append(listening(port))
            except OSError as error:
                taken[str(port)] = error.strerror or str(error)
        threading.Thread(target=self.answer, args=(word.encode(),), daemon=True).start()
        found = [door.getsockname()[1] for door in self.open]
        return {"address": address, "any": found[0], "open": found[1:], "taken": taken}

    def answer(self, word: bytes) -> None:
        """Says the word to whoever comes, until `close`."""
        while not self.ended.is_set():
            with suppress(OSError, ValueError):
                for door in select.select(self.open, [], [], 0.2)[0]:
                    guest, _ = door.accept()
                    with guest:
                        guest.settimeout(CONNECT_S)
                        guest.sendall(word)

    def close(self) -> dict[str, Any]:
        """Frees the ports: the job comes next."""
        self.ended.set()
        while self.open:
            self.open.pop().close()
        return {}


def listening(port: int) -> socket.socket:
    """A socket that listens on every interface, as Ray's services do."""
    door = socket.socket()
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("", port))
        door.listen(512)
    except OSError:
        door.close()
        raise
    return door


def visit(others: dict[str, dict[str, Any]], word: str) -> dict[str, Any]:
    """{"failed": {node: {port: why}}} of what this node does not reach, of {node: {"address",
    "ports"}}; the ports that the system gave come first.
    """
    doors = sorted(
        (place, name, other["address"], port)
        for name, other in others.items()
        for place, port in enumerate(other["ports"])
    )
    failed: dict[str, dict[str, str]] = {}
    until = time.monotonic() + VISIT_S
    with ThreadPoolExecutor(AT_ONCE) as pool:
        whys = pool.map(lambda door: knock(door[2], door[3], word, until), doors)
        for (_, name, _, port), why in zip(doors, whys, strict=True):
            if why:
                failed.setdefault(name, {})[str(port)] = why
    return {"failed": failed}


def knock(address: str, port: int, word: str, until: float) -> str:
    """Why a port is not reached, or answers with another word; "" if all is well, or it is too
    late to try.
    """
    deadline = min(time.monotonic() + CONNECT_S, until)
    if (left := deadline - time.monotonic()) < CONNECT_S / 8:
        return ""
    try:
        with socket.create_connection((address, port), left) as connection:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            said = b""
            while len(said) < len(word) and (more := connection.recv(64)):
                said += more
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return error.strerror or str(error)
    return "" if said.decode(errors="replace") == word else "another program answers"
