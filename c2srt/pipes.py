"""Whole Python objects through a pipe between our own processes, arrays straight from where they
lie.
"""

import os
import pickle
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_SETPIPE_SZ, fcntl
from io import FileIO
from itertools import islice

PIPE_BYTES = 1 << 20
PARTS = 512
"""That are written at a time; the system takes at most 1,024."""


def widen(pipe: FileIO) -> None:
    """Lets a pipe hold a megabyte; beyond what a user may have it stays at 64 kB: slower."""
    with suppress(OSError):
        fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)


def send(pipe: FileIO, item: object, full: Callable[[], object] | None = None) -> None:
    """Writes an item, its arrays straight from where they lie: the number of parts, their bytes,
    and the parts. Where the pipe does not block, `full` is called as often as it takes no more.
    """
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(item, protocol=5, buffer_callback=arrays.append)
    parts: list[bytes | memoryview] = [content, *(array.raw() for array in arrays)]
    head = struct.pack(f"<{len(parts) + 1}Q", len(parts), *map(len, parts))
    left = deque(memoryview(part) for part in (head, *parts))
    while left:
        try:
            written = os.writev(pipe.fileno(), list(islice(left, PARTS)))
        except BlockingIOError:
            if full is None:
                raise
            full()
            continue
        while left and len(left[0]) <= written:
            written -= len(left.popleft())
        if written:
            left[0] = left[0][written:]


def receive(pipe: FileIO) -> object:
    """What was sent. Raises EOFError when the other end is closed, in the middle of it or
    before.
    """
    (count,) = struct.unpack("<Q", read(pipe, 8))
    lengths = struct.unpack(f"<{count}Q", read(pipe, 8 * count))
    content, *arrays = (read(pipe, length) for length in lengths)
    return pickle.loads(content, buffers=arrays)


def read(pipe: FileIO, length: int) -> bytearray:
    content = bytearray(length)
    left = memoryview(content)
    while left:
        if not (count := pipe.readinto(left)):
            raise EOFError
        left = left[count:]
    return content
