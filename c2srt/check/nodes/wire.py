"""JSON lines over a socket."""

import json
import socket
from collections.abc import Iterator
from typing import Any

LONGEST = 4 << 20
"""Bytes of a line: a listing of a node's findings is far below."""


def send(connection: socket.socket, content: dict[str, Any]) -> None:
    """One line. Raises OSError where the other side is gone, or takes nothing."""
    connection.sendall(json.dumps(content).encode() + b"\n")


def lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """What the other side says, until it closes, or says what is no JSON object."""
    with connection.makefile("rb") as stream:
        while line := stream.readline(LONGEST):
            try:
                content = json.loads(line)
            except ValueError:
                return
            if not isinstance(content, dict):
                return
            yield content
