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
from c2srt.demo.words import Category, World, family_of, pair_name

DOMINANT, SMALL, PAIR = 0.9, 0.6, 0.7
"""Chance that a word of the dominant or of a small object is verified; a pair's is `PAIR` times
that.
"""
SCENE, EVENT = 0.9, 0.7
HARD_NEGATIVES, RANDOM_NEGATIVES = {True: 6, False: 16}, {True: 4, False: 24}
"""Absent categories that were checked, an image: in training (True) far fewer than for evaluation,
as in Open Images.
"""


@dataclass(frozen=True)
class Columns:
    """Look-ups over a world's categories: column by name, columns by word, (column, companions) of
    the events.
    """

    index: dict[str, int]
    sharing: dict[str, tuple[int, ...]]
    events: tuple[tuple[int, tuple[str, ...]], ...]


@cache
def columns(world: World) -> Columns:
    every = world.categories
    words = {word for category in every for word in category.words}
    return Columns(
        {category.name: position for position, category in enumerate(every)},
        {word: tuple(p for p, c in enumerate(every) if word in c.words) for word in words},
        tuple((p, c.words) for p, c in enumerate(every) if c.kind == "event"),
    )


def names_of(thing: Thing) -> tuple[list[str], list[str]]:
    """The single words and the pairs that are true of one object."""
    words = [thing.colour, thing.shape, family_of(thing.colour), family_of(thing.shape)]
    pairs = [pair_name(thing.colour, thing.shape), pair_name(thing.colour, family_of(thing.shape))]
    if thing.pattern != PLAIN:
        words.append(thing.pattern)
        pairs += [pair_name(thing.pattern, thing.shape), pair_name(thing.colour, thing.pattern)]
    if thing.part != NO_PART:
        words.append(thing.part)
        pairs.append(pair_name(thing.shape, thing.part))
    return words, pairs


def chances(world: World, picture: Picture) -> dict[int, float]:
    """Column of every true category -> the chance that it is verified."""
    index = columns(world).index
    chance: dict[int, float] = {}
    for position, thing in enumerate(picture.things):
        base = SMALL if position else DOMINANT
        words, pairs = names_of(thing)
        for name, p in [(word, base) for word in words] + [(pair, base * PAIR) for pair in pairs]:
            if name in index:  # a fold has fewer
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
    near = sorted(
        {column for word in words for column in columns(world).sharing[word]} - set(chance)
    )
    hard = chooser.sample(near, min(HARD_NEGATIVES[training], len(near)))
    for column in (*hard, *chooser.sample(allowed, RANDOM_NEGATIVES[training])):
        if column not in chance:
            labels[column] = False
    return {
        column: value
        for column, value in sorted(labels.items())
        if every[column].seen or not training
    }
