"""Errors in the miniature's relation graph, as a mined one has them.

The oracle's answers about each category (c2srt/demo/knowledge.py), changed: a share of them
replaced by wrong ones of the same sort, their order drawn and their strengths hidden, and how many
there are and which wrong ones come often taken from the relations that ship with the project for
Open Images, whose hubs are named by hundreds of categories.

    python -m c2srt.demo.noise WORLD FOLDER     writes FOLDER/<name>.jsonl for each of NOISES
"""

import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from c2srt.demo.fitted import fitted_answers
from c2srt.demo.knowledge import (
    PROVENANCE,
    RELATED,
    Answer,
    line_of,
    oracle_answers,
    relation_lines,
)
from c2srt.demo.words import SMALLEST, Category, World, sort_of
from c2srt.files import write_text

MINED = files("c2srt").joinpath("data_files", "relations_openimages_v4.jsonl.gz")
MOST = 12
"""Answers that the oracle is asked for, the most that a category of the mined relations has."""


@dataclass(frozen=True)
class Noise:
    """`wrong`: the share of answers that are replaced; `placed`: the good ones stand first, as the
    oracle says them, else anywhere; `strengths` are told, else all equal; `mined`: numbers of
    answers and hubs as in the mined relations, else as the oracle's and all equally often.
    """

    wrong: float
    placed: bool = False
    strengths: bool = False
    mined: bool = True


class Fitted(Noise):
    """With exactly the mined relations' degrees (c2srt/demo/fitted.py), as large worlds can have
    them: how many answers a category has, and how many categories name it.
    """


NOISES = {f"noise-{percent}": Noise(percent / 100) for percent in (0, 25, 50, 75, 100)} | {
    "noise-50-placed": Noise(0.5, placed=True),
    "noise-50-strengths": Noise(0.5, placed=True, strengths=True),
    "noise-50-even": Noise(0.5, mined=False),
    "noise-50-fitted": Fitted(0.5),
}
"""By name of the graph. Each differs from noise-50 in what its name says."""


@cache
def known_lines(world: World) -> tuple[str, ...]:
    """The world's relations without errors: in a larger world with the degrees of the mined ones,
    since there the oracle's hubs would be larger than any mined relation has.
    """
    if world.size == SMALLEST:
        return (json.dumps({"provenance": PROVENANCE}), *relation_lines(world))
    return tuple(noisy_lines(world, Fitted(0.0, placed=True, strengths=True)))


def noisy_lines(world: World, noise: Noise) -> Iterator[str]:
    """The relations file: where it comes from, then a JSON line for every category."""
    note = {"errors": f"{noise.wrong:.0%} of the answers are wrong"}
    yield json.dumps({"provenance": PROVENANCE | note})
    for category, answers in all_answers(world, noise):
        yield line_of(world, category, answers)


def all_answers(world: World, noise: Noise) -> Iterator[tuple[Category, list[Answer]]]:
    """Of every category, in the world's order."""
    if isinstance(noise, Fitted):
        for category, answers in fitted_answers(world, noise.wrong, mined_degrees()):
            yield category, told(answers, noise, random.Random(f"{world.number}/{category.name}"))
        return
    pools = pools_of(world, noise.mined)
    for category in world.categories:
        yield category, noisy_answers(world, category, noise, pools)


def noisy_answers(
    world: World, category: Category, noise: Noise, pools: dict[tuple, dict[str, float]]
) -> list[Answer]:
    """A pure function of the world, the category and the noise; what is wrong at one share is wrong
    at every higher one. `pools`: `pools_of` the world.
    """
    chooser = random.Random(f"{world.number}/{category.name}/noise")
    count = chooser.choice(mined_degrees()[0]) if noise.mined else RELATED
    oracle = oracle_answers(world, category, MOST)
    taken = {category.name, *(answer.name for answer in oracle)}
    answers = []
    for answer in oracle[:count]:
        hubs = pools[sort_of(world, answer.name)]
        others = [name for name in hubs if name not in taken]
        share, place = chooser.random(), chooser.random()
        if share < noise.wrong and others:
            weights = [hubs[name] for name in others]
            wrong = random.Random(place).choices(others, weights)[0]
            taken.add(wrong)
            answer = answer._replace(name=wrong)
        answers.append(answer)
    return told(answers, noise, chooser)


def told(answers: list[Answer], noise: Noise, chooser: random.Random) -> list[Answer]:
    """Answers in the order and with the strengths that the noise lets be known."""
    if not noise.placed:
        chooser.shuffle(answers)
    return answers if noise.strengths else [each._replace(strength="medium") for each in answers]


@cache
def mined_degrees() -> tuple[list[int], list[int]]:
    """Of the mined relations: how many answers each category has, and how many categories name each
    one that is named; both in ascending order.
    """
    with gzip.open(str(MINED), "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    related = [line["related"] for line in lines if "related" in line]
    named = Counter(answer["mid"] for answers in related for answer in answers)
    return sorted(map(len, related)), sorted(named.values())


def pools_of(world: World, mined: bool) -> dict[tuple, dict[str, float]]:
    """The seen categories of each sort, and how often each is drawn as a wrong answer, relative to
    the others.
    """
    chooser = random.Random(f"{world.number}/hubs")
    pools: dict[tuple, dict[str, float]] = {}
    for name in (category.name for category in world.categories if category.seen):
        often = float(chooser.choice(mined_degrees()[1])) if mined else 1.0
        pools.setdefault(sort_of(world, name), {})[name] = often
    return pools


def write_noisy(folder: Path, world: World, names: list[str]) -> None:
    """<folder>/<name>.jsonl of each noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        lines = noisy_lines(world, NOISES[name])
        write_text(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    write_noisy(Path(sys.argv[2]), World(int(sys.argv[1])), list(NOISES))
