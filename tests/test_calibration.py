"""Calibration: the fit meets its conditions and finds what labels were drawn from, its figures are
those of the long way round, and the export carries it into predictions.
"""

import json
import math
from contextlib import suppress
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import c2srt
from c2srt.calibration.config import Config
from c2srt.calibration.counts import Counts, count
from c2srt.calibration.fit import (
    best_threshold,
    calibrate,
    expected_threshold,
    fit,
    probabilities,
)
from c2srt.calibration.job import run
from c2srt.calibration.measured import Named, calibration_error, measure
from c2srt.calibration.per_category import Tally
from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.export.read import load_export
from c2srt.export.write import save_export
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.network import C2SRT
from c2srt.predict.config import Config as PredictConfig
from c2srt.tune import run as tune
from c2srt.tune_config import Config as TuneConfig
from tests.shard_folder import make_shards, make_vocabulary
from tests.tiny import random_graph, tiny_clip

SEEN, UNSEEN, SLOPE = 12, 4, 0.7


def drawn(seed: int, images: int = 600) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches whose labels follow SLOPE · score + an offset of each category, around −2."""
    random = np.random.default_rng(seed)
    offset = np.random.default_rng(7).normal(-2, 0.8, SEEN + UNSEEN)
    batches = []
    for _ in range(images // 50):
        scores = random.normal(1, 3, (50, SEEN + UNSEEN))
        chance = 1 / (1 + np.exp(-(SLOPE * scores + offset)))
        batches.append((scores, np.where(random.random(chance.shape) < chance, 1, -1)))
    return batches


def test_counts_are_of_every_label_at_the_level_of_its_score():
    scores = np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    labels = np.array([[1, 0, -1], [1, -1, 0]])
    for unverified_absent, absent in ((True, [0, 2, 2]), (False, [0, 1, 1])):
        counts = count([(scores, labels)], unverified_absent)
        assert counts.present.sum(1).tolist() == [2, 0, 0]
        assert counts.absent.sum(1).tolist() == absent
        assert counts.images.sum(1).tolist() == [2, 2, 2]
        near = counts.score[counts.present[0] > 0]
        assert near == pytest.approx([0, 2], abs=counts.score[1] - counts.score[0])
    beyond = count([(scores, labels), (scores * 100, labels)], True)  # 1,024 images are not there
    assert beyond.present.sum() == 4


def test_a_score_beyond_the_sample_is_counted_at_the_outermost_level():
    plain = np.random.default_rng(0).normal(size=(1024, 2))
    counts = count([(plain, np.ones_like(plain)), (np.full((3, 2), 1e6), np.ones((3, 2)))], True)
    assert counts.present.sum() == 2 * 1027 and (counts.present[:, -1] >= 3).all()


def test_the_fit_meets_the_conditions_of_its_optimum():
    counts = count(drawn(0), False).of(slice(SEEN))
    at = (counts.score - 1) / 3
    found = fit(at, counts)
    here = counts.present + counts.absent
    error = here * probabilities(at, np.full(SEEN, found.slope), found.offset) - counts.present
    assert (error * at).sum() == pytest.approx(0, abs=1e-4)
    pulled = (found.offset - found.mean) / found.variance
    assert error.sum(1) + pulled == pytest.approx(np.zeros(SEEN), abs=1e-4)


def test_what_labels_were_drawn_from_is_found_and_an_unseen_category_is_less_sure():
    found = calibrate(count(drawn(0, 4000), False), SEEN)
    offset = np.random.default_rng(7).normal(-2, 0.8, SEEN + UNSEEN)[:SEEN]
    assert found.slope[:SEEN].numpy() == pytest.approx(np.full(SEEN, SLOPE), rel=0.05)
    assert found.offset[:SEEN].numpy() == pytest.approx(offset, abs=0.25)
    assert found.slope[SEEN:].tolist() == [found.new[0].item()] * UNSEEN
    assert 0.8 * SLOPE < found.new[0] < 0.97 * SLOPE  # √(1 + π · 0.8² / 8) is 1.12
    scores = torch.tensor([[4.0] * (SEEN + UNSEEN + 2)])
    chance = found(scores)[0]
    assert chance[0] == pytest.approx(1 / (1 + math.exp(-(4 * SLOPE + offset[0]))), abs=0.04)
    assert chance[-1] == chance[SEEN] == torch.sigmoid(4 * found.new[0] + found.new[1])


def test_a_category_with_few_labels_lies_near_the_others():
    """Three labels, all present, of one category; the rest have 600 each."""
    batches = drawn(0)
    for number, (_, labels) in enumerate(batches):
        labels[:, 0] = 0
        labels[:3, 0] = 1 if number == 0 else 0
    found = calibrate(count(batches, False), SEEN)
    others = found.offset[1:SEEN]
    assert others.min() < found.offset[0] < others.max() + 1


def test_the_error_is_halved_on_other_images_and_the_threshold_keeps_up_with_the_best_k():
    batches = drawn(0)
    calibration, tally = calibrate(count(batches, False), SEEN), Tally(SEEN + UNSEEN)
    found = measure(drawn(1), calibration, SEEN, False, 0, tally)
    assert set(found) == {"all", "seen", "unseen"}
    assert found["seen"]["ECE"]["after"] < 0.5 * found["seen"]["ECE"]["before"]
    assert found["seen"]["ECE"]["after"] < 0.02
    for group in ("seen", "unseen"):
        difference, low, high = found[group]["F1"]["difference"]
        assert low <= difference <= high and low > 0  # images differ in how much they show
    assert tally.present[:SEEN].sum() == found["seen"]["present"]
    right, both = tally.right.sum(), tally.right.sum() * 2 + tally.wrong.sum() + tally.missed.sum()
    assert found["all"]["F1"]["threshold"] == pytest.approx(2 * right / both)


def test_calibration_error_by_hand():
    """Two bins: 10 at 0.1 of which 3 are present; 10 at 0.9, 9 present."""
    counts = Counts(
        np.array([0.0, 1]), np.array([[3, 9]]), np.array([[7, 1]]), np.array([[10, 10]])
    )
    assert calibration_error(counts, np.array([[0.1, 0.9]])) == pytest.approx(0.1)


def test_the_threshold_is_the_best_of_all():
    (scores, labels), *_ = drawn(3)
    counts = count([(scores, labels)], False).of(slice(SEEN))
    chance = probabilities(counts.score, np.full(SEEN, SLOPE), np.full(SEEN, -2.0))

    def f1(threshold: float) -> float:
        hits, wrong = (each[chance >= threshold].sum() for each in (counts.present, counts.absent))
        return 2 * hits / (hits + wrong + counts.present.sum())

    best = max(f1(each) for each in np.unique(chance))
    found = best_threshold(counts.present, counts.absent, chance)
    assert f1(found) == pytest.approx(best)


def test_without_labels_the_threshold_is_half_the_f1_that_is_expected():
    images = np.array([[50, 30, 15, 5]])
    at = np.array([-4.0, -2.0, 0.0, 2.0])
    found = expected_threshold(images, at, 1.0, 0.0)
    chance = probabilities(at, np.ones(1), np.zeros(1))
    named = images * (chance >= found)
    expected = 2 * (named * chance).sum() / (named.sum() + (images * chance).sum())
    assert chance[chance < found].max() < expected / 2 < chance[chance >= found].min()


@pytest.mark.parametrize("every", [True, False])
def test_f1_is_that_of_the_long_way_round(every):
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=(40, 6)), random.integers(-1, 2, (40, 6))
    group = Named(slice(1, 5), (1, 2, 3))
    for rows in (slice(15), slice(15, 40)):
        group.add(scores[rows], labels[rows], scores[rows] > 0.5, every)
    found = group.f1(0)

    def f1(named: np.ndarray) -> float:
        counted = named & (every | (labels[:, 1:5] != 0))
        hits = (counted & (labels[:, 1:5] > 0)).sum()
        return 2 * hits / (counted.sum() + (labels[:, 1:5] > 0).sum())

    rank = (-scores[:, 1:5]).argsort(1).argsort(1)
    best = {k: f1(rank < k) for k in (1, 2, 3)}
    assert found["threshold"] == pytest.approx(f1(scores[:, 1:5] > 0.5))
    assert found["best K"] == pytest.approx(max(best.values()))
    assert best[found["K"]] == max(best.values())


@pytest.mark.parametrize("label", [0, 1, -1])
def test_labels_of_one_kind_calibrate_nothing(label):
    scores = np.random.default_rng(0).normal(size=(8, SEEN))
    with pytest.raises(UserError, match="needs both"):
        calibrate(count([(scores, np.full(scores.shape, label))], False), SEEN)


def test_scores_that_fall_as_labels_rise_are_refused():
    with pytest.raises(UserError, match="say nothing of their presence"):
        calibrate(count([(-scores, labels) for scores, labels in drawn(0)], False), SEEN)


# --- in an export


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Shards, and the first of some models, none of them trained, whose scores do not fall as the
    labels rise.
    """
    folder = tmp_path_factory.mktemp("calibration")
    vocabulary, clip = make_vocabulary(8, 3), tiny_clip(folder)
    make_shards(folder / "shards", {"train": 4, "validation": 30, "test": 20}, 10, vocabulary)
    config = ModelConfig(heads=4, neighbours=3, isr=False, ist=False)
    for seed in range(10):
        torch.manual_seed(seed)
        model = C2SRT(clip, config, LossConfig(), random_graph(11, 8, clip.width, 3), 8)
        state, templates = model.state_dict(), ["{}"]
        save_export(folder / "model", model, state, clip, vocabulary, templates, {"config": {}})
        with suppress(UserError):
            run(settings(folder))
            return folder
    raise AssertionError("ten models rank the wrong way round")


@pytest.fixture(scope="module")
def made(work):
    return work / "out"


def settings(work, **changes) -> Config:
    config = Config(
        str(work / "model"), str(work / "shards"), str(work / "out"), loader_workers=0, batch=7
    )
    return replace(config, **changes)


def test_the_export_predicts_probabilities_and_says_when_nothing_is_there(work, made):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    plain, calibrated = c2srt.load(work / "model"), c2srt.load(made / "model")
    calibration = load_export(made / "model").calibration
    raw = dict(plain.predict(photo, topk=None)[0].labels)
    assert (
        dict(c2srt.load(made / "model", score="cosine").predict(photo, topk=None)[0].labels) == raw
    )
    found = dict(calibrated.predict(photo, topk=None)[0].labels)
    for column, name in enumerate(load_export(made / "model").vocabulary.titles):
        logit = calibration.slope[column] * raw[name] + calibration.offset[column]
        assert found[name] == pytest.approx(torch.sigmoid(logit).item(), abs=1e-5)
    word = dict(calibrated.predict(photo, ["a word"], topk=None)[0].labels)["a word"]
    score = dict(plain.predict(photo, ["a word"], topk=None)[0].labels)["a word"]
    logit = calibration.new[0] * score + calibration.new[1]
    assert word == pytest.approx(torch.sigmoid(logit).item(), abs=1e-5)
    named = calibrated.predict(photo, topk=None, threshold="auto")[0].labels
    titles = load_export(made / "model").vocabulary.titles
    least = dict(zip(titles, calibration.threshold, strict=True))
    assert dict(named) == {name: p for name, p in found.items() if p >= least[name]}
    of_word = calibrated.predict(photo, ["a word"], threshold="auto")[0].labels
    assert bool(of_word) == (word >= calibration.new[2])
    for wrong in ({"threshold": "auto"}, {"threshold": "auto", "labels": ["a word"]}):
        with pytest.raises(UserError, match="c2srt calibrate"):
            plain.predict(photo, **wrong)
    with pytest.raises(UserError, match="no probabilities"):
        c2srt.load(work / "model", score="probability")


def test_again_it_does_nothing_and_another_rule_makes_it_anew(work, made, caplog):
    stamp = (made / "model/model.safetensors").stat().st_mtime_ns
    caplog.set_level("INFO")
    run(settings(work, batch=5))
    assert "is up to date" in caplog.text
    assert (made / "model/model.safetensors").stat().st_mtime_ns == stamp
    record = json.loads((made / "calibration.json").read_text())
    assert record["measured"]["seen"]["present"] > 0
    table = pl.read_csv(made / "per_category.csv")
    assert table.filter("seen")["positives"].sum() == record["measured"]["seen"]["present"]
    pairs = pl.read_csv(made / "confusions.csv")
    assert (pairs["images"] <= pairs["missed"]).all() and len(pairs)


def test_what_would_change_its_scores_is_refused(work, made):
    with pytest.raises(UserError, match="calibrate the new one"):
        tune(TuneConfig(str(made / "model"), str(work / "shards"), str(work / "tuned"), steps=1))
    with pytest.raises(UserError, match="calibrate the new one"):
        load_export(made / "model").refuse_calibrated("x")


@pytest.mark.parametrize("wrong", ["shape", "number", "name"])
def test_a_damaged_calibration_is_refused(made, tmp_path, wrong):
    tensors = load_file(made / "model/model.safetensors")
    if wrong == "shape":
        tensors["calibration.slope"] = tensors["calibration.slope"][:-1].clone()
    elif wrong == "number":
        tensors["calibration.offset"][0] = float("inf")
    else:
        del tensors["calibration.new"]
    (tmp_path / "config.json").write_bytes((made / "model/config.json").read_bytes())
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="holds a calibration"):
        load_export(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"threshold": "often"}, {"threshold": True}, {"score": "logit"}]
    + [{"score": "cosine", "threshold": "auto"}],
)
def test_wrong_settings_of_predict_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        PredictConfig("model", ["a.jpg"], **wrong)


def test_by_the_commands(work, made, tmp_path, capsys):
    Image.new("RGB", (40, 40), "grey").save(tmp_path / "a b.png")
    keys = [f"checkpoint={made / 'model'}", f"images={tmp_path / 'a b.png'}", "workers=1"]
    assert main(["predict", *keys, "labels=[a word]", "threshold=0.999999"]) == 0
    assert "none of these" in capsys.readouterr().out
    assert main(["predict", *keys, "threshold=auto", "json=true"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(0 < one["score"] < 1 for one in row["labels"])
    same = ["split=validation", "measured=validation"]
    out = f"out={tmp_path / 'out'}"
    assert main(["calibrate", f"checkpoint={work / 'model'}", out, *same]) == 2
    assert "is what it is fitted on" in capsys.readouterr().err
