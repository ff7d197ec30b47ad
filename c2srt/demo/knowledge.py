"""The demo's `llm` graph: an oracle's answers about each category, of one that knows how the
miniature's world is made.

All 48 events have their defining companions first, which no language model could know: shown, it is
called *oracle graph*. Rules over the world, never labels: what a name is, what it comes with. Lines
have the form of the mined relations that the project ships (c2srt/data_files): {"mid", "name",
"split", "related": [{"mid", "name", "type", "strength"}…]}, best first, related categories seen
ones only.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

from c2srt.demo.words import (
    FAMILIES,
    SCENES,
    SHAPES,
    WARMTH,
    Category,
    World,
    family_of,
)

PROVENANCE = {"oracle": True, "model": "none: written by the program that draws the miniature"}
"""What the relations file says of itself, so that every picture and page of this graph can."""
RELATED = 8
"""Answers kept for each category."""


class Answer(NamedTuple):
    """A category that another one is related to, and how."""

    name: str
    kind: str
    strength: str


def relation_lines(world: World) -> Iterator[str]:
    """One JSON line for every category, in the world's order."""
    for category in world.categories:
        yield line_of(world, category, oracle_answers(world, category))


def line_of(world: World, category: Category, answers: list[Answer]) -> str:
    """The line about a category; the answers name seen categories, best first."""
    related = [
        {
            "mid": world.named[answer.name].mid,
            "name": answer.name.capitalize(),
            "type": answer.kind,
            "strength": answer.strength,
        }
        for answer in answers
    ]
    split = "seen" if category.seen else "unseen"
    found = {"mid": category.mid, "name": category.name.capitalize(), "split": split}
    return json.dumps({**found, "related": related})


def oracle_answers(world: World, category: Category, most: int = RELATED) -> list[Answer]:
    """The best answers about a category that name another seen one."""
    answers: dict[str, Answer] = {}
    for each in map(Answer._make, answers_about(world, category)):
        if world.named[each.name].seen and each.name != category.name:
            answers.setdefault(each.name, each)
    return sorted(
        answers.values(), key=lambda answer: ("high", "medium", "low").index(answer.strength)
    )[:most]


def answers_about(world: World, category: Category) -> Iterator[tuple[str, str, str]]:
    """(related name, type, strength), unseen names among them (they are left out later)."""
    if category.kind == "event":
        yield from event_answers(world, category)
    elif category.kind == "pair":
        yield from pair_answers(world, category)
    else:
        yield from atom_answers(world, category.name)


def event_answers(world: World, event: Category) -> Iterator[tuple[str, str, str]]:
    """Its three companions, then the events that share two of them, or one."""
    for word in event.words:
        yield word, "co-occurrence", "high"
    others = [
        (len(set(event.words) & set(other.words)), other.name)
        for other in world.categories
        if other.kind == "event"
    ]
    for shared, name in sorted(others, key=lambda item: -item[0]):
        if shared:
            yield name, "co-occurrence", "medium" if shared == 2 else "low"


def pair_answers(world: World, pair: Category) -> Iterator[tuple[str, str, str]]:
    """Its words, their hypernyms, what two of three words make, then the pairs that share most."""
    for word in pair.words:
        yield word, "is-a", "high"
    for word in pair.words:
        if word in SHAPES or word in WARMTH["warm"] + WARMTH["cool"]:
            yield family_of(word), "is-a", "medium"
    others = [
        (len(set(other.words) & set(pair.words)), other)
        for other in world.categories
        if other.kind == "pair" and other != pair
    ]
    for shared, other in sorted(others, key=lambda item: -item[0]):
        if shared:
            whole = shared == len(other.words) < len(pair.words)
            yield other.name, "is-a", "medium" if whole else "low"


def atom_answers(world: World, word: str) -> Iterator[tuple[str, str, str]]:
    """Hypernym or members, and what it likes to come with."""
    likes = world.habits
    for group in (FAMILIES, WARMTH):
        for family, members in group.items():
            if word in members:
                yield family, "is-a", "high"
            if word == family:
                yield from ((member, "is-a", "high") for member in members)
    if word in SHAPES:
        yield from ((buddy, "co-occurrence", "high") for buddy in likes.shape_buddies[word])
        yield from ((colour, "co-occurrence", "medium") for colour in likes.shape_colours[word])
        yield from (
            (scene, "co-occurrence", "medium")
            for scene in SCENES
            if word in likes.scene_shapes[scene]
        )
    elif word in SCENES:
        yield from ((shape, "co-occurrence", "high") for shape in likes.scene_shapes[word])
    else:
        yield from (
            (shape, "co-occurrence", "medium")
            for shape in SHAPES
            if word in likes.shape_colours[shape]
        )
    yield from (
        (other.name, "co-occurrence", "low") for other in world.categories if word in other.words
    )
