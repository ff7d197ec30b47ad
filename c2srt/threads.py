"""What threads do beside each other, taken in order or as it comes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue
from typing import Any


def map_in_order(
    pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any], window: int
) -> Iterator[Any]:
    """`map` on a pool, in order, with at most `window` items in flight or waiting to be taken."""
    items = iter(items)
    running: deque[Future] = deque()
    while True:
        running.extend(pool.submit(function, item) for item in islice(items, window - len(running)))
        if not running:
            return
        yield running.popleft().result()


def map_as_they_come(
    pool: ThreadPoolExecutor,
    function: Callable[[Any], Any],
    items: Iterable[Any],
    most: int,
    window: int,
) -> Iterator[tuple[int, Any]]:
    """(number, result) of a `map` on a pool, whichever is there; at most `most` items are in flight
    or waiting to be taken, none of them `window` or more behind the first.
    """
    numbered = enumerate(items)
    running: dict[int, Future] = {}  # in order
    ended: SimpleQueue[int] = SimpleQueue()

    def begin(number: int, item: Any) -> None:
        running[number] = future = pool.submit(function, item)
        future.add_done_callback(lambda _: ended.put(number))

    behind = 0
    while True:
        while len(running) < most and behind - next(iter(running), behind) < window:
            if (following := next(numbered, None)) is None:
                break
            begin(*following)
            behind = following[0] + 1
        if not running:
            return
        number = ended.get()
        yield number, running.pop(number).result()
