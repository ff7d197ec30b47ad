"""Figures of patches, by their numbers: maps, the patches that ISR takes, fixed numbers of them."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from c2srt.errors import UserError
from c2srt.figures import (
    ap_change,
    cam,
    patch_counts,
    patches,
)
from c2srt.figures.inputs import Inputs
from c2srt.figures.viewers import ranks_of
from c2srt.model.literal import image_scores, local_features
from c2srt.views import centre_pixels
from tests.figures_case import IMAGES, SEEN, UNSEEN, C, everything, figures, inputs_of, make_world
from tests.test_metrics import slow_per_class


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def inputs(world) -> Inputs:
    return inputs_of(world, "fixed=[1,3,16,64]")


# Table 2
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, name", enumerate(("CLIP", "MKT", "C²SRT (ours)")))
def test_a_map_is_grad_cam_s_formula_and_differs_between_categories(inputs, number, name):
    viewer, image = inputs.viewers[number], centre_pixels(inputs.photos.read(3).image, 32)
    assert viewer.name == name
    maps = [cam.class_activation(viewer, image, column) for column in range(C)]
    assert all(
        found.shape == (4, 4) and found.dtype == np.float32 and (found >= 0).all() for found in maps
    )
    for column in (0, SEEN):
        kept = []
        block = viewer.tower.blocks[1]
        hook = block.register_forward_hook(
            lambda *call, kept=kept: kept.append(call[2]) or call[2].retain_grad()
        )
        viewer.score_of(viewer.pixels(image[None]).requires_grad_(), column).sum().backward()
        hook.remove()
        tokens, gradient = kept[0][0, 1:], kept[0].grad[0, 1:]
        expected = F.relu((tokens * gradient.mean(0)).sum(-1)).view(4, 4).detach().numpy()
        np.testing.assert_allclose(maps[column], expected, atol=1e-6 * expected.max() + 1e-9)
    distinct = {found.tobytes() for found in maps if found.any()}
    assert len(distinct) > C // 2 and len(distinct) == sum(found.any() for found in maps)


@pytest.mark.parametrize("number", range(3))
def test_the_score_that_is_differentiated_is_the_models(inputs, number):
    viewer, images = (
        inputs.viewers[number],
        torch.stack([centre_pixels(inputs.photos.read(place).image, 32) for place in (0, 1)]),
    )
    scores = viewer.scores(images)
    for column in range(C):
        np.testing.assert_allclose(
            viewer.score_of(viewer.pixels(images), column).detach().numpy(),
            scores[:, column],
            atol=2e-5,
        )


def test_maps_are_of_the_present_and_the_absent_category_that_the_models_rank_best(inputs):
    found, shown = cam.numbers(inputs), set()
    assert len(found.rows) == cam.PHOTOS
    for row in found.rows:
        (place,) = inputs.photos.places_of([row.image])
        sample = inputs.photos.read(place)
        ranks = sum(
            ranks_of(viewer.scores(centre_pixels(sample.image, 32)[None])[0])
            for viewer in inputs.viewers
        )
        assert row.labels == [1, -1] == sample.labels[row.columns].tolist()
        for label, column in zip((1, -1), row.columns, strict=True):
            able = [other for other in np.flatnonzero(sample.labels == label) if other not in shown]
            assert column in able and ranks[column] == min(ranks[able])
        shown |= set(row.columns)
        assert set(row.maps) == {"CLIP", "MKT", "C²SRT (ours)"} and all(
            len(maps) == 2 for maps in row.maps.values()
        )
        assert row.photo.shape == (48, 48, 3)
    record = found.record()["rows"][0]["maps"]["MKT"][1]
    np.testing.assert_array_equal(np.array(record, np.float32), found.rows[0].maps["MKT"][1])


def test_named_images_and_categories_are_shown(world):
    chosen = inputs_of(world)
    ids = [chosen.photos.read(place).id for place in (5, 20)]
    named = inputs_of(world, f"images=[{','.join(ids)}]", "categories=[/m/13,'Thing 2']")
    assert [(row.image, row.columns) for row in cam.numbers(named).rows] == [
        (name, [13, 2]) for name in ids
    ]
    shown = patches.numbers(named)
    assert list(shown.photos) == ids and [choice.column for choice in shown.choices[ids[0]]] == [
        13,
        2,
    ]
    assert [choice.unseen for choice in shown.choices[ids[0]]] == [True, False]


# Patches
# --------------------------------------------------------------------------------------------------


def test_the_patches_drawn_are_those_of_algorithm_1(inputs):
    shown, model = patches.numbers(inputs), inputs.ours.model
    assert len(shown.photos) == patches.PHOTOS and shown.categories == C
    for image, choices in shown.choices.items():
        sample = inputs.photos.read(inputs.photos.places_of([image])[0])
        features, _ = model.tower(inputs.ours.pixels(centre_pixels(sample.image, 32)[None]))
        local, counts = local_features(model.head, features[0], inputs.ours.graph.text)
        scores = model.scores(centre_pixels(sample.image, 32)[None])[0][0]
        for choice in choices:
            taken = torch.from_numpy(choice.taken.ravel())
            assert int(taken.sum()) == counts[choice.column] <= 6
            torch.testing.assert_close(
                features[0, taken].mean(0), local[choice.column], atol=1e-5, rtol=1e-5
            )
            assert choice.softmax.sum() == pytest.approx(1, abs=1e-5)
            assert choice.softmax[choice.taken].min() >= choice.softmax[~choice.taken].max()
            assert choice.label == sample.labels[choice.column] and choice.unseen == (
                choice.column >= SEEN
            )
            assert choice.rank == 1 + int((scores > scores[choice.column]).sum())
    record = shown.record()[image][0]
    assert record["patches"] == np.flatnonzero(choices[0].taken).tolist() and len(
        record["softmax"]
    ) == len(record["patches"])


# Figure 6
# --------------------------------------------------------------------------------------------------


def test_a_fixed_number_of_patches_is_scored_as_the_literal_head_does(inputs):
    """AP a category and k against a loop over images that pools exactly the k best patches; a k
    that does not fit is left out.
    """
    counts, model = patch_counts.numbers(inputs), inputs.ours.model
    assert counts.tried == [1, 3, 16] and counts.images == IMAGES and counts.ap.shape == (3, C)
    images, labels = everything(inputs.work, inputs.vocabulary)
    features, global_ = model.tower(inputs.ours.pixels(images))
    for row, k in enumerate(counts.tried):
        head = patch_counts.fixed(model.head, k)
        found = [
            image_scores(head, dict(head.named_parameters()), *image, inputs.ours.graph)
            for image in zip(features, global_, strict=True)
        ]
        assert all((taken == k).all() for _, taken in found)
        scores = torch.stack([score for score, _ in found]).detach().numpy()
        np.testing.assert_allclose(
            counts.ap[row], slow_per_class(scores, labels, np.ones(C, bool)), atol=1e-2
        )
    scores, taken = model.scores(images)
    np.testing.assert_allclose(
        counts.adaptive, slow_per_class(scores.numpy(), labels, np.ones(C, bool)), atol=1e-2
    )
    expected = [
        taken[torch.from_numpy(labels[:, column] == 1), column].double().mean().item()
        for column in range(C)
    ]
    np.testing.assert_allclose(counts.taken, expected)
    assert model.config.max_patches == 6 and model.config.threshold == 0.5, (
        "the model itself stays as it was"
    )
    assert (
        counts.positives.tolist() == (labels == 1).sum(0).tolist()
        and counts.seen.tolist() == [True] * SEEN + [False] * UNSEEN
    )


def test_an_interrupted_count_goes_on_and_comes_out_the_same(world, tmp_path, monkeypatch, capsys):
    done, real = [], patch_counts.count

    def stops_after_three(inputs, heads, places, progress):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(len(places))
        return real(inputs, heads, places, progress)

    monkeypatch.setattr(patch_counts, "PIECE_IMAGES", 5)
    monkeypatch.setattr(patch_counts, "count", stops_after_three)
    asked = ("figures=[isr]", "fixed=[1,3]")
    assert figures(world, tmp_path, *asked) == 130
    assert len(list(tmp_path.glob("isr-patches-pieces-*/*.npz"))) == 3
    done.clear()
    assert figures(world, tmp_path, *asked) == 0
    assert done == [
        8,
        5,
    ], "37 images in pieces of a whole batch, 8: the first three are not counted again"
    assert not list(tmp_path.glob("isr-patches-pieces-*"))
    monkeypatch.undo()
    left = (
        tmp_path / "isr-patches-pieces-0123456789abcdef"
    )  # as of a run killed behind its record, and one figure still to be drawn
    left.mkdir()
    (tmp_path / "isr-ap.json").unlink()
    assert (
        figures(world, tmp_path, *asked) == 0
        and not left.exists()
        and (tmp_path / "isr-ap.json").exists()
    )
    assert figures(world, tmp_path / "whole", *asked) == 0
    parts, whole = (
        json.loads((folder / "isr-patches.json").read_text())["numbers"]
        for folder in (tmp_path, tmp_path / "whole")
    )
    assert parts["mAP"] == pytest.approx(whole["mAP"]) and parts["mean_patches"] == pytest.approx(
        whole["mean_patches"]
    )


def slow_f1(scores, labels, k: int) -> tuple[np.ndarray, float]:
    """F1 [C] of each category among the k best of the images with a positive, and micro."""
    hits, named, present = (np.zeros(labels.shape[1]) for _ in range(3))
    for image, truth in zip(scores, labels, strict=True):
        if (truth == 1).any():
            chosen = np.argsort(-image, kind="stable")[:k]
            named[chosen] += 1
            hits[chosen] += truth[chosen] == 1
            present += truth == 1
    with np.errstate(invalid="ignore"):
        of_each = np.where(present > 0, 2 * hits / (named + present), np.nan)
    return of_each, 2 * hits.sum() / (named.sum() + present.sum())


def test_the_best_k_by_f1_is_that_of_each_category_among_the_best_labels(inputs):
    counts, model = patch_counts.numbers(inputs), inputs.ours.model
    images, labels = everything(inputs.work, inputs.vocabulary)
    patches, global_ = model.tower(inputs.ours.pixels(images))
    heads = [model.head, *(patch_counts.fixed(model.head, k) for k in counts.tried)]
    tiling = model.tiling(len(images), inputs.ours.graph, patches)
    with torch.no_grad():
        scores = [
            head.scores(patches, global_, inputs.ours.graph, tiling)[0].numpy() for head in heads
        ]
    assert counts.topk == inputs.config.topk[0] == 3
    found = [slow_f1(some, labels, 3) for some in scores]
    np.testing.assert_allclose(counts.micro, [micro for _, micro in found], atol=1e-6)
    f1 = np.stack([of_each for of_each, _ in found[1:]])
    expected = patch_counts.best_of(f1, counts.tried, counts.positives)
    assert counts.best_f1.tolist() == expected.tolist() and len(set(expected)) > 2
    assert counts.best_f1.tolist() != counts.best.tolist()
    record = counts.record()
    assert record["K"] == 3 and record["adaptive_F1"] == pytest.approx(found[0][1], abs=1e-6)


def test_ties_at_the_last_place_share_it():
    scores = np.array([[3.0, 2, 2, 2, 1], [1, 1, 1, 1, 1], [5, 4, 3, 2, 1]])
    expected = [[1, 1 / 3, 1 / 3, 1 / 3, 0], [0.4] * 5, [1, 1, 0, 0, 0]]
    np.testing.assert_allclose(patch_counts.in_best(scores, 2), expected)


def test_the_best_k_is_the_smallest_of_equals_and_chance_is_left_out():
    ap = np.array(
        [[0.5, 0.9, 0.2, np.nan, 0.7], [0.6, 0.9, 0.2, np.nan, 0.1], [0.6, 0.8, 0.2, np.nan, 0.1]]
    )
    assert patch_counts.best_of(ap, [1, 4, 16], np.array([5, 9, 9, 0, 4])).tolist() == [
        4,
        1,
        0,
        0,
        0,
    ]


def test_a_part_of_the_images_is_enough(world):
    few = inputs_of(world, "fixed=[2]", "statistics=9")
    counts = patch_counts.numbers(few)
    labels = np.stack([few.photos.read(place).labels for place in few.photos.some(9)])
    assert counts.images == 9 and counts.positives.tolist() == (labels == 1).sum(0).tolist()


def test_the_change_of_ap_is_the_difference_of_the_two_tables(inputs):
    found = ap_change.numbers(inputs)
    tables = [
        pl.read_csv(inputs.work / run / "seed-0/evaluation/per_category.csv")
        for run in ("full", "ist")
    ]
    expected = tables[0]["gzsl_per_class"].to_numpy() - tables[1]["gzsl_per_class"].to_numpy()
    np.testing.assert_allclose(found.change, expected)
    assert (
        np.abs(expected).max() > 0.01
        and found.mids == tables[0]["mid"].to_list()
        and found.seen.sum() == SEEN
    )
    assert [row["change"] for row in found.record()["categories"]] == pytest.approx(
        expected.tolist()
    )


def test_categories_without_an_ap_in_both_are_left_out():
    columns = {"mid": ["a", "b", "c"], "name": ["A", "B", "C"], "seen": [True, True, False]}
    one, other = (
        pl.DataFrame({**columns, "gzsl_per_class": values})
        for values in ([0.5, None, 0.25], [0.75, 1.0, None])
    )
    found = ap_change.joined(one, other)
    assert found.mids == ["a"] and found.change.tolist() == [0.25]
    with pytest.raises(UserError, match="no category has an AP in both"):
        ap_change.joined(one, other.with_columns(gzsl_per_class=None))
