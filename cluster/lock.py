"""No process that an earlier attempt left behind writes into a training's folder.

The command holds the first byte of `<out>/lock` (c2srt/lock.py), each of its ranks shares the
second.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from c2srt.errors import UserError
from c2srt.lock import LEASE_S, LOCK, locked, supported

RANKS = 1
"""The byte that ranks share."""
KEPT: list[IO] = []
"""This rank's open lock file: closing it would give the lock back."""


def wait_for_earlier_ranks(
    file: IO, seconds: float = LEASE_S, stop: Callable[[], bool] = lambda: False
) -> bool:
    """Until no rank of an earlier attempt lives; they end with their raylet or driver. Returns
    False if `stop` says so before.

    Raises UserError if one does not end.
    """
    folder = Path(file.name).parent
    if not locked(
        file,
        RANKS,
        seconds,
        f"waiting for the workers of an earlier attempt that write {folder}",
        stop,
    ):
        if stop():
            return False
        raise UserError(
            f"workers of an earlier attempt still write {folder} after {seconds:.0f} s: end them,"
            " then run the same command"
        )
    fcntl.lockf(file, fcntl.LOCK_UN, 1, RANKS)
    return True


def hold_as_rank(folder: Path) -> None:
    """Marks this process as one that writes into the folder, until it ends; at the latest when its
    raylet does.

    Ray leaves a worker alive whose raylet was killed (seen with 2.60: for minutes), and its next
    attempt would run beside it.
    """
    KEPT.append((folder / LOCK).open("a+", encoding="utf-8"))
    supported(lambda: fcntl.lockf(KEPT[-1], fcntl.LOCK_SH, 1, RANKS))
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()


def end_with(parent: int) -> None:
    """Ends this process at once when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
