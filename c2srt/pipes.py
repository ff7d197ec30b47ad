"""Whole Python objects through a pipe between our own processes, arrays straight from where they
lie.
"""

import pickle
import struct
from contextlib import suppress
from fcntl import F_SETPIPE_SZ, fcntl
from io import FileIO

PIPE_BYTES = 1 << 20


def widen(pipe: FileIO) -> None:
    """Lets a pipe hold a megabyte; beyond what a user may have it stays at 64 kB: slower."""
    with suppress(OSError):
        fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)


def send(pipe: FileIO, item: object) -> None:
    """Writes an item, its arrays straight from where they lie: the number of parts, their bytes,
    and the parts.
    """
    arrays: list[pickle.PickleBuffer] = []
    parts: list[bytes | memoryview] = [
        pickle.dumps(item, protocol=5, buffer_callback=arrays.append)
    ]
    parts += [array.raw() for array in arrays]
    for part in (struct.pack(f"<{len(parts) + 1}Q", len(parts), *map(len, parts)), *parts):
        left = memoryview(part)
        while left:
            left = left[pipe.write(left) :]


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
