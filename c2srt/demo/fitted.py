"""Relations of a miniature's world with exactly the degrees of a mined graph: how many answers each
category has, and how many categories name each seen one, hubs included.

The oracle's answers (c2srt/demo/knowledge.py) fill these places as far as they go. A category that
is named as often as its place in the sequence says is named no more, so what most of a small
world's answers say, that a red star is red, stands only where there is room for it.
"""

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np

from c2srt.demo.knowledge import Answer, oracle_answers
from c2srt.demo.words import Category, World, sort_of

FIRST_ONES = 6
"""Of the oracle's answers about a category: what they name most often are the hubs."""


def fitted_answers(
    world: World, wrong: float, degrees: tuple[list[int], list[int]]
) -> Iterator[tuple[Category, list[Answer]]]:
    """The answers of every category, in the world's order and best first: a share `wrong` of them
    replaced by wrong ones, of the same sort where one has room.

    degrees: of the mined graph, how many answers each category has and how many name each one, both
    ascending. They are stretched over the world's categories, and the second scaled to their sum.
    """
    every = world.categories
    oracle = {each.name: oracle_answers(world, each, len(every)) for each in every}
    chooser = random.Random(f"{world.number}/fitted")
    counts = stretched(degrees[0], len(every))
    chooser.shuffle(counts)
    room = rooms(world, oracle, degrees[1], sum(counts))
    order = list(zip(every, counts, strict=True))
    chooser.shuffle(order)
    order.sort(key=lambda item: item[0].kind != "event")  # first those whose names tell nothing
    found = {}
    for category, count in order:
        found[category.name] = filled(
            world, category.name, oracle[category.name], count, wrong, room
        )
    for category in every:
        yield category, found[category.name]


def stretched(sequence: list[int], count: int) -> list[int]:
    """`count` of its values, evenly from the least to the greatest."""
    return [sequence[round(place)] for place in np.linspace(0, len(sequence) - 1, count)]


def rooms(
    world: World, oracle: dict[str, list[Answer]], named: list[int], total: int
) -> dict[str, int]:
    """How often each seen category is to be named: `total` in all, most often what the oracle names
    most often.
    """
    often = Counter(answer.name for answers in oracle.values() for answer in answers[:FIRST_ONES])
    seen = sorted((c.name for c in world.categories if c.seen), key=lambda name: often[name])
    share = np.array(stretched(named, len(seen)), float)
    exact = np.cumsum(share * total / share.sum()).round().astype(int)
    return dict(zip(seen, np.diff(exact, prepend=0).tolist(), strict=True))


def filled(
    world: World, name: str, oracle: list[Answer], count: int, wrong: float, room: dict[str, int]
) -> list[Answer]:
    """`count` answers about a category, for which room is taken; fewer when none is left for it."""
    chooser = random.Random(f"{world.number}/{name}/wrong")
    right = iter(oracle)
    taken, answers = {name, *(answer.name for answer in oracle)}, []
    for _ in range(count):
        answer = next((each for each in right if room[each.name]), None)
        if answer is None or chooser.random() < wrong:
            sorts = [sort_of(world, answer.name), None] if answer else [None]
            others = (free(world, chooser, sort, taken, room) for sort in sorts)
            if other := next(filter(None, others), None):
                answer = Answer(other, "co-occurrence", "medium")
        if answer is None:
            break
        taken.add(answer.name)
        room[answer.name] -= 1
        answers.append(answer)
    return answers


def free(
    world: World,
    chooser: random.Random,
    sort: tuple[str, int] | None,
    taken: set[str],
    room: dict[str, int],
) -> str | None:
    """A category that has room, the likelier the more; of a sort, if one is given."""
    names = [
        name
        for name, left in room.items()
        if left and name not in taken and (sort is None or sort_of(world, name) == sort)
    ]
    return chooser.choices(names, [room[name] for name in names])[0] if names else None
