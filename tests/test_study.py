"""The study: its statistics, its controls on hand-worked cases, and a whole one, small, resumed."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.files import write_json
from c2srt.relations.untold import by_neighbours
from c2srt.study import run as study_run
from c2srt.study.compare import difference, holm, mean_interval
from c2srt.study.config import Config
from c2srt.study.pages import BLOCK, FOLDER, filled
from c2srt.study.plan import AGAINST, DEVELOPMENT, SHOWN, WORLDS
from c2srt.study.report import comparisons, cost, grid, kept, pair, said_of, sentences, sound, table
from c2srt.study.results import read_all, results_of
from c2srt.study.rows import CANDIDATE, FULL, NO_GRAPH, ROWS, TRAININGS
from c2srt.study.score import best_neighbours, precision
from c2srt.study.tuned import TRIALS, TUNED
from c2srt.study.tuning import best_of, tuning_table
from c2srt.study.world import slug


def test_differences_are_paired_and_have_students_interval():
    first, second = np.array([0.5, 0.6, 0.7, 0.4]), np.array([0.4, 0.58, 0.6, 0.38])
    found = difference(first, second)
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert (found.mean, found.p) == pytest.approx(((first - second).mean(), expected.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert np.isnan(difference(first[:1], second[:1]).low)
    assert difference(first, first).p == 1
    assert mean_interval(first)[0] == pytest.approx(0.55)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_control_changes_only_those_that_hear_somebody():
    scores = np.arange(12, dtype=np.float64).reshape(3, 4)
    untold = np.array([[-1, -1], [-1, -1], [0, 1], [-1, 0]])
    assert by_neighbours(scores, untold).tolist() == [
        [0, 1, 0.5, 0],
        [4, 5, 4.5, 4],
        [8, 9, 8.5, 8],
    ]


def test_the_best_neighbour_fits_the_category_s_own_labels():
    scores = np.array([[4.0, 1, 0], [3, 2, 0], [2, 3, 0], [1, 4, 0]])
    labels = np.array([[0, 0, -1], [0, 0, -1], [0, 0, 1], [0, 0, 1]])
    untold = np.array([[-1, -1], [-1, -1], [0, 1]])
    chosen = best_neighbours(scores, labels, untold)
    assert chosen.tolist() == [-1, -1, 1]
    result = by_neighbours(scores, chosen[:, None])
    assert result[:, 2].tolist() == [1, 2, 3, 4]
    assert precision(scores[:, 1], labels[:, 2] > 0) == 1
    assert precision(scores[:, 0], labels[:, 2] > 0) == pytest.approx((1 / 3 + 2 / 4) / 2)


def results(candidate: list[float], full: list[float]) -> dict:
    """Of two rows in as many worlds."""

    def figures(value: float) -> dict[str, float]:
        names = ("ZSL mAP", "words mAP", "opaque mAP", "GZSL mAP", "GZSL F1@10", "true GZSL mAP")
        return dict.fromkeys(names, value)

    return {
        ("noise-50", CANDIDATE): {w: figures(value) for w, value in enumerate(candidate)},
        ("noise-50", FULL): {w: figures(value) for w, value in enumerate(full)},
        (NO_GRAPH, "distillation only"): {0: figures(0.4), 1: figures(0.41), 2: figures(0.42)},
    }


def test_a_sentence_says_a_difference_only_where_its_interval_leaves_out_zero():
    found = results([0.50, 0.52, 0.51], [0.49, 0.53, 0.505])
    text = sentences(comparisons(found, "noise-50"), "noise-50")
    assert f"- {FULL}: no difference seen" in text
    assert "- distillation only: +10.0 (95 % [" in text
    assert "| 3 | " in table(found, "noise-50")
    assert "not kept" in kept(found, "noise-50")  # 3 worlds: the interval reaches below -1 point
    alone = sentences(comparisons(results([0.5], [0.4]), "noise-50"), "noise-50")
    assert f"- {FULL}: +10.0 (one world: no interval)" in alone


def test_rows_of_a_larger_world_say_nothing_without_positives_or_a_clip_that_knows_the_names():
    def records(least: int, clip: float) -> list[dict]:
        values = {"CLIP zero-shot": clip, "prior only": 0.05}
        about = {"world": 0, "graph": NO_GRAPH, "given": "", "recipe": "", "categories": 2000}
        return [
            {**about, "row": name, "figures": {"ZSL mAP": value}, "least_positives": least}
            for name, value in values.items()
        ]

    assert sound(records(10, 0.151)) == (
        "2,000 categories: each unseen one has at least 10 test positives, CLIP's ZSL mAP is at"
        " least 3.0 times chance."
    )
    for least, clip in ((9, 0.4), (10, 0.14)):
        assert sound(records(least, clip)).endswith("These rows say nothing: 10 and 3 are needed.")
    assert sound([each | {"categories": 352} for each in records(1, 0.1)]) == ""


def test_the_plan_is_of_other_worlds_and_of_every_row():
    assert not set(DEVELOPMENT) & set(WORLDS) and len(WORLDS) == 10
    assert set(AGAINST) | {CANDIDATE, "prior only"} == {row.name for row in ROWS if row.compared}
    bases = {row.base for row in ROWS if row.compared}
    assert len(bases & set(TRAININGS)) <= 8  # that long a world of a confirmation may take
    assert len({slug(row.name) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"worlds": []}, {"worlds": [1, 1]}, {"graphs": ["noise-51"]}, {"part": "3/2"}),
        *({"rows": "some"}, {"tune": ["mtk"]}, {"categories": 100}),
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(UserError):
        Config(**{"work": "x", "out": "y", "worlds": [0, 1], "graphs": ["noise-50"], **wrong})


def test_settings_are_tried_as_often_for_every_model_and_the_best_is_marked():
    assert {len(set(tuned.trials)) for tuned in TUNED.values()} == {TRIALS}
    assert all(() in TUNED[name].trials for name in ("full", "distillation", "mkt", CANDIDATE))
    trials = [
        {"overrides": [f"a={value}"], "figures": dict.fromkeys(SHOWN, value)}
        for value in (0.25, 0.5, 0.5)
    ]
    assert best_of(trials) is trials[1]
    assert tuning_table("x", trials).splitlines()[4:6] == [
        "| a=0.25 |" + " 25.0 |" * len(SHOWN),
        "| **a=0.5** |" + " 50.0 |" * len(SHOWN),
    ]


@pytest.mark.slow
def test_settings_are_tried_in_a_fold(tmp_path, capsys):
    command = [
        *("study", f"work={tmp_path}", "worlds=[0]", "graphs=[noise-50]", "workers=1"),
        "images={train: 96, validation: 24, test: 48}",
        'commands.train=["schedule.steps=2"]',
        'commands.messages=["loader_workers=0"]',
        f"tune=[{CANDIDATE}]",
    ]
    assert main(command) == 0
    assert "unseen_neighbours=8" in capsys.readouterr().out
    found = json.loads((tmp_path / "study/tuning.json").read_text())["results"]
    assert [tuple(each["overrides"]) for each in found] == list(TUNED[CANDIDATE].trials)
    assert (tmp_path / "world-0-fold/clip").resolve() == (tmp_path / "world-0/clip").resolve()
    assert main(command) == 0
    assert json.loads((tmp_path / "study/tuning.json").read_text())["results"] == found


@pytest.mark.slow
def test_a_small_study_and_again(tmp_path, monkeypatch, capsys):
    """Every row of a world, of few images and steps; what is there stays, what is gone comes back
    as it was.
    """
    command = [
        "study",
        f"work={tmp_path}",
        "worlds=[0]",
        "graphs=[noise-50]",
        "workers=1",
        "images={train: 96, validation: 24, test: 48}",
        'commands.train=["schedule.steps=2"]',
        'commands.messages=["loader_workers=0"]',
    ]
    assert main(command) == 0
    text = capsys.readouterr().out
    rows = [row for row in ROWS if row.compared]
    assert all(f"| {row.name} | 1 |" in text for row in rows)
    made = {path: path.read_bytes() for path in (tmp_path / "study").glob("world-0/*/*.json")}
    assert len(made) == len(rows)
    gone = next(path for path in made if path.name == "score-messages.json")
    gone.unlink()
    shutil.rmtree(tmp_path / "world-0/messages")
    monkeypatch.setattr(study_run, "prepare", lambda place: None)
    assert main(command) == 0
    again = {path: path.read_bytes() for path in (tmp_path / "study").glob("world-0/*/*.json")}
    assert again == made
    assert json.loads(gone.read_text())["training"]["steps"] == 2


def records(recipes: list[str], given: str = "g") -> list[dict]:
    """A row's records in as many worlds."""
    return [
        {"world": world, "graph": "noise-50", "row": FULL, "recipe": recipe, "given": given}
        | {"figures": {"GZSL mAP": 0.4 + world / 100}}
        for world, recipe in enumerate(recipes)
    ]


def test_results_made_in_different_ways_do_not_stand_in_one_table():
    found = results_of(records(["a", "a"]))
    assert found["noise-50", FULL] == {0: {"GZSL mAP": 0.4}, 1: {"GZSL mAP": 0.4 + 1 / 100}}
    with pytest.raises(UserError, match=r"has other settings in world 0 than in world 1"):
        results_of(records(["a", "b"]))
    with pytest.raises(UserError, match="other images="):
        results_of([*records(["a"]), *records(["a", "a"], "h")[1:]])


def test_a_grid_has_a_row_s_figure_on_every_graph():
    found = {
        ("noise-0", FULL): {0: {"GZSL mAP": 0.5}},
        ("noise-50", FULL): {0: {"GZSL mAP": 0.4}, 1: {"GZSL mAP": 0.6}},
        (NO_GRAPH, "prior only"): {0: {"GZSL mAP": 0.2}},
    }
    assert grid(found, "GZSL mAP").splitlines()[2:] == [
        "| row | noise-0 | noise-50 |",
        "|---|---|---|",
        "| prior only | 20.0 |",
        f"| {FULL} | 50.0 | 50.0 ±127.1 |",  # Student's t of one degree of freedom
    ]


def test_a_pair_s_figures_are_said_with_their_intervals():
    found = results([0.50, 0.52, 0.51], [0.40, 0.42, 0.41])
    text = pair(found, f"noise-50 | {CANDIDATE} | {FULL}")
    assert text.startswith(f"{CANDIDATE} against {FULL}, noise-50: ZSL mAP +10.0 (95 % [+10.0, +10")
    assert said_of(difference(np.array([0.5, 0.4]), np.array([0.4, 0.5]))).startswith("no differ")


def test_a_step_costs_what_it_took_beside_the_full_model_s_of_the_same_world():
    took = {FULL: (0.2, 0.4), "distillation only": (0.1, 0.2), CANDIDATE: (0.1, 0.3)}
    found = [
        {"world": world, "graph": graph, "row": row, "training": {"seconds_per_step": seconds}}
        for row, both in took.items()
        for world, seconds in enumerate(both)
        for graph in [NO_GRAPH if row == "distillation only" else "noise-50"]
    ]
    found.append({"world": 0, "graph": NO_GRAPH, "row": "prior only", "training": None})
    assert cost(found, "noise-50").splitlines()[2:] == [
        "| distillation only | 0.50 ±0.00 |",
        f"| {FULL} | 1.00 ±0.00 |",
        f"| {CANDIDATE} | 0.62 ±1.59 |",
    ]


def test_a_page_s_blocks_are_filled_from_results_alone(tmp_path):
    write_json(tmp_path / "r.json", {"results": records(["a", "a"])})
    page = "<!-- results: r.json grid GZSL mAP -->\nold\n<!-- end of results -->\nrest"
    new = filled(page, tmp_path)
    assert f"| {FULL} | 40.5" in new and "old" not in new and new.endswith("\nrest")
    assert filled(new, tmp_path) == new
    with pytest.raises(UserError, match="none of"):
        filled(page.replace("grid", "sum"), tmp_path)
    with pytest.raises(UserError, match=r"holds no results of a study"):
        write_json(tmp_path / "r.json", {})
        filled(page, tmp_path)


def test_the_pages_of_this_project_are_as_their_results_say():
    root = Path(__file__).parents[1]
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    blocks = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        blocks += len(BLOCK.findall(text))
        assert filled(text, root / FOLDER) == text, f"python -m c2srt.study.pages {page.name}"
    assert blocks > 10


def test_no_figure_of_results_is_written_by_hand():
    root = Path(__file__).parents[1]
    readme = (root / "README.md").read_text(encoding="utf-8")
    parts = [readme.split("\n## Results\n")[1].split("\n## ")[0]]
    parts.append((root / "docs/results.md").read_text(encoding="utf-8"))
    for part in parts:
        outside = BLOCK.sub("", part)
        assert not re.search(r"\d\.\d", outside)


def test_what_is_frozen_is_what_the_fold_chose():
    path = Path(__file__).parents[1] / FOLDER / "tuning.json"
    every = read_all(path)
    finished = [name for name in TUNED if sum(each["model"] == name for each in every) == TRIALS]
    assert {"full", "distillation", "mkt", CANDIDATE} <= set(finished)
    for name in finished:
        best = best_of([each for each in every if each["model"] == name])["overrides"]
        row = next(row for row in ROWS if row.name == name) if name == CANDIDATE else None
        assert set(best) <= set(row.overrides if row else TRAININGS[name].overrides)
