"""Many pieces of large files at once: tens of reads in flight in a process, whatever one of them
waits for.

    reads = start([(source, offset, size), …])    they are under way; none is waited for
    reads.wait()                                  their bytes, in the same order

A `Source` is one open file, or one object of a store, that any thread may read at any position.
What the page cache holds is taken at once, in the caller: a thread costs more than the copy.
Pieces that follow each other in a file, and in the list, are one read.

The threads belong to one process: a forked one makes its own when it needs them. They are daemons,
so that a read that never comes back (a network file system whose server is gone) keeps no process
from ending.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from c2srt.scratch import origin
from c2srt.storage.local import LocalFile
from c2srt.storage.mirror import fetched

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
IN_FLIGHT = 32
"""Reads at a time in a process: one of 20 ms then costs 0.6."""
GAP = 1023
"""Bytes between two pieces that are read along: what fills a tar's member up, and more."""
LONGEST = 2**20
"""Bytes of a read that is made of several: longer ones would wait for each other."""


class Source(Protocol):
    """Bytes by position. `path` is for messages; `size` in bytes."""

    path: Path
    size: int

    def now(self, offset: int, size: int) -> bytes | bytearray | None:
        """The bytes if they are there without waiting, else None; any failure is left to `read`."""

    def read(self, offset: int, size: int) -> bytes | bytearray:
        """The bytes, all of them, waited for. Called from many threads at a time.

        What passes is tried again. Raises LoaderFailed where it does not pass, UserError where the
        source is shorter than that or has changed since it was opened.
        """


Span = tuple[Source, int, int]
"""(source, offset, size): bytes `offset` … `offset + size − 1`."""


Opens = Callable[[Path], Source]
"""How a path is opened."""


def open_ranges(path: Path) -> Source:
    """The source that has a path's bytes. Raises OSError as `open` does."""
    place = origin(path)
    if place is not None:
        if path.is_file():
            fetched(path)  # if what is here is no longer what is there
        if not path.is_file():
            from c2srt.storage.remote import RemoteFile

            return RemoteFile(path, place)
    return LocalFile(path)


class Run(NamedTuple):
    """One read: bytes `start` … `stop − 1` of a source."""

    source: Source
    start: int
    stop: int


class Reads:
    """Reads that are under way, of `size` bytes together."""

    def __init__(self, spans: Sequence[Span]) -> None:
        runs, self.places = joined(spans)
        self.answers: SimpleQueue = SimpleQueue()
        self.found: list[Any] = [run.source.now(run.start, run.stop - run.start) for run in runs]
        missing = [number for number, buffer in enumerate(self.found) if buffer is None]
        self.outstanding = len(missing)
        self.size = sum(run.stop - run.start for run in runs)
        for number in missing:
            source, begin, end = runs[number]
            POOL.submit(self.answers, number, partial(source.read, begin, end - begin))

    def wait(self) -> list[memoryview]:
        """The bytes of every span. Raises what a `Source` does."""
        while self.outstanding:
            number, found = self.answers.get()
            if isinstance(found, BaseException):
                raise found
            self.found[number] = found
            self.outstanding -= 1
        return [memoryview(self.found[run])[at : at + size] for run, at, size in self.places]


class Later(Generic[T]):
    """What a function returns that waits for storage, in a thread of those that read."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.answers: SimpleQueue = SimpleQueue()
        POOL.submit(self.answers, 0, function)

    def wait(self) -> T:
        """Once. Raises what the function does."""
        _, found = self.answers.get()
        if isinstance(found, BaseException):
            raise found
        return found


class KeptOpen(Generic[K, T]):
    """What `opens` opens, by key, begun ahead of its use; the `most` that were wanted last stay
    open. `opens` runs in a thread of those that read, and must not wait for another one.
    """

    def __init__(self, opens: Callable[[K], T], most: int) -> None:
        self.opens, self.most = opens, most
        self.found: OrderedDict[K, T | Later[T]] = OrderedDict()

    def begin(self, keys: Iterable[K]) -> None:
        """Begins to open those that are not open, and lets go of those longest unused."""
        for key in dict.fromkeys(keys):
            if key not in self.found:
                self.found[key] = Later(partial(self.opens, key))
            self.found.move_to_end(key)
        while len(self.found) > self.most:
            self.found.popitem(last=False)

    def get(self, key: K) -> T:
        """The open one. Raises what `opens` does."""
        found = self.found.pop(key, None)  # what failed is opened anew the next time
        if found is None:
            found = self.opens(key)
        elif isinstance(found, Later):
            found = found.wait()
        self.found[key] = found
        return found


def start(spans: Sequence[Span]) -> Reads:
    """Begins to read all of the spans."""
    return Reads(spans)


def joined(spans: Sequence[Span]) -> tuple[list[Run], list[tuple[int, int, int]]]:
    """The reads for the spans, and for each span (read, offset in it, size)."""
    runs: list[Run] = []
    places = []
    for source, offset, size in spans:
        last = runs[-1] if runs else None
        if (
            last
            and last.source is source
            and 0 <= offset - last.stop <= GAP
            and offset + size - last.start <= LONGEST
        ):
            runs[-1] = last._replace(stop=offset + size)
        else:
            runs.append(Run(source, offset, offset + size))
        places.append((len(runs) - 1, offset - runs[-1].start, size))
    return runs, places


class Pool:
    """The threads that wait for reads, one more whenever there is work and fewer than
    IN_FLIGHT.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked process, which has the parent's objects but not its threads."""
        self.work: SimpleQueue = SimpleQueue()
        self.threads: list[threading.Thread] = []

    def submit(self, answers: SimpleQueue, number: int, function: Callable[[], object]) -> None:
        """(`number`, what the function returns or raises) will be put into `answers`. The function
        must not wait for another one.
        """
        self.work.put((answers, number, function))
        if len(self.threads) < IN_FLIGHT:
            thread = threading.Thread(target=serve, args=(self.work,), daemon=True)
            self.threads.append(thread)
            thread.start()


def serve(work: SimpleQueue) -> None:
    """What a thread does."""
    while True:
        answers, number, function = work.get()
        try:
            answers.put((number, function()))
        except BaseException as error:  # whoever waits for it raises it
            answers.put((number, error))


POOL = Pool()
os.register_at_fork(after_in_child=POOL.forget)
