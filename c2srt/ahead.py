"""Items made in three stages, so that what one waits for is hidden behind the making of others:
its files are opened, then its bytes read, then it is made.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

MOST_BYTES = 64 * 2**20
"""Under way or read, and not yet used, in a process."""


class Started(Protocol):
    """Something that is being read, `size` bytes of it."""

    @property
    def size(self) -> int: ...


A = TypeVar("A")
B = TypeVar("B", bound=Started)
C = TypeVar("C")


def in_stages(
    positions: range,
    plan: Callable[[int], A],
    start: Callable[[A], B],
    finish: Callable[[B], C],
    planned_ahead: int,
    started_ahead: int,
) -> Iterator[C]:
    """`finish(start(plan(position)))` for every position, in order.

    While an item is made, up to `started_ahead` further ones are being read (fewer, where those
    hold MOST_BYTES), and the next `planned_ahead` are planned.
    """
    planned: deque[A] = deque()
    started: deque[B] = deque()
    left = iter(positions)
    while True:
        while len(started) <= started_ahead and sum(item.size for item in started) < MOST_BYTES:
            planned.extend(map(plan, islice(left, 1 + planned_ahead - len(planned))))
            if not planned:
                break
            started.append(start(planned.popleft()))
        if not started:
            return
        yield finish(started.popleft())
