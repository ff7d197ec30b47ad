"""`patch_scores` finds a planted object in the miniature's drawings: the pointing game (Zhang et
al. 2016), against the picture's centre. The generator knows where each object is.
"""

import math
import random

import numpy as np
import pytest

import c2srt
from c2srt.backbone.config import ClipConfig
from c2srt.demo import pretrain
from c2srt.demo.draw import FINE, NO_PART, PLAIN, Picture, Thing, render
from c2srt.demo.words import COLOURS, SCENES, SHAPES

PICTURES = 60


def planted(number: int, others: int) -> Picture:
    """A scene with an object, and others of other colours and shapes, anywhere and apart."""
    chooser = random.Random(f"planted {number}")
    kinds = zip(
        chooser.sample(SHAPES, 1 + others), chooser.sample(list(COLOURS), 1 + others), strict=True
    )
    chosen = [(shape, colour, chooser.randint(44, 60)) for shape, colour in kinds]
    while True:
        places = [
            [chooser.randint(size // 2 + 2, FINE - size // 2 - 2) for _ in "xy"]
            for _, _, size in chosen
        ]
        things = tuple(
            Thing(colour, shape, PLAIN, NO_PART, size, x, y, chooser.uniform(-0.3, 0.3))
            for (shape, colour, size), (x, y) in zip(chosen, places, strict=True)
        )
        if all(apart(one, other) for one in things for other in things if one is not other):
            scene = chooser.choice(SCENES)
            return Picture(scene, chooser.randrange(24), things, chooser.randrange(2**32))


def apart(one: Thing, other: Thing) -> bool:
    return math.dist((one.x, one.y), (other.x, other.y)) > (one.size + other.size) / 2 + 2


def hits(predictor, others: int) -> tuple[float, float, float]:
    """How often the best patch, the middle of the best box, and the centre lie on the object."""
    found = []
    for number in range(PICTURES):
        picture = planted(number, others)
        thing = picture.things[0]
        scores = predictor.patch_scores(render(picture), f"{thing.colour} {thing.shape}")
        row, column = np.unravel_index(scores.scores.argmax(), scores.scores.shape)
        box, side = scores.boxes()[0], FINE / len(scores.scores)
        points = [
            ((column + 0.5) * side, (row + 0.5) * side),
            (box.left + box.right, box.top + box.bottom),  # drawn at twice the size
            (FINE / 2, FINE / 2),
        ]
        found.append([math.dist(point, (thing.x, thing.y)) <= thing.size / 2 for point in points])
    best, boxes, centre = np.mean(found, 0)
    return best, boxes, centre


@pytest.mark.slow
def test_the_best_patch_lies_on_the_planted_object(tmp_path, monkeypatch):
    """A CLIP of a quarter of the demo's steps and a fifth of its pictures: about a minute."""
    monkeypatch.setattr(pretrain, "IMAGES", 6_400)
    monkeypatch.setattr(pretrain, "STEPS", 400)
    pretrain.pretrain(tmp_path, 0, 1)
    clip = ClipConfig(str(tmp_path / "model.json"), str(tmp_path / "model.safetensors"))
    predictor = c2srt.load("clip", clip=clip)
    alone, boxes, centre = hits(predictor, 0)
    assert alone > 0.8 and alone > centre + 0.2 and boxes > 0.8
    beside, boxes, centre = hits(predictor, 1)  # chance for whatever stands out: half
    assert beside > 0.65 and beside > centre + 0.2
