"""A rank that holds up the others is named, with the rule's numbers worked by hand."""

import socket
import time

import pytest
import torch

from c2srt.train.stragglers import OwnTime, Slow, Stragglers
from c2srt.train.world import World
from tests.ranks import run_ranks

NODES = ["a", "a", "b", "b", "c"]


def test_one_that_is_slow_in_three_records_in_a_row_is_named_and_then_no_more():
    """The median of 1, 1, 1, 1 and 1.3 is 1: 30 % more than the median is over the 20 %."""
    found, slow, level = Stragglers(NODES), [1.0, 1.0, 1.3, 1.0, 1.0], [1.0, 1.0, 1.1, 1.0, 1.0]
    assert [found.note(slow), found.note(slow)] == ["", ""]
    assert found.note(slow) == "rank 2 (node b) is 30% slower"
    assert found.note([2 * one for one in slow]) == "rank 2 (node b) is 30% slower"
    assert found.note(level) == ""
    assert [found.note(slow), found.note(slow), found.note(level), found.note(slow)] == [""] * 4


def test_those_that_take_turns_are_none_and_of_many_the_slowest_two_are_named():
    found = Stragglers(NODES)
    for number in range(9):
        assert found.note([2.0 if rank == number % 5 else 1.0 for rank in range(5)]) == ""
    found = Stragglers([f"n{rank}" for rank in range(9)])
    own = [1.0] * 6 + [1.5, 1.4, 3.0]
    said = [found.note(own) for _ in range(3)]
    assert (
        said[2]
        == "rank 8 (node n8) is 200% slower, rank 6 (node n6) is 50% slower, 1 more are slow"
    )


def test_of_two_ranks_the_slower_is_held_against_their_mean():
    """1 and 1.6: the median is 1.3, and 1.6 is 23 % over it; 1 and 1.4 are within 20 % of 1.2."""
    found = Stragglers(["a", "b"])
    assert [found.note([1.6, 1.0]) for _ in range(3)][2] == "rank 0 (node a) is 23% slower"
    found = Stragglers(["a", "b"])
    assert [found.note([1.4, 1.0]) for _ in range(4)] == [""] * 4
    assert Stragglers(["a"]).note([5.0]) == ""


@pytest.mark.parametrize("device", ["cpu"] + ["cuda"] * torch.cuda.is_available())
def test_own_time_is_that_between_its_marks(device):
    own = OwnTime(torch.device(device))
    own.begin()
    time.sleep(0.02)
    own.end()
    time.sleep(0.02)
    first = own.seconds()
    assert 0.02 <= first == own.seconds()


def slow_one(rank: int) -> list[str]:
    """What rank 1 of three makes the others say: ten steps of 0.1 s and 0.3 s, in four records."""
    world, said = World(rank, 3, 3, torch.device("cpu")), []
    slow = Slow(world.gather(socket.gethostname()))
    for _ in range(4):
        for _ in range(10):
            slow.add(0.3 if rank == 1 else 0.1)
        slow.compare(world.rows([slow.mean(10)])[:, 0].tolist())
        said.append(slow.said.partition(" (")[0] + slow.said.partition(")")[2])
    return said


def test_ranks_compare_their_own_times_a_step_at_every_record():
    assert run_ranks(3, slow_one) == [["", "", *[" · rank 1 is 200% slower"] * 2]] * 3
