"""Naming by the threshold, category by category, against numbers worked out by hand and the long
way round; the best and worst of an evaluation.
"""

from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch

from c2srt.calibration import per_category
from c2srt.calibration.per_category import Tally, category_table, confusion_table
from c2srt.evaluation.describe import best_and_worst
from c2srt.evaluation.results import write_table
from c2srt.model.calibration import Calibration
from c2srt.vocabulary import Vocabulary

NAMES = ("ball", "coin", "disc")
WORDS = Vocabulary(NAMES, NAMES, 3)
MARGIN = np.array([[1.0, -1, -1], [1, -1, -1], [-1, 0, -1], [1, 1, 1]])
LABELS = np.array([[1, -1, -1], [-1, 1, -1], [0, 1, 1], [-1, -1, 0]])
"""Four images. 0: the ball is found. 1: it says ball where there is a coin. 2: the coin is found,
at the very threshold, the disc missed. 3: it says ball and coin where there is nothing, and a disc,
which nobody verified.
"""


def tallied(unverified_absent: bool = False) -> Tally:
    tally = Tally(3)
    absent = LABELS <= 0 if unverified_absent else LABELS < 0
    for rows in (slice(3), slice(3, None)):
        tally.add(MARGIN[rows], LABELS[rows] > 0, absent[rows])
    return tally


def test_precision_recall_and_thresholds_by_hand():
    half = torch.full((3,), 0.5)
    calibration = Calibration(torch.full((3,), 2.0), torch.full((3,), -3.0), half, half)
    table = category_table(tallied(), calibration, WORDS)
    assert table["score"].to_list() == [1.5, 1.5, 1.5] and table["seen"].all()
    counts = table.select("positives", "negatives", "right", "wrong", "missed").rows()
    assert counts == [(1, 2, 1, 2, 0), (2, 2, 1, 1, 1), (1, 2, 0, 0, 1)]
    assert table["P"].fill_nan(None).to_list() == [1 / 3, 1 / 2, None]
    assert table["R"].to_list() == [1, 1 / 2, 0]
    assert table["F1"].to_list() == [1 / 2, 1 / 2, 0]


def test_it_said_ball_where_it_was_a_coin():
    """Once, and 2 · 1 / 4 times would be expected; the disc of image 3 counts as absent only if
    what nobody verified does, and no label is missed there.
    """
    expected = {"said": "ball", "said_mid": "ball", "was": "coin", "was_mid": "coin"}
    expected |= {"images": 1, "expected": 0.5, "said_wrongly": 2, "missed": 1}
    assert confusion_table(tallied(), WORDS).to_dicts() == [expected]
    assert confusion_table(tallied(True), WORDS).to_dicts() == [expected]
    assert tallied(True).wrong.tolist() == [2, 1, 1]
    assert len(confusion_table(Tally(3), WORDS)) == 0


@pytest.mark.parametrize("waiting", [1, 1 << 22])
def test_pairs_are_those_of_the_long_way_round(monkeypatch, waiting):
    """Also where equal pairs are counted together after every batch, and of a few of each."""
    monkeypatch.setattr(per_category, "WAITING", waiting)
    monkeypatch.setattr(per_category, "OF_EACH", 3)
    random = np.random.default_rng(0)
    margin, present = random.normal(-0.5, 1, (60, 9)), random.random((60, 9)) < 0.4
    names = tuple("abcdefghi")
    tally = Tally(9)
    for rows in (slice(20), slice(20, 45), slice(45, 60)):
        tally.add(margin[rows], present[rows], ~present[rows])
    counted: Counter[tuple[str, str]] = Counter()
    for scores, has in zip(margin, present, strict=True):
        said = [n for n, s, h in zip(names, scores, has, strict=True) if s >= 0 and not h]
        was = [n for n, s, h in zip(names, scores, has, strict=True) if s < 0 and h]
        counted.update((x, y) for x in said for y in was)
    table = confusion_table(tally, Vocabulary(names, names, 9))
    above = table["images"] - table["expected"]
    assert above.to_list() == sorted(above, reverse=True) and len(table) == 27
    assert all(counted[row["said"], row["was"]] == row["images"] for row in table.to_dicts())
    of_a = table.filter(pl.col("said") == "a")["images"] - table.filter(said="a")["expected"]
    wrong = dict(zip(names, ((margin >= 0) & ~present).sum(0), strict=True))
    missed = dict(zip(names, ((margin < 0) & present).sum(0), strict=True))
    every = [counted["a", y] - wrong["a"] * missed[y] / 60 for y in names if counted["a", y]]
    assert of_a.to_list() == pytest.approx(sorted(every, reverse=True)[:3])


def test_an_image_with_thousands_of_them_leaves_the_foremost(monkeypatch):
    monkeypatch.setattr(per_category, "MOST", 2)
    tally = Tally(6)
    margin = np.array([[3.0, 1, 2, -3, -1, -2]])
    present = margin < 0
    tally.add(margin, present, ~present)
    tally.settle()
    assert tally.pairs.tolist() == [0 * 6 + 4, 0 * 6 + 5, 2 * 6 + 4, 2 * 6 + 5]


def test_the_best_and_the_worst_categories_are_those_with_enough_positives(tmp_path):
    names = [*"abcdefg", "few"]
    ap = [0.5, 0.9, 0.1, 0.9, 0.3, 0.7, None, 1.0]
    table = pl.DataFrame({"name": names, "positives": [5, 6, 7, 8, 9, 10, 11, 4], "gzsl_lesa": ap})
    write_table(tmp_path / "per_category.csv", table)
    results = {"gzsl": {"mAP": {"lesa": 0.5}}}
    assert best_and_worst(tmp_path, results).splitlines() == [
        "best AP (lesa; positives): d 90.0 (8), b 90.0 (6), f 70.0 (10)",
        "worst AP (lesa; positives): c 10.0 (7), e 30.0 (9), a 50.0 (5)",
    ]
    write_table(tmp_path / "per_category.csv", table.head(5))
    assert best_and_worst(tmp_path, results) == ""
