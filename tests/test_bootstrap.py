"""Confidence intervals: every draw is what literally repeating images gives, whatever the order of
images and ranks.
"""

from functools import partial

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from c2srt.evaluation import bootstrap
from c2srt.evaluation.annotated import annotated_columns
from c2srt.evaluation.bootstrap import (
    chunks,
    interval,
    intervals,
    mean_precisions,
    order_of_images,
    weights_of,
)
from c2srt.evaluation.config import ANNOTATED
from c2srt.evaluation.metric_state import LABEL_SETS, columns_of, measure, merge
from c2srt.evaluation.metrics import best_first
from c2srt.evaluation.protocols import f1_at_k, lesa, per_class, qks, sorted_keys
from c2srt.evaluation.results import Task, evaluate_state
from tests.test_metrics import (
    CASES,
    TOPK,
    draw,
    measured,
    slow_lesa,
    slow_per_class,
    slow_qks,
    with_positive,
)

NAMES = ("per_class", "lesa", "qks")


def values_of(part, seen) -> dict:
    keys = sorted_keys(part)
    return {
        label_set: {
            "mAP": {
                name: np.nanmean(of_protocol(keys, seen, label_set))
                for name, of_protocol in (("per_class", per_class), ("lesa", lesa), ("qks", qks))
            },
            **f1_at_k(part, label_set, TOPK),
            **{
                name + ANNOTATED: values
                for name, values in f1_at_k(part, label_set, TOPK, annotated=True).items()
            },
        }
        for label_set in LABEL_SETS
    }


def of(part, seen, draws=50, seed=3) -> dict:
    return intervals(part, seen, TOPK, NAMES, values_of(part, seen), draws, seed)


@pytest.mark.parametrize("size", [1, 30, 1 << 16])
@pytest.mark.parametrize("case", CASES)
def test_weighted_ap_is_scikit_learns_and_that_of_repeated_images(case, size, monkeypatch):
    monkeypatch.setattr(bootstrap, "ENTRIES_AT_ONCE", size)
    scores, labels, seen = draw(**case)
    part, weights = (
        measure(scores, labels, seen, TOPK),
        np.random.default_rng(0).integers(0, 4, len(scores)).astype(np.uint16),
    )
    keys = part.category.astype(np.uint64) << 32 | best_first(part.score)
    image = np.repeat(np.arange(part.images), part.verified)
    found = np.full(len(seen), np.nan)
    for chunk in chunks(part, keys, np.argsort(keys), image):
        found[chunk.category] = chunk.average_precision(weights)
    repeated = np.repeat(scores, weights, 0), np.repeat(labels, weights, 0)
    for category in range(len(seen)):
        known = labels[:, category] != 0
        positive = labels[known, category] == 1
        if weights[known][positive].sum():
            expected = average_precision_score(
                positive, scores[known, category], sample_weight=weights[known]
            )
            assert found[category] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(found[category])
    literal = slow_lesa(*repeated, np.ones(len(seen), bool))
    np.testing.assert_allclose(np.nan_to_num(found), np.nan_to_num(literal), atol=1e-12)


@pytest.mark.parametrize("case", CASES[:3])
def test_draws_are_evaluations_of_the_images_they_take(case):
    """Every draw's figures, by taking the images out of the arrays as often as it says and
    evaluating those.
    """
    scores, labels, seen = draw(**case)
    part, weights = measured(scores, labels, seen), weights_of(len(scores), 5, range(3, 8))
    assert (weights.sum(1) == len(scores)).all() and len(np.unique(weights, axis=0)) == 5
    order = order_of_images(part)
    place = np.argsort(order).astype(np.int32)
    found = mean_precisions(part, seen, place, list(NAMES), weights)
    for draw_, row in enumerate(weights):
        taken = np.repeat(order, row)
        again = measured(scores[taken], labels[taken], seen, annotated_columns(labels, seen))
        for label_set in LABEL_SETS:
            columns = columns_of(label_set, seen)
            for name, slow in (
                ("per_class", slow_per_class),
                ("lesa", slow_lesa),
                ("qks", partial(slow_qks, of=labels)),
            ):
                expected = np.nanmean(slow(scores[taken], labels[taken], columns))
                assert found[label_set]["mAP", name][draw_] == pytest.approx(expected, abs=1e-12)
            assert (
                with_positive(labels[taken], columns).sum()
                == (again.positives[:, LABEL_SETS.index(label_set)] > 0).sum()
            )
            for among in ("", ANNOTATED):
                rates = bootstrap.hit_rates(part, order, label_set, TOPK, weights, among)
                expected = f1_at_k(again, label_set, TOPK, annotated=bool(among))
                for (outer, inner), drawn in rates.items():
                    wanted = expected[outer.removesuffix(among)][inner]
                    assert outer.endswith(among) and drawn[draw_] == pytest.approx(
                        wanted, abs=1e-12
                    )


@pytest.mark.parametrize("levels", [None, 1])
def test_any_split_and_order_of_images_gives_the_same_bits_and_a_seed_its_own(levels, monkeypatch):
    scores, labels, seen = draw(8, images=97, levels=levels)
    random, whole = np.random.default_rng(0), of(measured(scores, labels, seen), seen)
    annotated = annotated_columns(labels, seen)
    for ranks in (1, 2, 3, 7):
        blocks = np.array_split(random.permutation(len(scores)), ranks)
        part = merge([measured(scores[some], labels[some], seen, annotated) for some in blocks])
        assert of(part, seen) == whole
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 7)
    assert of(part, seen) == whole and of(part, seen, seed=4) != whole


def test_intervals_hold_their_value_and_shrink_with_more_images():
    random = np.random.default_rng(0)
    width = []
    for images in (200, 3200):
        labels = random.choice([-1, 0, 1], (images, 12), p=[0.2, 0.6, 0.2]).astype(np.int8)
        part = measured(
            (random.normal(size=labels.shape) + labels).astype(np.float32),
            labels,
            np.arange(12) < 6,
        )
        results, _ = evaluate_state(part, Task(np.arange(12) < 6, TOPK, NAMES, 200, 0), None, None)
        assert results["bootstrap"] == {"draws": 200, "seed": 0}
        for label_set in LABEL_SETS:
            values = results[label_set]
            ranked = {f"F1@{k}{among}" for k in TOPK for among in ("", ANNOTATED)}
            assert set(values["ci95"]) == {"mAP", *ranked}
            assert set(values["ci95"]["mAP"]) == set(NAMES)
            for outer, inner in (
                ("mAP", "per_class"),
                ("mAP", "lesa"),
                ("mAP", "qks"),
                ("F1@2 annotated", "F1"),
                ("F1@2", "F1"),
                ("F1@4", "P"),
                ("F1@4", "R"),
            ):
                low, high = values["ci95"][outer][inner]
                assert 0 <= low < values[outer][inner] < high <= 1
        width.append(np.diff(results["gzsl"]["ci95"]["mAP"]["per_class"])[0])
    assert 3 < width[0] / width[1] < 5, "sixteen times the images, a quarter of the width"


def test_an_interval_is_the_draws_percentiles_around_the_value():
    drawn = np.linspace(0.5, 0.7, 101)
    np.testing.assert_allclose(interval(0.55, drawn), [0.455, 0.645])
    assert (
        interval(0.05, drawn)[0] == 0
        and interval(None, drawn) is None
        and interval(0.5, np.full(3, np.nan)) is None
    )


def test_a_label_set_that_cannot_be_measured_has_no_interval():
    scores, labels, _ = draw(12)
    for seen in (
        np.ones(14, bool),
        np.arange(14) != 1,
    ):  # no unseen category; one without a positive
        results, _ = evaluate_state(
            measure(scores, labels, seen, (1,), annotated=annotated_columns(labels, seen)),
            Task(seen, (1,), NAMES, 40, 0),
            None,
            None,
        )
        nothing = {"P": None, "R": None, "F1": None}
        assert results["zsl"]["ci95"] == {
            "mAP": {"per_class": None, "lesa": None, "qks": None},
            "F1@1": nothing,
            "F1@1 annotated": nothing,
        }
        assert results["gzsl"]["ci95"]["mAP"]["lesa"]
