"""Figures of categories, by their numbers and by what is drawn: relations, predictions, curves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from c2srt.backbone.ensemble import embed
from c2srt.figures import (
    attention,
    curves,
    graph,
    novel,
    predictions,
)
from c2srt.figures.draw.style import MARKS
from c2srt.figures.inputs import Inputs, Missing
from c2srt.figures.registry import FIGURES
from c2srt.figures.run import sources_of
from c2srt.model.literal import local_features
from c2srt.relations.neighbours import ABSENT
from c2srt.views import centre_pixels
from tests.figures_case import SEEN, C, check_picture, figures, inputs_of, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def inputs(world) -> Inputs:
    return inputs_of(world, "fixed=[1,3,16,64]")


# Figure 7
# --------------------------------------------------------------------------------------------------


def test_attention_is_what_pyg_returns_and_its_rows_sum_to_1(inputs):
    from torch_geometric.nn import GATv2Conv

    from c2srt.model.literal import edge_list, input_features

    model, network = inputs.ours.model, inputs.ours.graph
    head, conv = model.head, GATv2Conv(16, 4, 4, add_self_loops=False, bias=False)
    conv.load_state_dict(
        {
            "lin_l.weight": head.source[0],
            "lin_r.weight": head.target[0],
            "att": head.attention[0][None],
        }
    )
    sample = inputs.photos.read(2)
    features, global_ = (
        found[0] for found in model.tower(inputs.ours.pixels(centre_pixels(sample.image, 32)[None]))
    )
    image = (local_features(head, features, network.text)[0] + global_) / 2
    h, edges = (
        input_features(head, dict(head.named_parameters()), image, network.text),
        edge_list(head, network),
    )
    _, (_, expected) = conv(h, edges, return_attention_weights=True)
    alpha = attention.first_attention(head, features, global_, network).detach()
    table = torch.cat([torch.arange(C)[:, None], network.table], 1)
    torch.testing.assert_close(alpha[table >= 0], expected.detach(), atol=1e-5, rtol=1e-4)
    assert not alpha[table < 0].any() and (table < 0).any()
    torch.testing.assert_close(alpha.sum(1), torch.ones(C, 4))


def test_rows_are_unseen_categories_with_the_mean_over_their_images(inputs):
    found, ours = attention.numbers(inputs), inputs.ours
    names, (places, labels) = inputs.vocabulary.names, inputs.photos.candidates
    hears = [SEEN, SEEN + 2, SEEN + 3]
    assert sorted(row.name for row in found.rows) == sorted(names[column] for column in hears)
    assert [row.images for row in found.rows] == sorted(
        (row.images for row in found.rows), reverse=True
    )
    for row in found.rows:
        column = names.index(row.name)
        some = places[labels[:, column] == 1]
        alphas = []
        for place in some:
            features, global_ = ours.model.tower(
                ours.pixels(centre_pixels(inputs.photos.read(place).image, 32)[None])
            )
            alpha = attention.first_attention(ours.model.head, features[0], global_[0], ours.graph)
            alphas.append(alpha[column].mean(-1).detach())
        expected = dict(
            zip(
                [column, *ours.graph.table[column].tolist()],
                torch.stack(alphas).mean(0).tolist(),
                strict=True,
            )
        )
        expected.pop(-1, None)
        assert row.images == len(some) and row.itself == pytest.approx(
            expected.pop(column), abs=1e-5
        )
        assert dict(zip(row.neighbours, row.weights, strict=True)) == pytest.approx(
            {names[heard]: weight for heard, weight in expected.items()}, abs=1e-5
        )
        assert row.weights == sorted(row.weights, reverse=True) and sum(
            row.weights
        ) + row.itself == pytest.approx(1, abs=1e-5)


def test_more_than_five_neighbours_are_summed():
    row = attention.row_of(
        tuple("abcdefgh"),
        7,
        np.array([0.2, 0.05, 0.1, 0.3, 0.05, 0.15, 0.15]),
        [7, 0, 1, 2, 3, 4, 5],
        3,
    )
    assert row.neighbours == ["c", "e", "f", "b", "a"] and row.weights == [
        0.3,
        0.15,
        0.15,
        0.1,
        0.05,
    ]
    assert row.itself == 0.2 and row.others == pytest.approx(0.05) and row.images == 3


# Figures 8, 10 and 11
# --------------------------------------------------------------------------------------------------


def test_predictions_are_the_best_five_and_marked_by_their_labels(inputs):
    found = predictions.numbers(inputs)
    assert (
        len(found.photos) == predictions.PHOTOS
        and set(MARKS) == {1, -1, 0}
        and len({sign for sign, _ in MARKS.values()}) == 3
    )
    kinds = set()
    for image, models in found.best.items():
        sample = inputs.photos.read(inputs.photos.places_of([image])[0])
        assert list(models) == ["CLIP", "MKT", "C²SRT (ours)"]
        for viewer in inputs.viewers:
            scores, labels = (
                viewer.scores(centre_pixels(sample.image, 32)[None])[0],
                models[viewer.name],
            )
            assert [label.score for label in labels] == np.sort(scores)[::-1][:5].tolist()
            for label in labels:
                assert label.label == sample.labels[label.column] and label.novel == (
                    label.column >= SEEN
                )
                assert (
                    label.name == inputs.vocabulary.names[label.column]
                    and label.score == scores[label.column]
                )
                kinds.add((label.label, label.novel))
    assert len(kinds) == 6, (
        "right, wrong and not verified, seen and novel: all of them are met here"
    )


def test_words_that_the_data_set_has_not_are_ranked_among_its_unseen_categories(world, tmp_path):
    """Against the scores of each model for a graph of its own with the words behind."""
    inputs = inputs_of(world, "words=['tuk  tuk','rain jacket','tuk tuk']")
    found, words = novel.numbers(inputs), ["tuk tuk", "rain jacket"]
    candidates = [*inputs.vocabulary.names[SEEN:], *words]
    placed = set()
    for image, models in found.best.items():
        sample = inputs.photos.read(inputs.photos.places_of([image])[0])
        assert list(models) == ["CLIP", "MKT", "C²SRT (ours)"]
        pixels = centre_pixels(sample.image, 32)[None]
        for viewer in inputs.viewers:
            if viewer.name == "CLIP":
                text = torch.cat([viewer.text[SEEN:], embed(viewer.clip, words, ["a {}."])])
                feature = viewer.images.global_features(pixels)
                scores = (feature / feature.norm(dim=-1) @ text.T)[0].detach().numpy()
            else:
                graph, columns = viewer.exported.graph_for(candidates)
                scores = viewer.exported.scores(pixels, graph)[0][0, columns].detach().numpy()
            best = models[viewer.name]
            order = np.argsort(-scores, kind="stable")[:5]
            assert [label.name for label in best] == [candidates[place] for place in order]
            np.testing.assert_allclose([label.score for label in best], scores[order], atol=1e-5)
            for label in best:
                assert label.novel == (label.name in words)
                known = 0 if label.novel else sample.labels[SEEN + label.column]
                assert label.label == known
                placed |= {label.novel}
    assert placed == {True, False}
    asked = ("figures=[novel]", "words=[tuk tuk,rain jacket]")
    assert figures(world, tmp_path, *asked) == 0
    check_picture(tmp_path / "novel.png")
    assert json.loads((tmp_path / "novel.json").read_text())["made_from"]["words"] == words


@pytest.mark.parametrize(
    "given, sentence",
    [
        ([], "words that the data set does not have are yours to name: 'words=[…]'"),
        (["words=[tuk tuk,Thing 3]"], "Thing 3 is a category of the data set"),
        (["words=[]"], "needs at least one word"),
        (["words=[' ']"], "none that is empty"),
    ],
)
def test_words_that_are_none_get_one_sentence(world, tmp_path, capsys, given, sentence):
    assert figures(world, tmp_path, "figures=[novel]", *given) == 2
    assert sentence in capsys.readouterr().err


def test_graphs_are_those_on_disk(world, inputs):
    found = graph.numbers(inputs)
    tables = {
        kind: np.load(world / "relations" / kind / "neighbours.npy")
        for kind in ("similarity", "random")
    }
    assert found.column == np.bincount(tables["similarity"].ravel()).argmax()
    names = inputs.vocabulary.names
    assert found.record()["neighbours"] == {
        kind: [names[heard] for heard in table[found.column] if heard != ABSENT]
        for kind, table in tables.items()
    }
    assert graph.numbers(inputs_of(world, "categories=[/m/13]")).column == 13


# Figures 4, 5 and 9
# --------------------------------------------------------------------------------------------------


def table_of(values) -> dict:
    """A sweep as `c2srt tables` writes it; values {x: [fraction of each trial]}."""

    def of(value):
        return {
            f"{label_set}/{name}": value * share
            for label_set, share in (("zsl", 1.0), ("gzsl", 0.5))
            for name in ("mAP/per_class", "mAP/lesa", "F1@10/F1", "F1@3/F1", "F1@3/P")
        }

    rows = [
        {
            "name": f"x = {x}",
            "x": x,
            "trials": [
                {"clip": 0, "seed": seed, "values": of(value)} for seed, value in enumerate(trials)
            ],
        }
        for x, trials in values.items()
    ]
    return {
        "table": "neighbours",
        "caption": "",
        "axis": "K",
        "rows": [{"name": "prior only", "x": None, "trials": []}, *rows],
    }


def test_curves_are_the_tables_trials(world, tmp_path):
    for name in ("neighbours", "threshold", "distillation"):
        (tmp_path / f"{name}.json").write_text(
            json.dumps(table_of({4: [0.5, 0.7], 1: [0.3], 0: [0.2, 0.1]}))
        )
    found = curves.numbers(inputs_of(world, f"tables_folder={tmp_path}"), "threshold")
    assert (
        found.x == [0, 1, 4]
        and list(found.values["zsl"]) == ["mAP", "F1@3", "F1@10"]
        and "α" in found.axis
    )
    assert found.values["zsl"]["mAP"] == [[0.2, 0.1], [0.3], [0.5, 0.7]]
    assert found.values["gzsl"]["F1@3"] == [[0.1, 0.05], [0.15], [0.25, 0.35]]
    assert figures(world, tmp_path / "out", "figures=[curves]", f"tables_folder={tmp_path}") == 0
    for name in ("neighbours", "threshold", "distillation"):
        check_picture(tmp_path / f"out/curves-{name}.png")


def test_a_table_of_one_value_is_no_curve_yet(world, tmp_path, capsys):
    """As `tables train=false` leaves it: what is named is asked for, and by default it is left
    out.
    """
    (tmp_path / "neighbours.json").write_text(json.dumps(table_of({1: [0.2]})))
    with pytest.raises(Missing, match="holds 1 values of x: a curve needs two"):
        curves.made_from(inputs_of(world, f"tables_folder={tmp_path}"), "neighbours")
    assert sources_of(FIGURES["curves"][0], inputs_of(world, f"tables_folder={tmp_path}")) is None
    assert "curves-neighbours: left out, " in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("{", "is not valid JSON"),
        ("{}", "is not a table (KeyError"),
        (json.dumps(table_of({1: [0.2]})), "holds 1 values of x: a curve needs two"),
        (
            json.dumps(table_of({1: [0.2], 2: [0.3]}) | {"rows": [{"x": 1, "trials": [3]}] * 2}),
            "is not a table (TypeError",
        ),
    ],
)
def test_what_is_no_table_is_refused(world, tmp_path, capsys, content, sentence):
    for name in ("neighbours", "threshold", "distillation"):
        (tmp_path / f"{name}.json").write_text(content)
    assert figures(world, tmp_path / "out", "figures=[curves]", f"tables_folder={tmp_path}") == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "out").exists()
