"""One writer at a time: who may write into a folder.

A POSIX lock on bytes of a file ends with its process, is not inherited by the processes that it
starts, holds for a stopped one too, and reaches over hosts on NFS and Lustre. Where the folder
stands for a place in a store, that place is claimed as well (c2srt/storage/claim.py).
"""

import fcntl
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from c2srt.errors import UserError
from c2srt.files import storage_faults
from c2srt.hints import RUNNING
from c2srt.storage.claim import claimed

log = logging.getLogger(__name__)

LOCK = "lock"
COMMAND = 0
"""The byte that a command holds."""
LEASE_S = 100
"""An NFS server keeps the locks of a host that lost power for a while, 90 s by default."""
HELD: set[Path] = set()
"""The lock files that commands of this process hold."""
HOLDING = threading.Lock()


@contextmanager
def only_command(path: Path, seconds: float = LEASE_S) -> Iterator[IO]:
    """Makes the lock file `path`, and its folder, and holds it for this command; the file stays.

    Raises UserError if it cannot be written, or if another command or thread has it; one of another
    host gets `seconds` to go away.
    """
    with held_once(path), opened(path) as file:
        take(file, path, seconds)
        with claimed(path.parent):
            yield file


@contextmanager
def only_writer(path: Path, seconds: float = LEASE_S) -> Iterator[None]:
    """As `only_command`, with a lock file that is gone afterwards, and with it a folder in which
    nothing else was made.
    """
    made = not path.parent.exists()
    while True:
        with held_once(path), opened(path) as file:
            take(file, path, seconds)
            if not is_at(file.fileno(), path):
                continue  # whoever had it has removed it: what is held now is no lock
            try:
                with claimed(path.parent):
                    yield
            finally:
                with suppress(OSError):
                    path.unlink()
                    if made:
                        path.parent.rmdir()
            return


@contextmanager
def held_once(path: Path) -> Iterator[None]:
    """This thread alone holds the lock file: the operating system would let another one of the same
    process hold it, too, and take it from both when that one closes it.
    """
    path = path.resolve()
    with HOLDING:
        if path in HELD:
            raise in_use(path, f"{socket.gethostname()} {os.getpid()}")
        HELD.add(path)
    try:
        yield
    finally:
        HELD.discard(path)


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Waits, however long, for whoever holds the lock file `path`, then holds it; the file stays.

    Raises UserError if it cannot be written.
    """
    with opened(path) as file:
        locked(file, COMMAND, math.inf)
        yield


def is_at(file: int, path: Path) -> bool:
    """Whether the open file (its descriptor) is the one that has this path."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False


def take(file: IO, path: Path, seconds: float) -> None:
    """Locks the command's byte and writes down who has it. Raises UserError."""
    if not locked(file, COMMAND, 0):
        file.seek(0)
        holder = file.read(200).strip() or "unknown"
        here = holder.split()[0] == socket.gethostname()
        if here or not locked(
            file, COMMAND, seconds, f"waiting for the command that writes {path.parent} ({holder})"
        ):
            raise in_use(path, holder)
    with storage_faults(path):
        file.truncate(0)
        file.write(
            f"{socket.gethostname()} {os.getpid()} {' '.join(verb for verb, _ in RUNNING[-1:])}\n"
        )
        file.flush()


def in_use(path: Path, holder: str) -> UserError:
    return UserError(
        f"another command is writing {path.parent} (host and process {holder}): wait for it, or"
        " choose another out=…"
    )


def opened(path: Path) -> IO:
    with storage_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8", errors="replace")


def locked(
    file: IO,
    byte: int,
    seconds: float,
    waiting: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Tries to lock a byte for this process alone, for up to `seconds` or until `stop`; logs
    `waiting` if it has to wait.
    """
    deadline = time.monotonic() + seconds
    while not supported(lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)):
        if time.monotonic() >= deadline or stop():
            return False
        if waiting and deadline - time.monotonic() < seconds - 2:
            log.info(f"{waiting}, at most {seconds:.0f} s")
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
        log.info(
            f"{error.strerror}: this file system has no locks, so take care that only one command"
            " writes here"
        )
    return True
