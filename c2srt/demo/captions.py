"""Captions as the web writes them: only the dominant object is named, with a few of its attributes.

That is the single-label bias that the paper attacks. Captions hold unseen pairs, as the web's did;
they never hold an event's name: CLIP has not read these words, so an event can be known only
through labels or relations.
"""

import random

import numpy as np

from c2srt.demo.draw import NO_PART, PLAIN, STUDIO, Picture, iconic_picture, random_picture, render
from c2srt.demo.words import World, family_of

FORMS = ("{}", "a {}", "a photo of a {}", "a picture of a {}", "a drawing of a {}", "there is a {}")
"""Also the prompt templates of the miniature's text features."""
ICONIC = 0.5
"""Share of captioned pictures that show one large object on a plain ground; without them a short
training learns no shapes.
"""


def caption(picture: Picture, seed: int) -> str:
    """One caption; a pure function of the picture and the seed."""
    chooser = random.Random(f"{seed}/{picture.noise}/caption")
    if picture.scene != STUDIO and chooser.random() < 0.06:
        return chooser.choice(FORMS).format(picture.scene)
    thing, words = picture.things[0], []
    if chooser.random() < 0.7:
        words.append(thing.colour if chooser.random() < 0.85 else family_of(thing.colour))
    if thing.pattern != PLAIN and chooser.random() < 0.6:
        words.append(thing.pattern)
    words.append(thing.shape if chooser.random() < 0.8 else family_of(thing.shape))
    text = " ".join(words)
    if thing.part != NO_PART and chooser.random() < 0.6:
        text += f" with {thing.part}"
    if picture.scene != STUDIO and chooser.random() < 0.35:
        text += f" in the {picture.scene}"
    return chooser.choice(FORMS).format(text)


def captioned_picture(world: World, seed: int, number: int) -> Picture:
    """Picture `number` of those with captions: an iconic one or a crowded one."""
    iconic = random.Random(f"{seed}/{number}/kind").random() < ICONIC
    return (iconic_picture if iconic else random_picture)(world, seed, "captioned", number)


def captioned_chunk(world: World, seed: int, numbers: range) -> tuple[np.ndarray, list[str]]:
    """Captioned pictures `numbers`: uint8 [n, 64, 64, 3] and their captions (here, so that drawing
    needs no torch).
    """
    pictures = [captioned_picture(world, seed, number) for number in numbers]
    return np.stack([render(picture) for picture in pictures]), [
        caption(picture, seed) for picture in pictures
    ]
