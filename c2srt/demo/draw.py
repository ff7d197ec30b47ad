"""Draws the miniature's pictures: 64 × 64 pixels, a scene, one dominant object and one to three
small ones.

A picture is first a `Picture` (what is in it: a pure function of the seed, split and number), then
pixels.
"""

import math
import random
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from c2srt.backbone.miniature import SIZE
from c2srt.demo.words import COLOURS, PARTS, PATTERNS, SCENES, SHAPES, World

FINE = 2 * SIZE
"""Drawn at twice the size, then halved: smooth edges."""
VARIANTS = 24
"""Backgrounds prepared for each scene."""
RIM = (16, 14, 20)
"""A dark outline, as in a cartoon: it says where an object ends on any ground."""
PLAIN, NO_PART, STUDIO = "plain", "none", "studio"
"""No pattern, no part, and a plain ground that is no scene."""


@dataclass(frozen=True)
class Thing:
    """One object; `size` is its diameter and (x, y) its centre, in fine pixels; `angle` in
    radians.
    """

    colour: str
    shape: str
    pattern: str
    part: str
    size: int
    x: int
    y: int
    angle: float


@dataclass(frozen=True)
class Picture:
    """What is in an image; the first thing is the dominant one."""

    scene: str
    background: int
    things: tuple[Thing, ...]
    noise: int


def random_picture(world: World, seed: int, split: str, number: int) -> Picture:
    """The content of image `number` of a world's split. Half of the images are arranged around an
    event.
    """
    chooser = random.Random(f"{seed}/{split}/{number}")
    scene, shapes = choose_shapes(world, chooser)
    things: list[Thing] = []
    for position, shape in enumerate(shapes):
        things.append(random_thing(world, chooser, shape, things, position == 0))
    return Picture(scene, chooser.randrange(VARIANTS), tuple(things), chooser.randrange(2**32))


def iconic_picture(world: World, seed: int, split: str, number: int) -> Picture:
    """One large object on a plain ground, as shops and encyclopedias show things; the web's
    captioned pictures hold many.
    """
    chooser = random.Random(f"{seed}/{split}/{number}/iconic")
    drawn = random_thing(world, chooser, chooser.choice(SHAPES), [], True)
    size = chooser.randint(72, 104)
    x, y = (chooser.randint(size // 2 + 4, FINE - size // 2 - 4) for _ in range(2))
    return Picture(
        STUDIO,
        chooser.randrange(VARIANTS),
        (replace(drawn, size=size, x=x, y=y),),
        chooser.randrange(2**32),
    )


def choose_shapes(world: World, chooser: random.Random) -> tuple[str, list[str]]:
    """The scene and the shapes, dominant first, with the habits' co-occurrences."""
    likes, small = world.habits, chooser.randint(1, 3)
    if chooser.random() < 0.5:
        event = chooser.choice([each for each in world.categories if each.kind == "event"])
        scene = event.words[0] if chooser.random() < 0.85 else chooser.choice(SCENES)
        shapes = chooser.sample(event.words[1:], 2)
    else:
        scene = chooser.choice(SCENES)
        shapes = [chooser.choice(likes.scene_shapes[scene] if chooser.random() < 0.5 else SHAPES)]
    while len(shapes) < 1 + small:
        pools = (likes.shape_buddies[shapes[0]], likes.scene_shapes[scene], SHAPES)
        shapes.append(chooser.choice(chooser.choices(pools, (0.35, 0.25, 0.4))[0]))
    return scene, shapes


def random_thing(
    world: World, chooser: random.Random, shape: str, others: list[Thing], dominant: bool
) -> Thing:
    """One object, placed where it overlaps the earlier ones least."""
    colour = chooser.choice(
        world.habits.shape_colours[shape] if chooser.random() < 0.5 else list(COLOURS)
    )
    pattern = chooser.choices((PLAIN, *PATTERNS), (0.4, 0.2, 0.2, 0.2))[0]
    part = chooser.choices((NO_PART, *PARTS), (0.52, 0.16, 0.16, 0.16))[0]
    size = chooser.randint(58, 86) if dominant else chooser.randint(30, 46)
    margin = size // 2 + 2
    tries = 1 if dominant else 12
    spots = [
        (chooser.randint(margin, FINE - margin), chooser.randint(margin, FINE - margin))
        for _ in range(tries)
    ]
    x, y = max(spots, key=lambda spot: clearance(spot, size, others))
    return Thing(colour, shape, pattern, part, size, x, y, chooser.uniform(-0.3, 0.3))


def clearance(spot: tuple[int, int], size: int, others: list[Thing]) -> float:
    """Distance to the nearest other object's rim, capped at 4 fine pixels; negative where they
    overlap.
    """
    return min(
        [4.0, *(math.dist(spot, (other.x, other.y)) - (size + other.size) / 2 for other in others)]
    )


def render(picture: Picture) -> np.ndarray:
    """The picture as uint8 [64, 64, 3]."""
    canvas = backgrounds(picture.scene)[picture.background].copy()
    chooser = random.Random(picture.noise)
    for thing in reversed(picture.things):
        draw_thing(canvas, thing, chooser)
    return np.asarray(canvas.reduce(2))


def draw_thing(canvas: Image.Image, thing: Thing, chooser: random.Random) -> None:
    fill = tuple(
        max(0, min(255, channel + chooser.randint(-22, 22))) for channel in COLOURS[thing.colour]
    )
    left, top = thing.x - thing.size // 2, thing.y - thing.size // 2
    draw = ImageDraw.Draw(canvas)
    if thing.part == "flag":
        draw_flag(draw, thing)
    mask = shape_mask(thing.shape, thing.size, thing.angle)
    for dx, dy in ((-3, 0), (3, 0), (0, -3), (0, 3), (-2, -2), (2, 2), (-2, 2), (2, -2)):
        canvas.paste(RIM, (left + dx, top + dy), mask)
    canvas.paste(fill, (left, top), mask)
    if thing.pattern != PLAIN:
        shift = chooser.randrange(16)
        tile = pattern_tile(thing.pattern).crop(
            (shift, shift, shift + thing.size, shift + thing.size)
        )
        canvas.paste(contrast(fill), (left, top), ImageChops.multiply(mask, tile))
    if thing.part == "wheels":
        draw_wheels(draw, thing)
    elif thing.part == "eyes":
        draw_eyes(draw, thing)


def contrast(colour: tuple[int, ...]) -> tuple[int, ...]:
    """The pattern's second colour: a darker one of the same hue."""
    return tuple(int(channel * 0.45) for channel in colour)


def disc(
    draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: tuple[int, int, int] | int
) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def draw_wheels(draw: ImageDraw.ImageDraw, thing: Thing) -> None:
    radius, y = 0.17 * thing.size, thing.y + 0.42 * thing.size
    for x in (thing.x - 0.26 * thing.size, thing.x + 0.26 * thing.size):
        disc(draw, x, y, radius, (24, 24, 28))
        disc(draw, x, y, radius * 0.45, (200, 200, 205))


def draw_flag(draw: ImageDraw.ImageDraw, thing: Thing) -> None:
    foot, tip = thing.y, thing.y - 0.72 * thing.size
    draw.line((thing.x, foot, thing.x, tip), fill=(40, 30, 25), width=max(2, thing.size // 16))
    cloth = [
        (thing.x, tip),
        (thing.x + 0.42 * thing.size, tip + 0.13 * thing.size),
        (thing.x, tip + 0.27 * thing.size),
    ]
    draw.polygon(cloth, fill=(250, 60, 160), outline=(60, 10, 40))


def draw_eyes(draw: ImageDraw.ImageDraw, thing: Thing) -> None:
    radius, y = 0.14 * thing.size, thing.y - 0.06 * thing.size
    for x in (thing.x - 0.17 * thing.size, thing.x + 0.17 * thing.size):
        disc(draw, x, y, radius, (15, 15, 20))
        disc(draw, x, y, radius * 0.86, (252, 252, 252))
        disc(draw, x, y + radius * 0.2, radius * 0.45, (10, 10, 15))


@cache
def outline(shape: str) -> np.ndarray:
    """The shape's rim as [n, 2] points in the unit circle, y downwards."""
    turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    if shape in ("disc", "ring"):
        return circle
    if shape == "egg":
        return np.stack([circle[:, 0] * (0.62 + 0.12 * np.sin(turn)), circle[:, 1]], 1)
    if shape in ("triangle", "square", "hexagon"):
        corners = {"triangle": 3, "square": 4, "hexagon": 6}[shape]
        angle = (
            np.arange(corners) * 2 * np.pi / corners + {3: -np.pi / 2, 4: np.pi / 4, 6: 0}[corners]
        )
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    if shape in RIMS:
        return RIMS[shape](turn)
    radius = 0.72 + 0.28 * np.cos(6 * turn)
    return circle * radius[:, None]


def star(turn: np.ndarray) -> np.ndarray:
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2, 0.42, 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def heart(turn: np.ndarray) -> np.ndarray:
    x, y = (
        np.sin(turn) ** 3,
        (13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)) / 17,
    )
    return np.stack([x * 0.95, -y * 0.95], 1)


def cross(turn: np.ndarray) -> np.ndarray:
    a, b = 0.32, 0.95
    right = [(a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b)]
    left = [(-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    return np.array([(-a, -b), *right, *left])


def moon(turn: np.ndarray) -> np.ndarray:
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 24)
    inner = np.linspace(1.6 * np.pi, 0.4 * np.pi, 18)
    rim = np.stack([np.cos(outer), np.sin(outer)], 1)
    return np.concatenate([rim, np.stack([0.42 + 0.74 * np.cos(inner), 0.74 * np.sin(inner)], 1)])


def leaf(turn: np.ndarray) -> np.ndarray:
    side = np.linspace(-1, 1, 16)
    bulge = 0.48 * (1 - side**2)
    blade = np.concatenate([np.stack([side, bulge], 1), np.stack([side[::-1], -bulge], 1)])
    return blade @ np.array([[0.75, -0.66], [0.66, 0.75]])


RIMS = {"star": star, "heart": heart, "cross": cross, "moon": moon, "leaf": leaf}
"""Rims that are no change of a circle, from its angles [n], which only some need."""


def shape_mask(shape: str, size: int, angle: float) -> Image.Image:
    """A filled shape, "L" of size × size, rotated by `angle`."""
    mask = Image.new("L", (size, size))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    points = outline(shape) @ turn * (size / 2 - 1) + size / 2
    draw = ImageDraw.Draw(mask)
    draw.polygon(points.ravel().tolist(), fill=255)
    if shape == "ring":
        disc(draw, size / 2, size / 2, size * 0.24, 0)
    return mask


@cache
def pattern_tile(pattern: str) -> Image.Image:
    """A pattern as an "L" mask larger than any object."""
    y, x = np.mgrid[:FINE, :FINE]
    if pattern == "striped":
        on = (y + x // 4) % 14 < 6
    elif pattern == "dotted":
        on = ((x % 14 - 7) ** 2 + (y % 14 - 7) ** 2) < 17
    else:
        on = (x // 9 + y // 9) % 2 == 0
    return Image.fromarray(np.where(on, 255, 0).astype(np.uint8))


@cache
def backgrounds(scene: str) -> tuple[Image.Image, ...]:
    """`VARIANTS` different backgrounds of one scene, FINE × FINE RGB; the same in every process."""
    first = SCENES.index(scene) if scene in SCENES else len(SCENES)
    return tuple(
        draw_scene(scene, np.random.default_rng([first, variant])) for variant in range(VARIANTS)
    )


def draw_scene(scene: str, rng: np.random.Generator) -> Image.Image:
    """Sky and ground as two gradients, then what marks the scene, then grain."""
    tone = rng.uniform(40, 225, 3) if scene == STUDIO else None
    sky, ground, horizon = {
        "beach": ((120, 190, 230), (225, 205, 150), 0.55),
        "desert": ((235, 200, 150), (205, 150, 90), 0.5),
        "meadow": ((170, 215, 245), (110, 170, 80), 0.45),
        "night": ((14, 18, 46), (24, 26, 40), 0.8),
        "city": ((175, 180, 190), (95, 95, 100), 0.8),
        "snow": ((205, 215, 228), (236, 241, 247), 0.5),
        "sunset": ((232, 110, 70), (70, 45, 70), 0.68),
        "kitchen": ((226, 220, 205), (150, 110, 75), 0.72),
        STUDIO: (tone, tone, 1.0),
    }[scene]
    line = (horizon + rng.uniform(-0.07, 0.07)) * FINE
    y, x = np.mgrid[:FINE, :FINE].astype(np.float32)
    wave = line + (
        4 * np.sin(x / rng.uniform(9, 22) + rng.uniform(0, 6))
        if scene in ("desert", "meadow", "snow")
        else 0
    )
    pixels = np.where(
        (y < wave)[..., None], np.asarray(sky, np.float32), np.asarray(ground, np.float32)
    )
    pixels += ((y - FINE / 2) / FINE * rng.uniform(-30, 50))[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    mark_scene(ImageDraw.Draw(image), scene, line, rng)
    grain = (
        np.asarray(image, np.float32) + rng.normal(0, 5, (FINE, FINE, 1)) + rng.uniform(-14, 14, 3)
    )
    return Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))


def mark_scene(
    draw: ImageDraw.ImageDraw, scene: str, line: float, rng: np.random.Generator
) -> None:
    x: float
    y: float
    r: float

    def lot(low: int, high: int | None = None) -> int:
        return int(rng.integers(low, high))

    if scene == "beach":
        draw.rectangle((0, line - 22, FINE, line), fill=(40, 110, 170))
        for _ in range(5):
            x, y = lot(FINE), line - lot(3, 20)
            draw.line((x, y, x + 16, y), fill=(200, 225, 235), width=2)
    elif scene == "desert":
        for _ in range(6):
            x, y = lot(FINE), lot(int(line) + 6, FINE)
            draw.arc((x - 24, y, x + 24, y + 14), 190, 340, fill=(165, 110, 60), width=2)
    elif scene == "meadow":
        for _ in range(70):
            x, y = lot(FINE), lot(int(line) + 4, FINE)
            draw.line((x, y, x + lot(-3, 4), y - 7), fill=(50, 115, 40), width=1)
    elif scene == "night":
        for _ in range(45):
            x, y, r = lot(FINE), lot(int(line)), lot(1, 3)
            draw.ellipse((x, y, x + r, y + r), fill=(235, 235, 200))
    elif scene == "city":
        draw_city(draw, line, rng)
    elif scene == "snow":
        for _ in range(90):
            x, y, r = lot(FINE), lot(FINE), lot(1, 4)
            draw.ellipse((x, y, x + r, y + r), fill=(255, 255, 255))
    elif scene == "sunset":
        x, r = lot(20, FINE - 20), 18
        draw.pieslice((x - r, line - r, x + r, line + r), 180, 360, fill=(255, 215, 110))
        for y in range(int(line) + 4, FINE, 8):
            draw.line((x - 14, y, x + 14, y), fill=(225, 140, 80), width=2)
    elif scene == "kitchen":
        for step in range(0, FINE, 16):
            draw.line((step, 0, step, line), fill=(180, 172, 160), width=1)
            draw.line((0, step, FINE, step), fill=(180, 172, 160), width=1) if step < line else None


def draw_city(draw: ImageDraw.ImageDraw, line: float, rng: np.random.Generator) -> None:
    x = 0
    while x < FINE:
        width, height, grey = (
            int(rng.integers(12, 26)),
            int(rng.integers(26, 78)),
            int(rng.integers(85, 145)),
        )
        draw.rectangle(
            (x, line - height, x + width, line), fill=(grey, grey, grey + 10), outline=(60, 60, 68)
        )
        for wx in range(x + 3, x + width - 3, 6):
            for wy in range(int(line - height) + 4, int(line) - 4, 9):
                draw.rectangle(
                    (wx, wy, wx + 2, wy + 3),
                    fill=(225, 215, 150) if rng.random() < 0.5 else (50, 55, 65),
                )
        x += width
