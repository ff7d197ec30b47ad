"""What threads do beside each other, taken in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
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
