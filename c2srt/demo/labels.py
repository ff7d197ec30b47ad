"""Which categories are true of a picture, and which of them somebody verified.

The truth is the union over all objects; the verified labels are sparse and ternary like Open
Images': some of what is there, some hard negatives that share a word with it, some random ones.
Training labels never hold an unseen category.
"""

import random
from dataclasses import dataclass
from functools import cache

import numpy as np

from c2srt.demo.draw import NO_PART, PLAIN, Picture, Thing
from c2srt.demo.words import SMALLEST, Category, World, family_of, phrase

DOMINANT, SMALL, PAIR = 0.9, 0.6, 0.7
"""Chance that a word of the dominant or of a small object is verified; a pair's is `PAIR` times
that.
"""
SCENE, EVENT = 0.9, 0.7
HARD_NEGATIVES, RANDOM_NEGATIVES = {True: 6, False: 16}, {True: 4, False: 24}
"""Absent categories that were checked, an image of a world of SMALLEST: in training (True) far
fewer than for evaluation, as in Open Images.
"""


@dataclass(frozen=True)
class Columns:
    """Look-ups over a world's categories: column by name, columns by word, (column, companions) of
    the events.
    """

    index: dict[str, int]
    sharing: dict[str, np.ndarray]
    events: tuple[tuple[int, tuple[str, ...]], ...]


@cache
def columns(world: World) -> Columns:
    every = world.categories
    words = {word for category in every for word in category.words}
    return Columns(
        {category.name: position for position, category in enumerate(every)},
        {word: np.flatnonzero([word in c.words for c in every]) for word in words},
        tuple((p, c.words) for p, c in enumerate(every) if c.kind == "event"),
    )


def names_of(thing: Thing, scene: str) -> tuple[list[str], list[str]]:
    """The single words that are true of one object, and all that can be made of them."""
    words = [thing.colour, thing.shape, family_of(thing.colour), family_of(thing.shape)]
    pairs: list[tuple[str, ...]] = [
        (thing.colour, thing.shape),
        (thing.colour, family_of(thing.shape)),
    ]
    pairs += [(thing.shape, scene), (thing.colour, thing.shape, scene)]
    patterned, parted = thing.pattern != PLAIN, thing.part != NO_PART
    if patterned:
        words.append(thing.pattern)
        pairs += [(thing.pattern, thing.shape), (thing.colour, thing.pattern)]
        pairs.append((thing.colour, thing.pattern, thing.shape))
    if parted:
        words.append(thing.part)
        pairs += [(thing.shape, thing.part), (thing.colour, thing.shape, thing.part)]
    if patterned and parted:
        pairs.append((thing.pattern, thing.shape, thing.part))
    return words, [phrase(pair) for pair in pairs]


def chances(world: World, picture: Picture) -> dict[int, float]:
    """Column of every true category -> the chance that it is verified."""
    index = columns(world).index
    chance: dict[int, float] = {}
    for position, thing in enumerate(picture.things):
        base = SMALL if position else DOMINANT
        words, pairs = names_of(thing, picture.scene)
        for name, p in [(word, base) for word in words] + [(pair, base * PAIR) for pair in pairs]:
            if name in index:  # a fold has fewer, and so has a smaller world
                chance[index[name]] = max(p, chance.get(index[name], 0))
    chance[index[picture.scene]] = SCENE
    present = {picture.scene, *(thing.shape for thing in picture.things)}
    chance.update(
        {
            column: EVENT
            for column, companions in columns(world).events
            if len(present.intersection(companions)) >= 2
        }
    )
    return chance


def truth(world: World, picture: Picture) -> np.ndarray:
    """Everything that is true, bool [C]."""
    row = np.zeros(len(world.categories), bool)
    row[list(chances(world, picture))] = True
    return row


def verified(world: World, picture: Picture, seed: int, training: bool) -> dict[int, bool]:
    """Column -> present or absent, for what somebody checked; only seen categories when
    `training`.
    """
    chooser = random.Random(f"{seed}/{picture.noise}/labels")
    chance = chances(world, picture)
    every: tuple[Category, ...] = world.categories
    allowed = [position for position, category in enumerate(every) if category.seen or not training]
    labels = {column: True for column, p in sorted(chance.items()) if chooser.random() < p}
    words = sorted({word for column in labels for word in every[column].words})
    near = np.zeros(len(every), bool)
    for word in words:
        near[columns(world).sharing[word]] = True
    near[list(chance)] = False
    hard, others = negatives(world, training)
    near_ones = np.flatnonzero(near).tolist()
    hard_ones = chooser.sample(near_ones, min(hard, len(near_ones)))
    for column in (*hard_ones, *chooser.sample(allowed, min(others, len(allowed)))):
        if column not in chance:
            labels[column] = False
    return {
        column: value
        for column, value in sorted(labels.items())
        if every[column].seen or not training
    }


def negatives(world: World, training: bool) -> tuple[int, int]:
    """Hard and random ones an image. A larger world has as many more; of the random ones in
    evaluation as many more again, since each of its categories is that much rarer.
    """
    scale = world.size / SMALLEST
    again = 1 if training else scale
    hard, others = HARD_NEGATIVES[training], RANDOM_NEGATIVES[training]
    return round(hard * scale), round(others * scale * again)
