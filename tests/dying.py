"""Decoders that do what native ones may: run by c2srt/isolation.py in place of the real ones."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from c2srt import pictures
from c2srt.pictures import Limits
from c2srt.sharding.decode import Converted, convert_sent as real

DEATHS = {b"SEGV": signal.SIGSEGV, b"ABRT": signal.SIGABRT, b"KILL": signal.SIGKILL}


def echo(data: bytes) -> bytes:
    """The data; or this process dies of them, or burns CPU time, or raises."""
    if data[:4] in DEATHS:
        os.kill(os.getpid(), DEATHS[data[:4]])
    while data == b"LOOP":
        pass
    if data == b"BUG":
        raise ZeroDivisionError("a bug")
    return data


def process() -> int:
    return os.getpid()


def touch(path: str) -> int:
    """Leaves a file, and says who did."""
    Path(path).touch()
    return os.getpid()


def convert_sent(data: memoryview | str, *settings: Any) -> Converted:
    """As the real one, but for JPEGs that end in the name of a signal."""
    content = Path(data).read_bytes() if isinstance(data, str) else data
    echo(bytes(content[-4:]))
    return real(data, *settings)


def decode(data: bytes, limits: Limits) -> np.ndarray:
    """As the real one, but for files that end in the name of a signal."""
    echo(data[-4:])
    return pictures.decode(data, limits)
