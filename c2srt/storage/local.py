"""A file of this machine, or of a network file system that is mounted here, as a source of ranges.

It is read by position (pread), not mapped: a mapped page that cannot be read is SIGBUS, which ends
the process, and a page that is missing pulls in all that the disk reads ahead. The kernel is told
that the order is random, so it reads no more than it is asked for.
"""

import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import TypeVar

from c2srt.errors import AGAIN, LoaderFailed, UserError

T = TypeVar("T")
log = logging.getLogger(__name__)

PASSING = {
    errno.EIO,
    errno.ESTALE,  # the server has another file under this handle: opened again by its path
    errno.ETIMEDOUT,
    errno.EINTR,
    errno.EAGAIN,
    errno.ENOTCONN,  # of a FUSE mount whose process has gone
    errno.ECONNRESET,
    errno.EHOSTDOWN,
}
"""What a disk, a network file system or its server gets over."""
WAITS = (0.1, 0.3, 1, 3, 8)
"""Seconds before each further try: a server that is started again within 12 s costs no restart."""


class LocalFile:
    """An open file. `size` is what it had when it was opened; another one later is an error."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self.file: FileIO | None = None
        self.immediate = hasattr(os, "RWF_NOWAIT")
        self.file, self.size = persistently(path, "opened", lambda: opened(path))

    def now(self, offset: int, size: int) -> bytearray | None:
        """What the page cache has of it, without a read of the disk; None if that is not all."""
        file = self.file
        if not self.immediate or file is None:
            return None
        buffer = bytearray(size)
        try:
            whole = os.preadv(file.fileno(), [buffer], offset, os.RWF_NOWAIT) == size
        except BlockingIOError:
            return None
        except OSError as error:
            self.immediate = error.errno in PASSING  # else the file system has no such reads
            return None
        return buffer if whole else None

    def read(self, offset: int, size: int) -> bytes:
        """Raises LoaderFailed if it cannot be read after several tries, UserError if it is shorter
        or another file now.
        """
        try:
            return persistently(self.path, "read", lambda: self.attempt(offset, size))
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}") from error

    def attempt(self, offset: int, size: int) -> bytes:
        """One try; after a failure the next one opens the file again."""
        file = self.file or self.reopened()
        try:
            return exactly(file, self.path, offset, size)
        except OSError:
            self.file = None  # closed when the last thread that reads it is done
            raise

    def reopened(self) -> FileIO:
        file, size = opened(self.path)
        if size != self.size:
            raise UserError(
                f"{self.path} has {size:,} bytes now and had {self.size:,} when it was opened:"
                " something else writes it"
            )
        self.file = file
        return file


def opened(path: Path) -> tuple[FileIO, int]:
    """A file, of whose pages the kernel reads none ahead, and its size. Raises OSError, UserError
    if it is no file: a pipe would be waited for.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path} cannot be read: it is not a file")
    file = FileIO(path, "rb")
    size = os.fstat(file.fileno()).st_size
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file, size


def exactly(file: FileIO, path: Path, offset: int, size: int) -> bytes:
    """Bytes `offset` … `offset + size − 1`. Raises OSError, UserError if there are not so many."""
    parts, at = [], offset
    while at < offset + size:
        part = os.pread(file.fileno(), offset + size - at, at)
        if not part:
            raise UserError(
                f"{path} ends at byte {at:,}, where its index says that {offset + size:,} are"
                " there: it was cut short; fetch or make it again"
            )
        parts.append(part)
        at += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def persistently(path: Path, done: str, attempt: Callable[[], T]) -> T:
    """What `attempt` returns, tried again after WAITS where its failure may pass.

    Raises OSError if it is of another kind, LoaderFailed if none of the tries went well.
    """
    failure = OSError()
    for number, wait in enumerate((*WAITS, None)):
        try:
            return attempt()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            failure = error
        if not number:
            log.warning(f"{path} could not be {done} ({failure.strerror}): trying again")
        if wait is not None:
            time.sleep(wait)
    raise LoaderFailed(
        f"{path} cannot be {done} ({failure.strerror}, {len(WAITS) + 1} times in"
        f" {sum(WAITS):.0f} s): see `dmesg`, or the server of that file system{AGAIN}"
    ) from failure
