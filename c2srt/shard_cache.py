"""Shards copied to a disk of the node, ahead of the training that reads them (`loader.cache`).

    <cache>/<SHA-256>.tar     a shard, whole: it has this name once its bytes have the index's hash
    <cache>/<SHA-256>.part    one that is being copied, as long as it will be, locked meanwhile
    <cache>/lock              locked while room is made

All processes of a node share the folder, and so do other runs: a shard is known by its content.
Every loader process claims, by their times, the shards that its own batches need next, as many as
the cache holds, and copies those that nobody has or copies. What nobody has claimed for CLAIM_S is
removed when room is needed, the longest unclaimed first. A killed process leaves a .part that
nobody holds: the next one that needs the shard writes it anew. Whoever opens a shard that is not
there, or no longer, reads the original: the cache decides how fast batches come, never what is in
them.

A disk that is full or fails ends the copying, in one warning, and not the training.
"""

import fcntl
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.lock import is_at
from c2srt.shards import Shard
from c2srt.storage.local import LocalFile
from c2srt.storage.ranges import Source, open_ranges, start

log = logging.getLogger(__name__)

AUDIT = Command("audit")
CLAIM_S, CLAIM_EVERY_S = 30, 5
BLOCK, BLOCKS = 2**20, 16
"""Bytes of a read of a copy, and how many are under way."""
GB, LOCK, NAME = 10**9, "lock", re.compile(r"[0-9a-f]{64}\.(tar|part)")


class ShardCache:
    """The cache as one process uses it. Raises UserError if its folder cannot be written, or holds
    not even one shard.
    """

    def __init__(self, folder: Path, limit: int, source: Path, shards: tuple[Shard, ...]) -> None:
        check_cache(folder, limit, shards)
        self.folder, self.limit, self.source, self.shards = folder, limit, source, shards
        self.by_name = {f"{shard.name}.tar": shard for shard in shards}
        self.unfit: set[str] = set()
        self.claimed = -float("inf")

    def place(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.tar"

    def holds(self, shard: Shard) -> bool:
        with suppress(OSError):
            return self.place(shard).stat().st_size == shard.bytes
        return False

    def opens(self, path: Path) -> Source:
        """A shard from the cache if it is there, anything else as `open_ranges`."""
        shard = self.by_name.get(path.name)
        if shard is None:
            return open_ranges(path)
        with suppress(OSError, UserError):
            copy = LocalFile(self.place(shard))
            if copy.size == shard.bytes:
                return CachedFile(copy, path)
        return open_ranges(path)

    def fill(self, wanted: Callable[[], Iterator[int]], stop: threading.Event) -> None:
        """Copies until `stop`, in a thread: `wanted` gives the shards that are needed from now on,
        in their order.
        """
        try:
            while not stop.is_set():
                if not self.fill_one(wanted):
                    stop.wait(CLAIM_EVERY_S)
        except OSError as error:
            log.warning(
                f"loader.cache={self.folder} takes no more shards ({error.strerror}); the training"
                f" goes on, and reads the others from {self.source}"
            )

    def fill_one(self, wanted: Callable[[], Iterator[int]]) -> bool:
        """Copies the first wanted shard that lacks; whether there was one, and room for it."""
        for shard in self.claim(wanted()):
            if shard.sha256 not in self.unfit and not self.holds(shard):
                with self.reserved(shard) as part:
                    if part is not None:
                        self.copy(shard, part, lambda: self.claim(wanted()))
                        return True
        return False

    def claim(self, coming: Iterable[int]) -> list[Shard]:
        """The shards of `coming` that fit into the cache together, once each; those that are there
        are claimed.
        """
        found: dict[int, Shard] = {}
        left = self.limit
        for number in coming:
            left -= 0 if number in found else self.shards[number].bytes
            if left < 0 or len(found) == len(self.shards):
                break
            found[number] = self.shards[number]
        for shard in found.values():
            with suppress(OSError):
                os.utime(self.place(shard))
        self.claimed = time.monotonic()
        return list(found.values())

    @contextmanager
    def reserved(self, shard: Shard) -> Iterator[int | None]:
        """A new file of the shard's size, locked; None if it is there, another process copies it,
        or there is no room. It is removed unless it was renamed. Raises OSError on a full disk.
        """
        path = self.place(shard).with_suffix(".part")
        with exclusive(self.folder / LOCK):
            part = self.begun(shard, path)
        try:
            yield part
        finally:
            if part is not None:
                if is_at(part, path):
                    path.unlink()
                os.close(part)

    def begun(self, shard: Shard, path: Path) -> int | None:
        """The new file, while the folder is locked."""
        if self.holds(shard) or not self.make_room(shard, path):
            return None
        part = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not locked(part):
                os.close(part)
                return None
            os.ftruncate(part, 0)
            if hasattr(os, "posix_fallocate"):  # a disk that is full says so now
                os.posix_fallocate(part, 0, shard.bytes)
            return part
        except OSError:
            path.unlink()
            os.close(part)
            raise

    def make_room(self, shard: Shard, part: Path) -> bool:
        """Removes what nobody claims until the shard fits beside the rest; whether it does."""
        files = [file for file in files_in(self.folder) if file[2] != part]
        total = shard.bytes + sum(size for _, size, _ in files)
        for changed, size, path in sorted(files):
            if total <= self.limit:
                break
            total -= size if removed(path, changed) else 0
        return total <= self.limit

    def copy(self, shard: Shard, part: int, claim: Callable[[], object]) -> None:
        """Fills the file and gives it its name, if its bytes are the index's. Raises OSError if it
        cannot be written.
        """
        original, digest = self.source / f"{shard.name}.tar", hashlib.sha256()
        try:
            source = open_ranges(original)
            for offset, block in blocks(source, shard.bytes):
                digest.update(block)
                write_at(part, block, offset)
                if time.monotonic() > self.claimed + CLAIM_EVERY_S:
                    claim()
        except (FileNotFoundError, UserError) as error:
            self.refuse(shard, f"{original} cannot be copied to the cache: {error}")
            return
        if digest.hexdigest() != shard.sha256 or source.size != shard.bytes:
            self.refuse(shard, f"{original} is not the shard of the index (its SHA-256 is another)")
            return
        os.fsync(part)
        os.replace(self.place(shard).with_suffix(".part"), self.place(shard))

    def refuse(self, shard: Shard, why: str) -> None:
        """It is not tried again; whoever reads it as the original says more."""
        self.unfit.add(shard.sha256)
        log.warning(f"{why}: run `{AUDIT}` to find all damage")


def cache_at(
    folder: str, gigabytes: float, source: Path, shards: tuple[Shard, ...]
) -> ShardCache | None:
    """The cache in a folder, where there is one ("": none). Raises UserError as `ShardCache`."""
    return ShardCache(Path(folder), int(gigabytes * GB), source, shards) if folder else None


class CachedFile:
    """A copy in the cache; where it cannot be read, the original."""

    def __init__(self, copy: LocalFile, original: Path) -> None:
        self.copy, self.path, self.size = copy, copy.path, copy.size
        self.original = original
        self.failed: Source | None = None

    def now(self, offset: int, size: int) -> bytes | bytearray | None:
        return None if self.failed else self.copy.now(offset, size)

    def read(self, offset: int, size: int) -> bytes | bytearray:
        if self.failed is None:
            try:
                return self.copy.read(offset, size)
            except UserError as error:
                log.warning(f"{error}; reading {self.original} instead")
                self.failed = open_ranges(self.original)
        return self.failed.read(offset, size)


def check_cache(folder: Path, limit: int, shards: tuple[Shard, ...]) -> None:
    """Raises UserError if the folder cannot be written, or not one shard fits."""
    largest = max(shard.bytes for shard in shards)
    if largest > limit:
        raise UserError(
            f"loader.cache_gb={limit / GB:g} is less than the largest shard, of"
            f" {largest / GB:.3g} GB: raise it, or leave loader.cache out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{LOCK}.{os.getpid()}.{threading.get_ident()}").open("wb") as file:
            Path(file.name).unlink()
        (folder / LOCK).touch()
    except OSError as error:
        raise UserError(
            f"loader.cache={folder} cannot be written ({error.strerror}): give a folder on a disk"
            " of the node, or leave loader.cache out"
        ) from error


def blocks(source: Source, size: int) -> Iterator[tuple[int, memoryview]]:
    """(offset, bytes) of a source of that size, in order, BLOCKS of them under way."""
    spans = [(source, at, min(BLOCK, size - at)) for at in range(0, size, BLOCK)]
    for first in range(0, len(spans), BLOCKS):
        some = spans[first : first + BLOCKS]
        for (_, offset, _), block in zip(some, start(some).wait(), strict=True):
            yield offset, block


def write_at(file: int, content: memoryview, offset: int) -> None:
    while content:
        count = os.pwrite(file, content, offset)
        content, offset = content[count:], offset + count


def files_in(folder: Path) -> list[tuple[float, int, Path]]:
    """(time of the last claim, bytes, path) of the cache's files; others are left alone."""
    found = []
    for path in folder.iterdir():
        if NAME.fullmatch(path.name):
            with suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
    return found


def removed(path: Path, changed: float) -> bool:
    """Removes a file that nobody claims, or copies; whether it did."""
    if copied(path) if path.suffix == ".part" else changed > time.time() - CLAIM_S:
        return False
    with suppress(FileNotFoundError):
        path.unlink()
    return True


def copied(part: Path) -> bool:
    """Whether somebody holds a .part: else who began it was killed."""
    try:
        file = os.open(part, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not locked(file)
    finally:
        os.close(file)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """One process, and one thread, at a time."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:  # not by closing alone: a process forked meanwhile has the file, too
            fcntl.flock(file, fcntl.LOCK_UN)


def locked(file: int) -> bool:
    """Locks an open file, unless somebody else has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
