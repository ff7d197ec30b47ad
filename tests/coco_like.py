"""A drawn set in the manner of COCO: many things in a picture, 80 categories ("red star"), a long
tail of counts, labels that are closed and complete. Letters: N images, C categories.
"""

import random
from dataclasses import dataclass

import numpy as np

from c2srt.demo.draw import FINE, NO_PART, PLAIN, VARIANTS, Picture, Thing, clearance, render
from c2srt.demo.words import COLOURS, SCENES, SHAPES

CATEGORIES, UNSEEN = 80, 15
EXPONENT = 1.3
"""Of the tail: the k-th most frequent category is drawn k^−EXPONENT as often as the first."""
THINGS = 3, 8
SPOTS = 6
"""Places tried for each thing."""


@dataclass(frozen=True)
class Drawn:
    """uint8 [N, 3, 64, 64], and labels int8 [N, C] in −1/1."""

    images: np.ndarray
    labels: np.ndarray


def categories() -> list[tuple[str, str]]:
    """Colour and shape of each, the 65 seen ones first, as in COCO's split; both kinds come from
    everywhere in the tail.
    """
    chooser = random.Random("coco-like")
    every = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    return chooser.sample(every, CATEGORIES)


def frequencies() -> list[float]:
    """How often each category is drawn, relative to the most frequent one."""
    ranks = random.Random("coco-like tail").sample(range(1, CATEGORIES + 1), CATEGORIES)
    return [rank**-EXPONENT for rank in ranks]


def drawn(seed: int, split: str, count: int) -> Drawn:
    """`count` images of a split, a pure function of the arguments."""
    pictures = [picture(f"coco-like/{seed}/{split}/{number}") for number in range(count)]
    images = np.stack([render(one).transpose(2, 0, 1) for one in pictures])
    column = {pair: number for number, pair in enumerate(categories())}
    labels = np.full((count, CATEGORIES), -1, np.int8)
    for row, one in zip(labels, pictures, strict=True):
        row[[column[thing.colour, thing.shape] for thing in one.things]] = 1
    return Drawn(images, labels)


def picture(key: str) -> Picture:
    chooser = random.Random(key)
    pairs = chooser.choices(categories(), frequencies(), k=chooser.randint(*THINGS))
    things: list[Thing] = []
    for colour, shape in pairs:
        size = chooser.randint(24, 56)
        low, high = size // 2 + 2, FINE - size // 2 - 2
        spots = [(chooser.randint(low, high), chooser.randint(low, high)) for _ in range(SPOTS)]
        x, y = max(spots, key=lambda spot: clearance(spot, size, things))
        angle = chooser.uniform(-0.3, 0.3)
        things.append(Thing(colour, shape, PLAIN, NO_PART, size, x, y, angle))
    scene, background = chooser.choice(SCENES), chooser.randrange(VARIANTS)
    return Picture(scene, background, tuple(things), chooser.randrange(2**32))
