"""Errors in the miniature's relations: as many as asked for, of the right sort, hubs among them."""

import json
from collections import Counter

import pytest

from c2srt.demo.knowledge import oracle_answers
from c2srt.demo.noise import (
    MOST,
    NOISES,
    Noise,
    alike,
    mined_degrees,
    noisy_answers,
    noisy_lines,
    popularity,
    write_noisy,
)
from c2srt.demo.words import FIRST, SHAPES, World


def answers(noise: Noise, world: World = FIRST) -> dict[str, list]:
    hubs = popularity(world, noise.mined)
    return {each.name: noisy_answers(world, each, noise, hubs) for each in world.categories}


def oracle(world: World = FIRST) -> dict[str, set[str]]:
    return {
        each.name: {answer.name for answer in oracle_answers(world, each, MOST)}
        for each in world.categories
    }


@pytest.mark.parametrize("name", NOISES)
def test_as_many_answers_are_wrong_as_the_name_says(name):
    noise, good = NOISES[name], oracle()
    every = [(category, answer) for category, found in answers(noise).items() for answer in found]
    wrong = [pair for pair in every if pair[1].name not in good[pair[0]]]
    assert len(wrong) / len(every) == pytest.approx(noise.wrong, abs=0.07)
    for category, answer in every:
        assert answer.name != category and FIRST.named[answer.name].seen
        assert noise.strengths or answer.strength == "medium"


def test_wrong_at_one_share_is_wrong_at_every_higher_one():
    good, before = oracle(), set()
    for percent in (0, 25, 50, 75, 100):
        found = answers(NOISES[f"noise-{percent}"])
        left = {
            (name, other)
            for name, good_ones in good.items()
            for other in good_ones & {answer.name for answer in found[name]}
        }
        assert percent == 0 or left <= before
        before = left


def test_wrong_answers_are_of_the_same_sort_and_come_from_hubs():
    placed = Noise(1.0, placed=True)
    truth, found = answers(Noise(0.0, placed=True)), answers(placed)
    named: Counter = Counter()
    for category, wrong in found.items():
        for old, new in zip(truth[category], wrong, strict=True):
            assert old.name == new.name or alike(FIRST, old.name, new.name)
            named[new.name] += 1
    even: Counter = Counter()
    for wrong in answers(Noise(1.0, placed=True, mined=False)).values():
        even.update(answer.name for answer in wrong)
    assert max(named[name] for name in SHAPES) > 1.5 * max(even[name] for name in SHAPES)
    counts, hubs = mined_degrees()
    assert min(counts) >= 5 and max(counts) <= MOST and hubs[-1] > 10 * hubs[len(hubs) // 2]


def test_worlds_and_names_decide_it_and_nothing_else(tmp_path):
    write_noisy(tmp_path, FIRST, ["noise-50", "noise-75"])
    written = (tmp_path / "noise-50.jsonl").read_text(encoding="utf-8").splitlines()
    assert written == list(noisy_lines(FIRST, NOISES["noise-50"]))
    assert written != list(noisy_lines(World(1), NOISES["noise-50"]))
    note = json.loads(written[0])["provenance"]
    assert note["oracle"] and note["errors"] == "50% of the answers are wrong"
    assert len(written) == 1 + len(FIRST.categories)
