"""Every protocol against a slow, literal reference (scikit-learn and loops), and exactness under
any split and order.
"""

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from c2srt.errors import UserError
from c2srt.evaluation.annotated import annotated_columns
from c2srt.evaluation.dense import thresholds_of
from c2srt.evaluation.metric_state import (
    GZSL,
    LABEL_SETS,
    ZSL,
    columns_of,
    load_state,
    measure,
    merge,
    verified_state,
)
from c2srt.evaluation.metrics import average_precision, best_first, entry_keys
from c2srt.evaluation.protocols import (
    biam_legacy,
    dense,
    f1_at_k,
    lesa,
    per_class,
    qks,
    sorted_keys,
)
from c2srt.evaluation.topk import best, expected_hits, nonzero

TOPK = (2, 4)


def draw(seed, images=60, categories=14, unseen=5, levels=None, dtype=np.float32):
    """Sparse ternary labels with every awkward case: empty images, categories without positives or
    labels, tied scores.
    """
    random = np.random.default_rng(seed)
    labels = random.choice([-1, 0, 1], (images, categories), p=[0.2, 0.6, 0.2]).astype(np.int8)
    labels[:5] = 0
    labels[5:9] = np.minimum(labels[5:9], 0)
    labels[:, 1] = np.minimum(labels[:, 1], 0)
    labels[:, 2] = 0
    scores = random.normal(size=(images, categories)) + 0.4 * labels
    if levels:
        scores = np.round(scores * levels) / levels
    seen = np.ones(categories, bool)
    seen[random.choice(np.arange(3, categories), unseen, replace=False)] = False
    seen[1] = False
    seen[2] = seed % 2 == 1
    return scores.astype(dtype), labels, seen


CASES = [
    {"seed": 0},
    {"seed": 1, "levels": 2},
    {"seed": 2, "levels": 1},
    {"seed": 3, "dtype": np.float64},
    {"seed": 4, "levels": 3, "dtype": np.float16},
]


def with_positive(labels, columns):
    return (labels[:, columns] == 1).any(1)


def slow_per_class(scores, labels, columns, label_set=None):
    rows = with_positive(labels, columns)
    result = np.full(len(columns), np.nan)
    for c in np.flatnonzero(columns):
        verified = rows & (labels[:, c] != 0)
        if (labels[verified, c] == 1).any():
            result[c] = average_precision_score(labels[verified, c] == 1, scores[verified, c])
    return result


def slow_lesa(scores, labels, columns, label_set=None):
    result = np.full(len(columns), np.nan)
    for c in np.flatnonzero(columns):
        verified = np.abs(labels[:, c]) == 1
        positive = labels[verified, c] == 1
        result[c] = average_precision_score(positive, scores[verified, c]) if positive.any() else 0
    return result


def slow_biam(scores, labels, columns, label_set):
    rows = with_positive(labels, columns)
    scores, labels = scores[rows][:, columns], labels[rows][:, columns]
    result = np.full(len(columns), np.nan)
    for c, column in enumerate(np.flatnonzero(columns)):
        chosen = labels[:, c] != 0
        if label_set == ZSL:
            result[column] = 0
        if chosen.any():
            some_scores, some_labels = scores[chosen], labels[chosen]
            verified = some_labels != 0
            result[column] = average_precision_score(
                some_labels[verified] == 1, some_scores[verified]
            )
    return result


def slow_qks(scores, labels, columns, label_set=None, of=None):
    """`of`: the labels whose annotated columns are meant, where they are not these."""
    rows, every = with_positive(labels, columns), labels if of is None else of
    result = np.full(len(columns), np.nan)
    for c in np.flatnonzero(columns):
        if (every[with_positive(every, columns), c] != 0).any():
            verified = rows & (labels[:, c] != 0)
            positive = labels[verified, c] == 1
            result[c] = (
                average_precision_score(positive, scores[verified, c]) if positive.any() else 0
            )
    return result


def slow_dense(scores, labels, columns, label_set=None):
    result = np.full(len(columns), np.nan)
    for c in np.flatnonzero(columns):
        if (labels[:, c] == 1).any():
            result[c] = average_precision_score(labels[:, c] == 1, scores[:, c])
    return result


def slow_expected_hits(scores, positive, k):
    """The mean over every order of the tied scores, by trying all sets of K that could be the
    best.
    """
    best = sorted(scores, reverse=True)[:k]
    sets = [list(chosen) for chosen in itertools.combinations(range(len(scores)), k)]
    return np.mean(
        [positive[chosen].sum() for chosen in sets if sorted(scores[chosen], reverse=True) == best]
    )


def measured(scores, labels, seen, annotated=None):
    """With all that is measured, by the annotated columns of these labels or of others."""
    annotated = annotated_columns(labels, seen) if annotated is None else annotated
    return measure(scores, labels, seen, TOPK, annotated=annotated)


def all_protocols(scores, labels, seen, label_set):
    part = measured(scores, labels, seen)
    keys, thresholds = sorted_keys(part), thresholds_of(part, len(seen))
    return {
        "per_class": per_class(keys, seen, label_set),
        "lesa": lesa(keys, seen, label_set),
        "biam_legacy": biam_legacy(part, seen, label_set),
        "qks": qks(keys, seen, label_set),
        "dense": dense(
            thresholds, thresholds.count(scores.astype(part.score.dtype)), seen, label_set
        ),
    }


@pytest.mark.parametrize("label_set", LABEL_SETS)
@pytest.mark.parametrize("case", CASES)
def test_protocols_equal_their_slow_references(case, label_set):
    scores, labels, seen = draw(**case)
    columns = columns_of(label_set, seen)
    fast = all_protocols(scores, labels, seen, label_set)
    slow = {
        "per_class": slow_per_class,
        "lesa": slow_lesa,
        "biam_legacy": slow_biam,
        "qks": slow_qks,
        "dense": slow_dense,
    }
    for name, reference in slow.items():
        np.testing.assert_allclose(
            fast[name], reference(scores, labels, columns, label_set), rtol=1e-12, err_msg=name
        )
    values = [np.nanmean(values) for values in fast.values()]
    assert len(set(np.round(values, 6))) == len(slow), "the case cannot tell the protocols apart"


SMALL = {
    # columns: one seen, then four unseen ones; c has its only label on an image without a positive
    # among the unseen, and the best score of every other
    "scores": np.array(
        [
            [0.0, 0.9, 0.2, 0.95, 0.1],
            [0.0, 0.8, 0.3, 0.99, 0.4],
            [0.0, 0.5, 0.6, 0.7, 0.2],
            [0.9, 0.1, 0.1, 0.1, 0.0],
        ]
    ),
    "labels": np.array(
        [[0, 1, -1, 0, 0], [0, -1, 0, 0, 1], [0, 1, 0, 0, 0], [1, -1, 0, -1, 0]], np.int8
    ),
    "seen": np.arange(5) < 1,
}


def test_biam_legacy_by_hand():
    """ZSL: a ranks the five labels of images 0–2 (+ − + + −), b two of image 0 (+ −), d two of
    image 1 (− +), and c, without a label there, is 0 and in the mean. GZSL: all five have a label.
    """
    part, seen = measured(**SMALL), SMALL["seen"]
    zsl = biam_legacy(part, seen, ZSL)
    np.testing.assert_allclose(zsl, [np.nan, (1 + 2 / 3 + 3 / 4) / 3, 1, 0, 1 / 2])
    gzsl = biam_legacy(part, seen, GZSL)
    np.testing.assert_allclose(gzsl, [1, (2 + 3 / 4 + 4 / 5) / 4, 1, 1, 1 / 2])


def test_qks_by_hand():
    """ZSL: images 0–2; a has + − +, b one absence, d one presence, c no label there. GZSL: c has an
    absence on image 3.
    """
    part, seen = measured(**SMALL), SMALL["seen"]
    keys = sorted_keys(part)
    np.testing.assert_allclose(qks(keys, seen, ZSL), [np.nan, (1 + 2 / 3) / 2, 0, np.nan, 1])
    np.testing.assert_allclose(qks(keys, seen, GZSL), [1, (1 + 2 / 3) / 2, 0, 0, 1])


def test_the_f1_of_qks_by_hand():
    """Of a, b and d: image 0 has a first (+), 1 a (−) then d (+), 2 b then a (+); three positives.
    With c, the best of all three, nothing is right at the first place.
    """
    arrays = [SMALL[name] for name in ("scores", "labels", "seen")]
    part = measure(*arrays, (1, 2, 4), annotated=annotated_columns(*arrays[1:]))
    found = f1_at_k(part, ZSL, (1, 2, 4), annotated=True)
    assert found["F1@1"] == pytest.approx({"P": 1 / 3, "R": 1 / 3, "F1": 1 / 3})
    assert found["F1@2"] == pytest.approx({"P": 1 / 2, "R": 1, "F1": 2 / 3})
    assert np.isnan(list(found["F1@4"].values())).all()  # there are three of them
    assert f1_at_k(part, ZSL, (1,))["F1@1"] == {"P": 0, "R": 0, "F1": 0}


@pytest.mark.parametrize("case", CASES)
def test_the_f1_of_qks_is_that_of_the_annotated_columns_alone(case):
    scores, labels, seen = draw(**case)
    part = measured(scores, labels, seen)
    for position, label_set in enumerate(LABEL_SETS):
        inside = annotated_columns(labels, seen)[position]
        rows = with_positive(labels, columns_of(label_set, seen))
        chosen = [c for c in np.flatnonzero(columns_of(label_set, seen)) if labels[rows, c].any()]
        np.testing.assert_array_equal(np.flatnonzero(inside), chosen)
        alone = measure(scores[:, inside], labels[:, inside], np.zeros(inside.sum(), bool), TOPK)
        assert f1_at_k(part, label_set, TOPK, annotated=True) == f1_at_k(alone, ZSL, TOPK)


@pytest.mark.parametrize("strip", [1, 3])
def test_dense_in_narrow_strips_is_the_same(strip, monkeypatch):
    scores, labels, seen = draw(5, levels=3)
    thresholds = thresholds_of(measure(scores, labels, seen, TOPK), len(seen))
    whole = thresholds.count(scores)
    monkeypatch.setattr("c2srt.evaluation.dense.STRIP", strip)
    np.testing.assert_array_equal(thresholds.count(scores), whole)


def test_few_rows_at_a_time_leave_the_same_part(monkeypatch):
    scores, labels, seen = draw(5, levels=3)
    whole = measured(scores, labels, seen)
    monkeypatch.setattr("c2srt.evaluation.metric_state.SCORES_AT_ONCE", 30)
    for name, values in vars(measured(scores, labels, seen)).items():
        np.testing.assert_array_equal(values, getattr(whole, name))


def test_without_a_k_only_verified_scores_are_needed():
    scores, labels, seen = draw(5, levels=3)
    whole = measure(scores, labels, seen, TOPK)
    part = verified_state(np.where(labels == 0, np.nan, scores), labels, seen)
    assert part.hits.shape == part.annotated_hits.shape == (60, 2, 0)
    assert part.isr.shape == (0, 3)
    for name in ("category", "score", "positive", "verified", "positives"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name))
    with pytest.raises(UserError, match="must be finite"):
        measure(np.where(labels == 0, np.nan, scores), labels, seen, ())


def test_biam_legacy_in_small_chunks_is_the_same(monkeypatch):
    scores, labels, seen = draw(5, levels=3)
    part = measure(scores, labels, seen, TOPK)
    whole = biam_legacy(part, seen, GZSL)
    for size in (1, 50, 333):
        monkeypatch.setattr("c2srt.evaluation.protocols.FLATTENED_AT_ONCE", size)
        np.testing.assert_array_equal(biam_legacy(part, seen, GZSL), whole)


@pytest.mark.parametrize("levels", [None, 1, 2])
def test_expected_hits_is_the_mean_over_all_orders_of_ties(levels):
    scores, labels, _ = draw(6, images=40, categories=7, unseen=2, levels=levels)
    image, category = np.nonzero(labels == 1)
    hits = expected_hits(scores, best(scores, max(TOPK) + 1), image, scores[image, category], TOPK)
    for column, k in enumerate(TOPK):
        slow = [slow_expected_hits(s, y == 1, k) for s, y in zip(scores, labels, strict=True)]
        np.testing.assert_allclose(hits[:, column], slow, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "categories, count, levels",
    [(3000, 21, None), (3001, 11, 2), (1030, 4, 1), (700, 1, None), (97, 97, 3), (40, 21, None)],
)
def test_best_is_the_end_of_the_sorted_row(categories, count, levels, dtype):
    """Wide rows go by the bound of maxima, narrow ones are sorted; ties reach far beyond the
    best.
    """
    scores = np.random.default_rng(categories).normal(size=(9, categories)).astype(dtype)
    scores = np.round(scores * levels) / dtype(levels) if levels else scores
    scores[3] = 0.25
    scores[4, ::2] = -7
    np.testing.assert_array_equal(best(scores, count), np.sort(scores, 1)[:, -count:])
    assert best(scores[:0], count).shape == (0, count)


@pytest.mark.parametrize("levels", [None, 1])
def test_f1_of_many_categories_shares_ties_beyond_the_best(levels):
    """Seen and unseen categories mixed, and so many that only a bound is sorted."""
    random = np.random.default_rng(0)
    scores, labels = (
        random.normal(size=(30, 1500)).astype(np.float32),
        random.choice([-1, 0, 1], (30, 1500), p=[0.1, 0.8, 0.1]),
    )
    scores, seen = (
        np.round(scores * levels) / np.float32(levels) if levels else scores,
        random.random(1500) < 0.5,
    )
    hits = measure(scores, labels.astype(np.int8), seen, (3, 10)).hits
    for position, label_set in enumerate(LABEL_SETS):
        columns = columns_of(label_set, seen)
        for column, k in enumerate((3, 10)):
            inside, positive = scores[:, columns], labels[:, columns] == 1
            boundary = np.sort(inside, 1)[:, [-k]]
            above, tied = inside > boundary, inside == boundary
            expected = (above & positive).sum(1) + (k - above.sum(1)) * (tied & positive).sum(
                1
            ) / tied.sum(1)
            np.testing.assert_allclose(hits[:, position, column], expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.int8, bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize(
    "shape, often",
    [
        ((1, 1), 0.1),
        ((3, 5), 0.1),
        ((8, 16), 0.1),
        ((5, 1001), 0.1),
        ((8, 1300), 0),
        ((23, 1301), 0.001),
        ((300, 331), 0.02),
        ((300, 331), 1),
    ],
)
def test_nonzero_finds_what_numpy_finds(shape, often, dtype):
    """Short ones, words, and words of words (more than 8 · 8 · 1024 bytes), with and without a
    rest.
    """
    random, chances = np.random.default_rng(0), [1 - often, often / 2, often / 2]
    values = random.choice([0, 1, -1], (shape[0] + 1, shape[1]), p=chances).astype(dtype)
    for some in (values[1:], values[1:, ::-1]):
        np.testing.assert_array_equal(nonzero(some), np.flatnonzero(some))


def test_f1_is_micro_over_images_with_a_positive_and_named_when_over_all():
    scores, labels, seen = draw(7)
    part = measure(scores, labels, seen, TOPK)
    for label_set in LABEL_SETS:
        columns = columns_of(label_set, seen)
        rows = with_positive(labels, columns)
        for every_image in (False, True):
            chosen = np.ones_like(rows) if every_image else rows
            got = f1_at_k(part, label_set, TOPK, every_image)
            for k in TOPK:
                inside_scores, inside = scores[chosen][:, columns], labels[chosen][:, columns] == 1
                best = np.argsort(-inside_scores, 1)[:, :k]
                true_positives = np.take_along_axis(inside, best, 1).sum()
                precision, recall = (
                    true_positives / (chosen.sum() * k),
                    true_positives / inside.sum(),
                )
                f1 = 2 * precision * recall / (precision + recall)
                assert got[f"F1@{k}"] == pytest.approx({"P": precision, "R": recall, "F1": f1})
                assert k * precision / recall == pytest.approx(inside.sum() / chosen.sum())


@pytest.mark.parametrize("levels", [None, 1])
def test_any_split_and_order_of_images_gives_the_same_bits(levels):
    scores, labels, seen = draw(8, images=97, levels=levels)
    random = np.random.default_rng(0)

    def everything(parts, score_blocks):
        part = merge(parts)
        keys, thresholds = sorted_keys(part), thresholds_of(part, len(seen))
        at_least = sum(thresholds.count(block) for block in score_blocks)
        return [
            value
            for label_set in LABEL_SETS
            for value in (
                per_class(keys, seen, label_set).tobytes(),
                lesa(keys, seen, label_set).tobytes(),
                biam_legacy(part, seen, label_set).tobytes(),
                qks(keys, seen, label_set).tobytes(),
                dense(thresholds, at_least, seen, label_set).tobytes(),
                f1_at_k(part, label_set, TOPK),
                f1_at_k(part, label_set, TOPK, annotated=True),
            )
        ]

    whole = everything([measured(scores, labels, seen)], [scores])
    thresholds = thresholds_of(measure(scores, labels, seen, TOPK), len(seen))
    np.testing.assert_array_equal(
        thresholds.count(scores[:9], scores[9:]), thresholds.count(scores)
    )
    for ranks in (1, 2, 3, 7):
        blocks = np.array_split(random.permutation(len(scores)), ranks)
        annotated = np.any([annotated_columns(labels[b], seen) for b in blocks], 0)
        assert (
            everything(
                [measured(scores[b], labels[b], seen, annotated) for b in blocks],
                [scores[b] for b in blocks],
            )
            == whole
        )


@pytest.mark.parametrize("levels", [None, 1])
def test_order_of_columns_does_not_matter(levels):
    scores, labels, seen = draw(9, levels=levels)
    order = np.random.default_rng(1).permutation(len(seen))
    here, there = (
        measured(scores, labels, seen),
        measured(scores[:, order], labels[:, order], seen[order]),
    )
    for label_set in LABEL_SETS:
        for annotated in (False, True):
            assert f1_at_k(here, label_set, TOPK, annotated=annotated) == f1_at_k(
                there, label_set, TOPK, annotated=annotated
            )
        np.testing.assert_array_equal(
            per_class(sorted_keys(here), seen, label_set)[order],
            per_class(sorted_keys(there), seen[order], label_set),
        )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_best_first_reverses_the_order_and_keeps_ties(dtype):
    values = np.array(
        [0.0, -0.0, 1, -1, 1, 1e-7, -1e-7, 60000, -60000, np.finfo(dtype).tiny, 0.1], dtype
    )
    rank, values = best_first(values).astype(np.int64), values.astype(float)
    np.testing.assert_array_equal(
        np.sign(rank[:, None] - rank[None]), np.sign(values[None] - values[:, None])
    )


def test_float64_scores_are_not_rounded_to_float32():
    scores = np.array([[0.9], [0.9 + 1e-12], [0.5]])
    labels = np.array([[-1], [1], [1]], np.int8)
    part = measure(np.repeat(scores, 2, 1), np.repeat(labels, 2, 1), np.array([True, False]), (1,))
    np.testing.assert_allclose(
        per_class(sorted_keys(part), np.array([True, False]), ZSL)[1], 1 / 2 * 1 + 0.5 * (2 / 2)
    )


def test_known_values_by_hand():
    category = np.array([0, 0, 0, 0, 2])
    positive = np.array([1, 0, 1, 0, 0], np.uint8)
    scores = np.array([0.9, 0.8, 0.8, 0.1, 0.5], np.float32)
    got = average_precision(entry_keys(category, best_first(scores), positive), 3)
    np.testing.assert_allclose(got, [0.5 * 1 + 0.5 * 2 / 3, np.nan, np.nan])


def test_part_survives_the_disk(tmp_path):
    scores, labels, seen = draw(10)
    part = measure(scores, labels, seen, TOPK)
    part.save(tmp_path / "part.npz")
    again = load_state(tmp_path / "part.npz")
    assert sorted_keys(again).tobytes() == sorted_keys(part).tobytes() and again.images == 60


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            lambda s, y, m: (np.where(s == s[3, 4], np.nan, s), y, m),
            "score of image 3 for category 4 is nan",
        ),
        (lambda s, y, m: (np.where(s == s[3, 4], np.inf, s), y, m), "must be finite"),
        (lambda s, y, m: (s[:, 1:], y, m), "disagree"),
        (lambda s, y, m: (s, y, m[1:]), "disagree"),
        (lambda s, y, m: (s, y * 2, m), "labels are −1"),
        (lambda s, y, m: (s, np.where(y == 1, np.nan, y), m), "labels are −1"),
        (lambda s, y, m: (s, (y == 1) * np.uint8(255), m), "category .* is 255"),
        (lambda s, y, m: (s[:, :0], y[:, :0], m[:0]), "disagree"),
        (lambda s, y, m: (s, y, np.arange(14) > 0), "K = 2 does not fit the 1 categories of ZSL"),
    ],
)
def test_bad_batches_are_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        measure(*change(*draw(11)), TOPK)


def test_a_label_set_without_categories_has_no_hits():
    scores, labels, seen = draw(12)
    assert np.isnan(measure(scores, labels, np.ones_like(seen), TOPK).hits[:, 0]).all()


def test_empty_parts_merge():
    scores, labels, seen = draw(13)
    none = measure(scores[:0], labels[:0], seen, TOPK)
    assert merge([none, measure(scores, labels, seen, TOPK)]).images == 60
    assert (
        np.isnan(per_class(sorted_keys(none), seen, GZSL)).all()
        and np.isnan(biam_legacy(none, seen, GZSL)).all()
        and np.isnan(biam_legacy(none, seen, ZSL)).all()
        and np.isnan(qks(sorted_keys(none), seen, ZSL)).all()
        and not annotated_columns(labels[:0], seen).any()
    )
    thresholds = thresholds_of(none, len(seen))
    assert np.isnan(dense(thresholds, thresholds.count(scores), seen, GZSL)).all()
