"""c2srt/threads.py: what is taken as it comes is taken whole, and never too far ahead."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from c2srt.threads import map_as_they_come


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.mark.parametrize("most, window", [(1, 1), (1, 9), (4, 1), (4, 9), (9, 4)])
def test_each_comes_once(pool, most, window):
    found = list(map_as_they_come(pool, lambda item: item * item, iter(range(50)), most, window))
    assert sorted(found) == [(number, number * number) for number in range(50)]


def test_the_others_come_while_the_first_is_on_its_way_but_no_more_than_the_window(pool):
    first, asked = threading.Event(), []

    def function(item: int) -> int:
        asked.append(item)
        if item == 0:
            first.wait(60)
        return item

    found = map_as_they_come(pool, function, range(20), 4, 6)
    early = [next(found)[0] for _ in range(5)]
    assert sorted(early) == [1, 2, 3, 4, 5]
    first.set()
    assert next(found) == (0, 0)
    assert sorted(asked) == list(range(6))  # the rest only now that the first is taken
    assert sorted(number for number, _ in found) == list(range(6, 20))


def test_no_more_are_begun_than_may_wait_to_be_taken(pool):
    begun = []
    found = map_as_they_come(pool, begun.append, range(20), 3, 9)
    next(found)
    assert len(begun) <= 3
    for count, _ in enumerate(found, 2):
        assert len(begun) < count + 3


def test_an_error_ends_it(pool):
    with pytest.raises(ZeroDivisionError):
        list(map_as_they_come(pool, lambda item: 1 // item, [2, 1, 0, 3], 2, 9))
