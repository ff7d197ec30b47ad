"""A web server of a folder's pictures on loopback: as little work a picture as Python allows, so
that whoever asks is measured. It ends when its standard input does.

    python -m c2srt.bench.picture_server <folder>     prints its address
"""

import asyncio
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

END = b"\r\n\r\n"
FOUND = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
BACKLOG = 1024
"""Connections that wait: whoever opens one a picture has hundreds."""


class Connection(asyncio.Protocol):
    """One client's, kept open until it asks for its end."""

    def __init__(self, pictures: dict[bytes, bytes]) -> None:
        self.pictures, self.asked = pictures, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def data_received(self, data: bytes) -> None:
        self.asked += data
        while END in self.asked:
            head, self.asked = self.asked.split(END, 1)
            self.answer(head)

    def answer(self, head: bytes) -> None:
        picture = self.pictures.get(head.split(b" ", 2)[1])
        if picture is None:
            self.transport.write(MISSING)
        else:
            self.transport.writelines((FOUND % len(picture), picture))
        if b"\r\nconnection: close" in head.lower():
            self.transport.close()


async def serve(folder: Path) -> None:
    """Every `<name>` of the folder at `/<name>`, from memory; names of one file share it."""
    contents: dict[int, bytes] = {}
    pictures = {}
    for path in folder.iterdir():
        number = path.stat().st_ino
        if number not in contents:
            contents[number] = path.read_bytes()
        pictures[f"/{path.name}".encode()] = contents[number]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(pictures), "127.0.0.1", 0, backlog=BACKLOG)
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    os.write(1, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n".encode())
    await ended.wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(Path(sys.argv[1])))
