"""Who may write into a training's folder: one command at a time, and no process that an earlier attempt left behind.

Both are locks on bytes of `<out>/lock`: the command holds the first, each of its ranks shares the second. POSIX locks end with
their process, are not inherited by loader workers, hold for a stopped process too, and reach over hosts on NFS and Lustre.
"""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from c2srt.errors import UserError
from c2srt.files import raise_if_storage

LOCK = "lock"
COMMAND, RANKS = 0, 1
LEASE_S = 100
"""An NFS server keeps the locks of a host that lost power for a while, 90 s by default."""
KEPT: list[IO] = []
"""This rank's open lock file: closing it would give the lock back."""


@contextmanager
def only_command(folder: Path, seconds: float = LEASE_S) -> Iterator[IO]:
    """Makes the folder and holds it for this command. Raises UserError if it cannot be written, or if another command has it; one
    of another host gets `seconds` to go away."""
    with opened(folder) as file:
        if not locked(file, COMMAND, 0):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            here = holder.split()[0] == socket.gethostname()
            if here or not locked(file, COMMAND, seconds, f"waiting for the training that writes {folder} ({holder})"):
                raise UserError(f"another training is writing {folder} (host and process {holder}): wait for it, or choose "
                                "another out=…")
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()
        yield file


def opened(folder: Path) -> IO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise_if_storage(error, folder / LOCK)
        raise


def wait_for_earlier_ranks(file: IO, seconds: float = LEASE_S, stop: Callable[[], bool] = lambda: False) -> bool:
    """Until no rank of an earlier attempt lives; they end with their raylet or driver. Returns False if `stop` says so before.

    Raises UserError if one does not end.
    """
    folder = Path(file.name).parent
    if not locked(file, RANKS, seconds, f"waiting for the workers of an earlier attempt that write {folder}", stop):
        if stop():
            return False
        raise UserError(f"workers of an earlier attempt still write {folder} after {seconds:.0f} s: end them, then run the same "
                        "command")
    fcntl.lockf(file, fcntl.LOCK_UN, 1, RANKS)
    return True


def hold_as_rank(folder: Path) -> None:
    """Marks this process as one that writes into the folder, until it ends; at the latest when its raylet does.

    Ray leaves a worker alive whose raylet was killed (seen with 2.60: for minutes), and its next attempt would run beside it.
    """
    KEPT.append((folder / LOCK).open("a+", encoding="utf-8"))
    supported(lambda: fcntl.lockf(KEPT[-1], fcntl.LOCK_SH, 1, RANKS))
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()


def end_with(parent: int) -> None:
    """Ends this process at once when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def locked(file: IO, byte: int, seconds: float, waiting: str | None = None, stop: Callable[[], bool] = lambda: False) -> bool:
    """Tries to lock a byte for this process alone, for up to `seconds` or until `stop`; prints `waiting` if it has to wait."""
    deadline = time.monotonic() + seconds
    while not supported(lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)):
        if time.monotonic() >= deadline or stop():
            return False
        if waiting and deadline - time.monotonic() < seconds - 2:
            print(f"{waiting}, at most {seconds:.0f} s", flush=True)
            waiting = None
        time.sleep(0.2)
    return True


def supported(lock: Callable[[], None]) -> bool:
    """False if another process has the lock; a file system without locks counts as free."""
    try:
        lock()
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        print(f"{error.strerror}: this file system has no locks, so take care that only one training writes here", flush=True)
    return True
