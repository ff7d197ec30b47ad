"""Tasks of test_executor.py, in a light module: every process loads it."""

import os
import signal
from pathlib import Path

import numpy as np

from c2srt.errors import LoaderFailed, UserError
from c2srt.hints import Command


def squares(number: int) -> np.ndarray:
    return np.arange(number, dtype=np.float32) ** 2


def own_pid(_: int) -> int:
    return os.getpid()


def power(base, number: int) -> int:
    return base() ** number


def printed_command(verb: str) -> str:
    return str(Command(verb))


def refuse(number: int) -> int:
    if number == 2:
        raise UserError("the second one is bad: mend it")
    return number


def fault(number: int) -> float:
    return 1 / number


def no_room(path: str) -> None:
    Path(path).write_text("x", encoding="utf-8")


def die_once(folder: Path, number: int) -> int:
    """Killed by its first process, if it is the third task."""
    mark = folder / "died"
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_loading(folder: Path, times: int, number: int) -> int:
    """Its loader fails so many times."""
    mark = folder / str(len(list(folder.iterdir())))
    if int(mark.name) < times:
        mark.touch()
        raise LoaderFailed("a loader process died")
    return number


def summed(seed: int) -> bytes:
    """Bytes that depend on how many threads take part in a product."""
    import torch

    a, b = torch.randn(2, 300, 3000, generator=torch.Generator().manual_seed(seed))
    return ((a @ b.T).softmax(1) @ b).numpy().tobytes()
