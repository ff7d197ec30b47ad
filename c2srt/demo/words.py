"""The miniature's world: its words, its categories, and what is true of them.

An object is a colour, a shape, a pattern and a part, standing in a scene. Categories are the single
words (atoms and their hypernyms), pairs of words ("red star", "star with wheels"), and *events*
("carnival"): names whose words say nothing, each meaning that at least two of three things come
together, a scene and two shapes. An event can only be known through what it comes with, so only a
relation graph (or labels) can tell what an unseen one looks like. A larger world has more events,
and compounds of three words ("red striped star", "red star in the snow").

A world is fixed by its number: which pairs and events are unseen, what each event comes with, and
what else tends to come together. Another seed draws other images of the same world.
"""

import hashlib
import random
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

COLOURS = {
    "red": (214, 44, 40),
    "orange": (240, 140, 30),
    "yellow": (242, 216, 60),
    "brown": (130, 82, 45),
    "pink": (244, 150, 190),
    "green": (50, 150, 62),
    "teal": (40, 178, 170),
    "blue": (48, 84, 204),
    "purple": (134, 62, 168),
    "white": (244, 244, 240),
}
SHAPES = (
    "disc",
    "ring",
    "egg",
    "triangle",
    "square",
    "hexagon",
    "star",
    "heart",
    "cross",
    "moon",
    "leaf",
    "flower",
)
PATTERNS = ("striped", "dotted", "checked")
PARTS = ("wheels", "flag", "eyes")
SCENES = ("beach", "desert", "meadow", "night", "city", "snow", "sunset", "kitchen")
FAMILIES = {
    "round": ("disc", "ring", "egg"),
    "polygon": ("triangle", "square", "hexagon"),
    "symbol": ("star", "heart", "cross"),
    "natural": ("moon", "leaf", "flower"),
}
WARMTH = {
    "warm": ("red", "orange", "yellow", "brown", "pink"),
    "cool": ("green", "teal", "blue", "purple", "white"),
}
EVENTS = (
    "carnival",
    "regatta",
    "harvest",
    "picnic",
    "parade",
    "wedding",
    "market day",
    "festival",
    "marathon",
    "concert",
    "reunion",
    "auction",
    "ceremony",
    "derby",
    "excursion",
    "feast",
    "gala",
    "holiday",
    "jubilee",
    "lottery",
    "masquerade",
    "nocturne",
    "opera",
    "pilgrimage",
    "quiz",
    "rally",
    "safari",
    "tournament",
    "vigil",
    "workshop",
    "yoga",
    "banquet",
    "circus",
    "debate",
    "expedition",
    "funeral",
    "graduation",
    "hackathon",
    "inauguration",
    "jamboree",
    "karaoke",
    "lecture",
    "migration",
    "nativity",
    "olympics",
    "premiere",
    "recital",
    "seance",
)
ATOMS = (*COLOURS, *SHAPES, *PATTERNS, *PARTS, *SCENES, *FAMILIES, *WARMTH)
PAIRS = (
    *product(COLOURS, SHAPES),
    *product(PATTERNS, SHAPES),
    *product(COLOURS, PATTERNS),
    *product(SHAPES, PARTS),
    *product(COLOURS, FAMILIES),
)
FURTHER = (
    *product(COLOURS, PATTERNS, SHAPES),
    *product(COLOURS, SHAPES, PARTS),
    *product(PATTERNS, SHAPES, PARTS),
    *product(SHAPES, SCENES),
    *product(COLOURS, SHAPES, SCENES),
)
"""What larger worlds have besides."""
SORTS = {
    word: number
    for number, words in enumerate((COLOURS, SHAPES, PATTERNS, PARTS, SCENES, FAMILIES))
    for word in words
}
"""Which kind of word an atom is; warm and cool are none of them."""
SYLLABLES = tuple("".join(pair) for pair in product("bdfgklmnprstvz", "aeiou"))
UNSEEN_PAIRS, UNSEEN_EVENTS = 50, 16
SMALLEST, LARGEST = len(ATOMS) + len(PAIRS) + len(EVENTS), 2_500
"""Categories of a world."""
PICTURES = {"train": 6000, "validation": 1500, "test": 2500}
"""Of a split in a world of SMALLEST."""


@dataclass(frozen=True)
class Category:
    """One name: `kind` is atom, pair (of two words, or three) or event; `words` are what it is made
    of (for an event its three companions).
    """

    name: str
    kind: str
    words: tuple[str, ...]
    seen: bool = True

    @property
    def mid(self) -> str:
        """A stable id in Open Images' form, from the name alone."""
        return "/m/0" + hashlib.sha256(self.name.encode()).hexdigest()[:6]


@dataclass(frozen=True)
class Habits:
    """What tends to come together when an image is drawn."""

    scene_shapes: dict[str, tuple[str, ...]]
    shape_buddies: dict[str, tuple[str, ...]]
    shape_colours: dict[str, tuple[str, ...]]


def phrase(words: tuple[str, ...]) -> str:
    """The name that is made of words: "red star", "red star with wheels", "star in the snow"."""
    before = {**dict.fromkeys(PARTS, "with "), **dict.fromkeys(SCENES, "in the ")}
    return " ".join(before.get(word, "") + word for word in words)


def family_of(word: str) -> str:
    """The hypernym of a shape or colour."""
    return next(
        name for group in (FAMILIES, WARMTH) for name, members in group.items() if word in members
    )


def sort_of(world: "World", name: str) -> tuple[str, int]:
    """What a category is: scenes, colours, …, pairs and events are of one sort each."""
    return world.named[name].kind, SORTS.get(name, -1)


@dataclass(frozen=True)
class World:
    """One of the worlds that share these words; the demo's is the first.

    `fold`: its part for choosing settings. The unseen categories are gone, and as large a share of
    the seen pairs and events is unseen instead, so that no choice knows what a test asks for.
    `size`: its number of categories, of which as large a share is unseen in every size.
    """

    number: int = 0
    fold: bool = False
    size: int = SMALLEST

    @property
    def seed(self) -> int:
        return 7 + 2 * self.number

    @cached_property
    def categories(self) -> tuple[Category, ...]:
        """All categories, seen first. Every word of an unseen pair, and every companion of an
        event, is itself seen.
        """
        every = drawn_categories(random.Random(self.seed), self.habits, self.size)
        return fold_of(every, random.Random(f"{self.number}/fold")) if self.fold else every

    @cached_property
    def named(self) -> dict[str, Category]:
        """The categories by name."""
        return {category.name: category for category in self.categories}

    @cached_property
    def habits(self) -> Habits:
        """Scenes prefer three shapes, shapes have two buddies and three colours."""
        return drawn_habits(random.Random(self.seed + 1))


FIRST = World()


def pictures(size: int, images: dict[str, int]) -> dict[str, int]:
    """How many pictures a world's splits have, from those of SMALLEST: for testing as many more as
    there are categories, so that each has as many positives; for training the root of that.
    """
    scale = size / SMALLEST
    return {
        split: round(count * (scale if split == "test" else scale**0.5))
        for split, count in images.items()
    }


def size_problem(size: int) -> str | None:
    """Why no world has so many categories; None if one can."""
    if SMALLEST <= size <= LARGEST:
        return None
    return f"categories={size} must be from {SMALLEST} to {LARGEST:,}"


def drawn_categories(chooser: random.Random, habits: Habits, size: int) -> tuple[Category, ...]:
    pairs: tuple[tuple[str, ...], ...] = PAIRS
    names = event_names(round(len(EVENTS) * size / SMALLEST))
    if size > SMALLEST:
        pairs += tuple(chooser.sample(FURTHER, size - len(ATOMS) - len(PAIRS) - len(names)))
    common = pairs if size == SMALLEST else [pair for pair in pairs if likely(pair, habits)]
    unseen_pairs = set(chooser.sample(common, len(pairs) * UNSEEN_PAIRS // len(PAIRS)))
    events = dict(zip(names, companions(chooser, len(names)), strict=True))
    unseen_events = set(chooser.sample(names, len(names) * UNSEEN_EVENTS // len(EVENTS)))
    every = [Category(word, "atom", (word,)) for word in ATOMS]
    every += [Category(phrase(pair), "pair", pair, pair not in unseen_pairs) for pair in pairs]
    every += [Category(name, "event", events[name], name not in unseen_events) for name in names]
    return tuple(sorted(every, key=lambda category: not category.seen))


def likely(words: tuple[str, ...], habits: Habits) -> bool:
    """Whether what these words make comes often enough that a test has ten pictures of it."""
    shape = next((word for word in words if word in SHAPES), None)
    return all(
        not (word in COLOURS and shape and word not in habits.shape_colours[shape])
        and not (word in SCENES and shape not in habits.scene_shapes[word])
        for word in words
    )


def event_names(count: int) -> tuple[str, ...]:
    """Of so many events, the further ones invented: no caption has them, as none has the others."""
    invented = random.Random("events").sample(list(product(SYLLABLES, repeat=3)), LARGEST)
    return (*EVENTS, *map("".join, invented))[:count]


def fold_of(every: tuple[Category, ...], chooser: random.Random) -> tuple[Category, ...]:
    """The seen categories, of which as large a share is unseen as was of all."""
    seen = [category for category in every if category.seen]
    hidden: set[Category] = set()
    for kind in ("pair", "event"):
        left = [category for category in seen if category.kind == kind]
        share = 1 - len(left) / sum(category.kind == kind for category in every)
        hidden.update(chooser.sample(left, round(share * len(left))))
    fold = [replace(category, seen=category not in hidden) for category in seen]
    return tuple(sorted(fold, key=lambda category: not category.seen))


def companions(chooser: random.Random, count: int = len(EVENTS)) -> list[tuple[str, str, str]]:
    """(scene, shape, shape) for each event: scenes equally often, no two events with the same
    three, nor, as long as there are enough, with the same two shapes.
    """
    pairs = list(combinations(SHAPES, 2))
    shapes = chooser.sample(pairs, min(count, len(pairs)))
    rounds, places = zip(*(divmod(number, len(shapes)) for number in range(count)), strict=True)
    return [
        (SCENES[(place + shift) % len(SCENES)], *shapes[place])
        for shift, place in zip(rounds, places, strict=True)
    ]


def drawn_habits(chooser: random.Random) -> Habits:
    return Habits(
        {scene: tuple(chooser.sample(SHAPES, 3)) for scene in SCENES},
        {
            shape: tuple(chooser.sample([other for other in SHAPES if other != shape], 2))
            for shape in SHAPES
        },
        {shape: tuple(chooser.sample(list(COLOURS), 3)) for shape in SHAPES},
    )
