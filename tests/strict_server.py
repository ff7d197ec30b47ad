"""A server of pictures in a process of its own that counts what it is asked, allows so many
requests a second, and dies for a while.

    python -m tests.strict_server '{"rate": 50, "dies_after": 300, "dies_for": 3}'

`/<n>.jpg` is picture n of tests/raw_images.py; `/log` all requests as JSON: [[seconds since the
start, path, status]…]; `/now?blocks=1` sets an option while it runs. Options:

    rate         requests a second, beyond which it answers 429 with Retry-After: 1; 0: all
    dies_after   requests after which it is not there, for `dies_for` seconds
    blocks       every picture is answered with 429
    lacks        numbers that are answered with 503
    drips        a byte a second of every picture
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.raw_images import jpeg

BURST = 0.1
"""Share of the rate that may come at once beyond it, within a second."""


class Server:
    def __init__(self, **options) -> None:
        self.options = {"rate": 0, "dies_after": 0, "dies_for": 0, "blocks": 0, "lacks": []}
        self.options |= {"drips": 0} | options
        self.start, self.log, self.recent = time.monotonic(), [], deque()
        self.open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def run(self) -> None:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        print(self.port, flush=True)
        while True:
            self.alive = asyncio.Event()
            await self.alive.wait()
            server.close()
            for writer in self.open:
                writer.transport.abort()
            await asyncio.sleep(self.options["dies_for"])
            self.options["dies_after"] = 0
            server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self.answer(head.split()[1].decode(), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/log":
            await send(writer, 200, json.dumps(self.log).encode())
        elif path.startswith("/now?"):
            name, _, value = path.partition("?")[2].partition("=")
            self.options[name] = json.loads(value)
            await send(writer, 200, b"")
        else:
            await self.picture(path, writer)

    async def picture(self, path: str, writer: asyncio.StreamWriter) -> None:
        number = int(path.strip("/").removesuffix(".jpg"))
        status = self.status(number)
        self.log.append((time.monotonic() - self.start, path, status))
        if self.options["dies_after"] and len(self.log) > self.options["dies_after"]:
            self.alive.set()
            await asyncio.sleep(60)
        if self.options["drips"]:
            writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 1000\r\n\r\n")
            while True:
                writer.write(b"\xff")
                await asyncio.sleep(1)
        await send(writer, status, jpeg(number) if status == 200 else b"no")

    def status(self, number: int) -> int:
        now = time.monotonic()
        while self.recent and self.recent[0] < now - 1:
            self.recent.popleft()
        most = self.options["rate"] * (1 + BURST)
        if self.options["blocks"] or most and len(self.recent) >= most:
            return 429
        self.recent.append(now)
        return 503 if number in self.options["lacks"] else 200


async def send(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    later = b"Retry-After: 1\r\n" if status == 429 else b""
    head = b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n%s\r\n" % (status, len(body), later)
    writer.write(head + body)
    await writer.drain()


class Running:
    """The server's address, and what it says."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def log(self) -> list[tuple[float, str, int]]:
        with urllib.request.urlopen(f"{self.url}/log") as answer:
            return json.load(answer)

    def now(self, option: str) -> None:
        urllib.request.urlopen(f"{self.url}/now?{option}").close()


@contextmanager
def strict_server(**options) -> Iterator[Running]:
    """Meanwhile it answers."""
    command = [sys.executable, "-m", "tests.strict_server", json.dumps(options)]
    root = Path(__file__).parents[1]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        yield Running(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def most_in(log: list[tuple[float, str, int]], seconds: float) -> int:
    """The largest number of requests in any time of that length."""
    times = [moment for moment, _, _ in log]
    first = most = 0
    for last, moment in enumerate(times):
        while times[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


if __name__ == "__main__":
    with suppress(PermissionError):
        os.nice(-10)  # what it does not see in time it would take for a burst
    asyncio.run(Server(**json.loads(sys.argv[1])).run())
