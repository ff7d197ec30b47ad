"""Errors in the miniature's relations: as many as asked for, of the right sort, hubs among them."""

import json
from collections import Counter

import numpy as np
import pytest

from c2srt.demo.knowledge import oracle_answers
from c2srt.demo.noise import (
    MOST,
    NOISES,
    Fitted,
    Noise,
    all_answers,
    known_lines,
    mined_degrees,
    noisy_lines,
    write_noisy,
)
from c2srt.demo.words import FIRST, SHAPES, World, sort_of


def answers(noise: Noise, world: World = FIRST) -> dict[str, list]:
    return {category.name: found for category, found in all_answers(world, noise)}


def oracle(world: World = FIRST, most: int = MOST) -> dict[str, set[str]]:
    return {
        each.name: {answer.name for answer in oracle_answers(world, each, most)}
        for each in world.categories
    }


@pytest.mark.parametrize("name", [name for name in NOISES if name != "noise-50-fitted"])
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
            assert old.name == new.name or sort_of(FIRST, old.name) == sort_of(FIRST, new.name)
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


LARGER = World(0, size=700)


@pytest.mark.parametrize("noise", [Fitted(0.0), Fitted(0.5)])
def test_fitted_relations_have_the_degrees_of_the_mined_ones(noise):
    found, good = answers(noise, LARGER), oracle(LARGER, 700)
    counts, named = mined_degrees()
    places = np.linspace(0, len(counts) - 1, len(found)).round().astype(int)
    missing = np.array(counts)[places] - sorted(map(len, found.values()))
    assert (missing != 0).mean() < 0.05 and missing.sum() < 0.02 * len(found) * 8
    often = Counter(answer.name for each in found.values() for answer in each)
    seen = [category.name for category in LARGER.categories if category.seen]
    shares = sorted(often[name] / sum(often.values()) for name in seen)
    mined = [named[round(place)] for place in np.linspace(0, len(named) - 1, len(seen))]
    assert shares[:-2] == pytest.approx([each / sum(mined) for each in mined[:-2]], abs=3e-3)
    assert shares[-1] > 15 * shares[len(shares) // 2]
    every = [(name, answer) for name, each in found.items() for answer in each]
    wrong = sum(answer.name not in good[name] for name, answer in every) / len(every)
    assert wrong == pytest.approx(noise.wrong, abs=0.1)
    assert all(LARGER.named[answer.name].seen and answer.name != name for name, answer in every)
    assert all(len({answer.name for answer in each}) == len(each) for each in found.values())


def test_without_errors_a_larger_world_s_events_name_what_they_come_with():
    lines = [json.loads(line) for line in known_lines(LARGER)]
    assert lines[0]["provenance"]["oracle"] and len(lines) == 1 + len(LARGER.categories)
    for category, line in zip(LARGER.categories, lines[1:], strict=True):
        names = [answer["name"].lower() for answer in line["related"]]
        assert category.kind != "event" or set(category.words) == set(names[:3])
    assert {answer["strength"] for line in lines[1:] for answer in line["related"]} > {"high"}
