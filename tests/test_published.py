"""Published rows of papers: copied as printed, and their contradictions found by arithmetic."""

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from c2srt import compose
from c2srt.tables import render, run
from c2srt.tables.published import contradictions
from c2srt.tables.rows import Row, Table
from tests.verbs import compose_verb

PAPER = Path(__file__).parents[2] / "shared/paper/c2srt_paper.txt"
LABELS = {"LESA": "LESA", "ZS-SDL": "ZS-SDL", "BiAM": "BiAM", "MKT": "MKT", "full C²SRT": "Ours"}
OPEN_IMAGES, NUS_WIDE = "openimages", "nuswide"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, Row]:
    """Those of the shipped table 1 that papers publish."""
    work = tmp_path_factory.mktemp("work")
    values = compose_verb("tables", [f"work={work}", "tables=[models]"])
    table = compose.to_config(run.Config, values).tables["models"]
    return {row.name: row for row in table.rows if row.published}


def test_the_shipped_numbers_are_those_of_the_paper_s_table_1(rows):
    if not PAPER.exists():
        pytest.skip("needs shared/paper (the paper's text)")
    lines = [line.split("\t") for line in PAPER.read_text(encoding="utf-8").splitlines()]
    starts = {line[0]: place for place, line in enumerate(lines) if len(line) == 17}
    assert set(rows) == set(LABELS)
    for name, label in LABELS.items():
        zsl, gzsl = (
            list(map(float, lines[starts[label] + below][3:])) for below in (0, 1)
        )  # P, R, F1, P, R, F1, mAP of NUS-WIDE, then of Open Images
        for data, first in ((NUS_WIDE, 0), (OPEN_IMAGES, 7)):
            one, other = zsl[first : first + 7], gzsl[first : first + 7]
            six = [one[6], other[6], one[2], other[2], one[5], other[5]]
            assert rows[name].published[data] == six
            pairs = [*one[:2], *other[:2], *one[3:5], *other[3:5]]
            assert rows[name].published_pr[data] == pairs


@pytest.mark.parametrize(
    "name, data, sentences",
    [
        (
            "full C²SRT",
            OPEN_IMAGES,
            [
                "ZSL: its P and R imply 1.37 (K = 10) and 1.40 (K = 20) positives an image, the"
                " test set has 1.28",
                "GZSL: its P and R imply 8.40 (K = 20) positives an image, the test set has 8.68",
            ],
        ),
        ("full C²SRT", NUS_WIDE, []),
        (
            "LESA",
            OPEN_IMAGES,
            [
                "ZSL: its P and R imply 0.27 (K = 10) and 0.27 (K = 20) positives an image, the"
                " test set has 1.28",
                "GZSL: its P and R imply 8.57 (K = 10) and 8.54 (K = 20) positives an image, the"
                " test set has 8.68",
            ],
        ),
        ("LESA", NUS_WIDE, []),
        (
            "ZS-SDL",
            NUS_WIDE,
            [
                "ZSL: its P and R imply 1.76 (K = 3) and 1.76 (K = 5) positives an image, the test"
                " set has 1.875",
                "GZSL: its P and R imply 5.98 (K = 3) and 5.96 (K = 5) positives an image, the test"
                " set has 6.8",
            ],
        ),
        (
            "ZS-SDL",
            OPEN_IMAGES,
            ["GZSL@10: P is printed as 25.3 where R 40.8 and F1 37.8 need 35.1–35.3"],
        ),
        (
            "MKT",
            NUS_WIDE,
            ["GZSL@3: R is printed as 16.8 where P 35.9 and F1 22.0 need 15.8–15.9"],
        ),
        ("MKT", OPEN_IMAGES, []),
        (
            "BiAM",
            OPEN_IMAGES,
            [
                "ZSL@20: F1 is printed as 5.5 where P 2.7 and R 41.9 need 5.0–5.2",
                "GZSL@20: F1 is printed as 14.8 where P 9.7 and R 22.3 need 13.5–13.6",
            ],
        ),
        ("BiAM", NUS_WIDE, []),
    ],
)
def test_contradictions_are_found(rows, name, data, sentences):
    assert contradictions(rows[name], data) == sentences


def printed(precisions: list[float], decimal: Callable[[float], float]) -> Row:
    """A row of true rates on NUS-WIDE, P given for ZSL@3, GZSL@3, ZSL@5, GZSL@5, each number as it
    is printed with one decimal.
    """
    pairs, f1 = [], []
    for precision, k, positives in zip(precisions, (3, 3, 5, 5), (1.875, 6.8) * 2, strict=True):
        recall = k * precision / positives
        pairs += [precision, recall]
        f1.append(2 * precision * recall / (precision + recall))
    return Row(
        "a",
        run="a",
        published={NUS_WIDE: [1, 1, *map(decimal, f1)]},
        published_pr={NUS_WIDE: [*map(decimal, pairs)]},
    )


@pytest.mark.parametrize("seed", range(20))
def test_rounded_or_cut_off_is_no_contradiction_and_a_wrong_digit_is_one(seed):
    precisions = np.random.default_rng(seed).uniform(5, 35, 4).tolist()
    for decimal in (lambda value: round(value, 1), lambda value: math.floor(10 * value) / 10):
        row = printed(precisions, decimal)
        assert contradictions(row, NUS_WIDE) == []
        for place in range(8):
            wrong = deepcopy(row)
            wrong.published_pr[NUS_WIDE][place] += 10
            assert len(contradictions(wrong, NUS_WIDE)) == 1


def test_without_p_and_r_nothing_is_checked():
    assert not contradictions(Row("a", run="a", published={NUS_WIDE: [1.0] * 6}), NUS_WIDE)


def test_the_row_has_a_mark_and_the_table_a_sentence(rows):
    table = Table("T", [rows["LESA"], rows["MKT"], rows["full C²SRT"]])
    columns = render.columns_of([10, 20], "per_class", "positive", [])
    empty = {row.name: {} for row in table.rows}
    text = render.text_of(render.MARKDOWN, "T", table, empty, columns, OPEN_IMAGES).splitlines()
    marks = [line.split("|")[1].strip() for line in text if line.startswith("| · published")]
    assert marks == [f"· published, {OPEN_IMAGES}{end}" for end in (" (1)", "", " (2)")]
    assert text[-1].startswith("(2) full C²SRT as published: ZSL: its P and R imply 1.37 (K = 10)")
    assert text[-1].endswith("the test set has 8.68.") and text[-2] == "" and "(1) LESA" in text[-3]
    latex = render.text_of(render.LATEX, "T", table, empty, columns, OPEN_IMAGES).splitlines()
    assert latex[-1] == r"\end{table}" and latex[-2].startswith(r"\\[2pt] (2) full C$^2$SRT")
    record = render.record_of("models", table, empty, {})["rows"]
    assert record[0]["contradictions"][OPEN_IMAGES] and not record[1]["contradictions"][OPEN_IMAGES]
    plain = render.text_of(render.MARKDOWN, "T", Table("T", table.rows[1:2]), empty, columns, None)
    assert plain.splitlines()[-1].startswith("| MKT")
