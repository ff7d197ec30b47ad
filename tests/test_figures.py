"""`c2srt figures`: the numbers behind each figure against slow or hand-made ones, its files, bad
input. Tiny, real models.
"""

import json
import shlex
import shutil
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from c2srt.backbone.clip import load_clip
from c2srt.compose import to_config
from c2srt.errors import UserError
from c2srt.evaluation.part import measure
from c2srt.evaluation.results import Task, evaluate_part, write_results
from c2srt.export.read import load_export
from c2srt.export.write import save_export
from c2srt.figures import (
    ap_change,
    attention,
    cam,
    curves,
    graph,
    patch_counts,
    patches,
    predictions,
)
from c2srt.figures.config import Config
from c2srt.figures.draw import style
from c2srt.figures.draw.style import MARKS, save as save_figure
from c2srt.figures.inputs import Inputs, Missing
from c2srt.figures.photos import Photos
from c2srt.figures.registry import FIGURES
from c2srt.figures.run import sources_of
from c2srt.figures.viewers import ranks_of, subgraph
from c2srt.files import sha256_of_file, write_json
from c2srt.loader import LoaderConfig, evaluation_batches
from c2srt.model.build import build_student
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.graph import Graph
from c2srt.model.literal import image_scores, local_features
from c2srt.relations.neighbours import ABSENT
from c2srt.relations.table import PROVENANCE, TABLE
from c2srt.shards import load_index
from c2srt.text import Config as TextConfig, load_text, run as write_text
from c2srt.train import config as train
from c2srt.views import centre_pixels
from cluster.cli import main
from tests.shard_folder import make_shards, make_vocabulary
from tests.test_metrics import slow_per_class
from tests.test_structure import importers
from tests.tiny import tiny_clip_config
from tests.verbs import compose_verb

SEEN, UNSEEN, IMAGES = 12, 4, 37
C = SEEN + UNSEEN
STEMS = ["cam", "graph", "isr-ap", "isr-patches", "patches", "predictions", "relations"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A work folder: shards, text, relations, three exports and two evaluations, all of the tiny
    CLIP.
    """
    work = tmp_path_factory.mktemp("figures")
    vocabulary, config = make_vocabulary(SEEN, UNSEEN), tiny_clip_config(work)
    make_shards(work / "shards", {"test": IMAGES}, 10, vocabulary)
    write_text(TextConfig(config, ["a {}."], {}, str(work / "shards"), str(work / "text")))
    clip = load_clip(config)
    network = Graph(load_text(work / "text", vocabulary, clip.hash), neighbour_table())
    for folder, settings in (
        ("full", {"init": "literal"}),
        ("ist", {"init": "literal", "isr": False}),
        ("isr", {"ist": False}),
        ("mkt", {"kind": "mkt", "baseline": {"topk": 4}}),
    ):
        torch.manual_seed(0)
        model = build_student(
            clip,
            ModelConfig(heads=4, neighbours=3, max_patches=6, **settings),
            LossConfig(),
            network,
            SEEN,
        )
        save_export(
            work / folder / "seed-0/model",
            model,
            model.state_dict(),
            clip,
            vocabulary,
            ["a {}."],
            {},
        )
        if folder != "mkt":
            evaluate(work, folder, vocabulary)
    for kind in ("similarity", "random"):
        assert main(["relations", f"work={work}", f"graph={kind}", "neighbours=3"]) == 0
    return work


def neighbour_table() -> torch.Tensor:
    """Three seen neighbours each, none twice; here and there one is missing, and one unseen
    category has none.
    """
    random = np.random.default_rng(0)
    table = np.stack(
        [
            random.permutation([other for other in range(SEEN) if other != row])[:3]
            for row in range(C)
        ]
    )
    table[::3, 2] = ABSENT
    table[SEEN + 1] = ABSENT
    return torch.from_numpy(table)


def evaluate(work: Path, folder: str, vocabulary) -> None:
    """What `c2srt evaluate` writes, without Ray."""
    images, labels = everything(work, vocabulary)
    scores, counts = load_export(work / folder / "seed-0/model").scores(images)
    seen = np.arange(C) < SEEN
    isr = None if counts is None else (int(counts.sum()), 0, counts.numel())
    part = measure(scores.numpy(), labels, seen, (2,), isr=isr)
    results, table = evaluate_part(part, Task(seen, (2,), ("per_class",)), None, None)
    table.insert_column(0, pl.Series("mid", vocabulary.mids)).insert_column(
        1, pl.Series("name", vocabulary.names)
    )
    write_results(
        work / folder / "seed-0/evaluation", {"vocabulary": vocabulary.hash, **results}, table
    )


def everything(work: Path, vocabulary) -> tuple[torch.Tensor, np.ndarray]:
    """Images and labels of the whole test split."""
    batches = list(
        evaluation_batches(
            LoaderConfig(32, workers=0), load_index(work / "shards"), vocabulary, "test"
        )
    )
    return (
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.labels for batch in batches]).numpy(),
    )


def overrides(work: Path, *more: str) -> list[str]:
    return [
        f"work={work}",
        f"clip.name={work}/tiny.json",
        "clip.pretrained=random",
        "loader_workers=0",
        "batch=8",
        *more,
    ]


def given(work: Path) -> str:
    """What every printed command repeats."""
    return f"work={work} clip.name={work}/tiny.json clip.pretrained=random"


def figures(work: Path, out: Path, *more: str) -> int:
    return main(["figures", *overrides(work, f"out={out}", *more)])


def inputs_of(work: Path, *more: str) -> Inputs:
    return Inputs(to_config(Config, compose_verb("figures", overrides(work, *more))))


@pytest.fixture(scope="module")
def inputs(world) -> Inputs:
    return inputs_of(world, "fixed=[1,3,16,64]")


# Files
# --------------------------------------------------------------------------------------------------


def test_every_figure_is_drawn_once_and_what_lacks_inputs_is_said(world, tmp_path, capsys):
    assert figures(world, tmp_path) == 0
    printed = capsys.readouterr().out
    for name in ("neighbours", "threshold", "distillation"):
        reason = (
            f"{world}/tables/{name}.json does not exist: make it with `c2srt tables {given(world)}"
            f" 'tables=[{name}]'`"
        )
        assert f"curves-{name}: left out, {reason}" in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.{end}" for stem in STEMS for end in ("json", "pdf", "png")
    }
    for stem in STEMS:
        check_picture(tmp_path / f"{stem}.png")
        assert (tmp_path / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
        assert json.loads((tmp_path / f"{stem}.json").read_text())["numbers"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "graph.pdf").unlink()
    assert figures(world, tmp_path) == 0
    changed = {path.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert (
        changed == {"graph.json", "graph.pdf", "graph.png"}
        and "cam.png, .pdf are up to date" in capsys.readouterr().out
    )
    assert figures(world, tmp_path, "figures=[predictions]", "seed=1") == 0
    assert (tmp_path / "predictions.json").stat().st_mtime_ns != before[
        tmp_path / "predictions.json"
    ]


def check_picture(path: Path) -> None:
    """Print resolution, a page's width at most, many colours, and nothing that touches the
    border.
    """
    image = Image.open(path)
    pixels = np.asarray(image.convert("RGB"))
    assert round(image.info["dpi"][0]) == 300 and 900 < image.width < 2600
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    assert all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def test_without_mkt_two_models_are_compared(world, tmp_path):
    assert figures(world, tmp_path, "mkt=null", "figures=[predictions]") == 0
    best = json.loads((tmp_path / "predictions.json").read_text())["numbers"]
    assert all(set(models) == {"CLIP", "C²SRT (ours)"} for models in best.values())


def test_figures_are_drawn_without_mkt_where_there_is_none(world, tmp_path, capsys):
    """As after the demo: no MKT, no model without ISR, no sweeps."""
    work = tmp_path / "a (work) folder"
    for name in ("shards", "text", "relations", "full", "tiny.json"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).symlink_to(world / name)
    arguments = [
        f'work="{work}"',
        f"clip.name={world}/tiny.json",
        "clip.pretrained=random",
        "loader_workers=0",
        "batch=8",
    ]
    assert main(["figures", *arguments]) == 0
    printed = capsys.readouterr().out
    assert {path.stem for path in (work / "figures").iterdir()} == set(STEMS) - {"isr-ap"}
    assert set(
        json.loads((work / "figures/predictions.json").read_text())["numbers"].popitem()[1]
    ) == {"CLIP", "C²SRT (ours)"}
    mkt = next(
        line
        for line in printed.splitlines()
        if line.startswith("cam, predictions: without MKT, which")
    )
    typed = shlex.split(mkt.split("`")[1])
    assert typed[:2] == ["c2srt", "train"]
    config = to_config(train.Config, compose_verb("train", typed[2:]))
    assert (config.model.kind, config.work, config.out) == ("mkt", str(work), f"{work}/mkt/seed-0")


def test_names_that_differ_in_their_mid_alone_differ_when_they_are_cut():
    one, other = (f"American football conference ({mid})" for mid in ("/m/0abc12", "/m/0xyz34"))
    for cut in (style.short(one, 20), style.fitted(one, 80, 7, "normal"), style.wrapped(one, 18)):
        assert cut.endswith("(/m/0abc12)") and cut != one
    assert style.short(one, 20) != style.short(other, 20) and style.short("Dog", 20) == "Dog"
    assert style.short("a name without any brackets", 10) == "a name wi…"


def test_a_picture_that_cannot_be_drawn_leaves_nothing(tmp_path):
    def broken(path, **_):
        Path(path).write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        save_figure(SimpleNamespace(savefig=broken), tmp_path, "x")
    assert not list(tmp_path.iterdir())


# Choosing
# --------------------------------------------------------------------------------------------------


def test_photos_are_those_with_all_kinds_of_labels_and_most_of_them(inputs):
    labels = {
        inputs.photos.read(place).id: inputs.photos.read(place).labels for place in range(IMAGES)
    }

    def worth(row):
        return sum(bool(kind.any()) for kind in (row[:SEEN] == 1, row[SEEN:] == 1, row == -1)), int(
            (row != 0).sum()
        )

    chosen = [sample.id for sample in inputs.photos.choose(None, 5)]
    assert sorted(map(worth, labels.values()))[::-1][:5] == [worth(labels[name]) for name in chosen]
    assert chosen == [sample.id for sample in inputs.photos.choose(None, 5)]
    assert [sample.id for sample in inputs.photos.choose(chosen[3:0:-1], 9)] == chosen[3:0:-1]


def test_a_sample_is_the_seeds_and_batches_hold_it_once(inputs):
    some = inputs.photos.some(11)
    assert (
        len(set(some.tolist())) == 11
        and (np.diff(some) > 0).all()
        and inputs.photos.some(99).tolist() == list(range(IMAGES))
    )
    other = Photos(inputs.index, inputs.vocabulary, "test", 7)
    assert other.some(11).tolist() != some.tolist()
    found = [name for batch in inputs.photos.batches(some, 32, 4, 0) for name in batch.ids]
    assert found == [inputs.photos.read(place).id for place in some]


def test_ranks_and_subgraphs():
    assert ranks_of(np.array([0.1, 0.5, 0.5, -1.0])).tolist() == [3, 1, 2, 4]
    table = torch.tensor([[1, -1], [2, 3], [0, -1], [3, 3], [1, 2]])
    small, categories = subgraph(Graph(torch.eye(5), table), [4], 1)
    assert categories == [4, 1, 2] and small.table.tolist() == [[1, 2], [2, -1], [-1, -1]]
    assert torch.equal(small.text, torch.eye(5)[[4, 1, 2]])
    assert subgraph(Graph(torch.eye(5), table), [4], 2)[1] == [4, 1, 2, 3, 0]


def test_what_tells_most_about_an_image_is_chosen():
    labels, ranks = np.array([1, 1, -1, -1, 0, 1, 0, -1]), np.array([3, 1, 2, 4, 5, 6, 7, 8])
    assert patches.telling(labels, ranks, 5) == [1, 5, 2]
    labels[5] = 0
    assert patches.telling(labels, ranks, 5) == [
        1,
        5,
        2,
    ], "no unseen one is present: the best ranked"
    assert patches.telling(np.zeros(8), ranks, 8) == []


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


# Bad input
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["figures=[cams]"], "figures: 'cams' is not one of cam, patches"),
        (["figures=[]"], "asks for none"),
        (["images=[]"], "name nothing"),
        (["fixed=[0]"], "must be numbers of patches from 1"),
        (["statistics=0"], "statistics=0 must be at least 1"),
        (["figures=[cam]", "images=[nope]"], "split test has no image 'nope'"),
        (["figures=[patches]", "categories=[Zebra]"], "no category 'Zebra'"),
        (["figures=[cam]", "split=train"], "has no images of split 'train'"),
        (["figures=[relations]", "categories=[/m/2]"], "'thing 2' is a seen category"),
        (["figures=[isr]", "fixed=[17]"], "an image has 16 patches"),
        (
            ["figures=[cam]", "mkt=/nowhere/model"],
            "in /nowhere/model: make it with `c2srt train {given} model=mkt out=/nowhere`",
        ),
        (
            ["figures=[patches]", "model=/nowhere/model"],
            "in /nowhere/model: make it with `c2srt train {given} out=/nowhere`",
        ),
        (
            ["figures=[isr]", "without_isr=/nowhere/x"],
            (
                "make it with `c2srt train {given} model.isr=false out=/nowhere && "
                "c2srt evaluate {given} checkpoint=/nowhere/model out=/nowhere/x`"
            ),
        ),
        (
            ["figures=[graph]", "relations_folder=/nowhere"],
            "/nowhere has no relation graph: make some with `c2srt relations {given} graph=llm`",
        ),
        (
            ["figures=[patches]", "shards=/nowhere"],
            (
                "/nowhere/index.json does not exist: make it with `c2srt shard {given}"
                " shards=/nowhere`"
            ),
        ),
        (["figures=[curves]"], "make it with `c2srt tables {given} 'tables=[neighbours]'`"),
        (
            ["shards=/nowhere", "relations_folder=/nowhere", "without_isr=/nowhere"],
            "no figure can be drawn",
        ),
    ],
)
def test_bad_input_gets_one_sentence(world, tmp_path, capsys, arguments, sentence):
    assert figures(world, tmp_path / "out", *arguments) == 2
    message = capsys.readouterr().err
    assert sentence.replace("{given}", given(world)) in message and "Traceback" not in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "figure, arguments, sentence",
    [
        (
            "patches",
            "model={}/ist/seed-0/model",
            "was trained with model.isr=false and chooses no patches",
        ),
        (
            "relations",
            "model={}/isr/seed-0/model",
            "was trained with model.ist=false and has no relation weights",
        ),
        (
            "predictions",
            "mkt={}/ist/seed-0/model",
            "holds a model of kind c2srt where one of kind mkt belongs",
        ),
        (
            "patches",
            "model={}/mkt/seed-0/model",
            "holds a model of kind mkt where one of kind c2srt belongs",
        ),
    ],
)
def test_a_model_of_another_kind_is_refused(world, tmp_path, capsys, figure, arguments, sentence):
    assert figures(world, tmp_path / "out", f"figures=[{figure}]", arguments.format(world)) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_evaluations_that_cannot_be_compared_are_refused(world, tmp_path):
    full, without = world / "full/seed-0/evaluation", world / "ist/seed-0/evaluation"
    for key, folder, word in (("without_isr", full, "with"), ("with_isr", without, "without")):
        with pytest.raises(UserError, match=f"{key}={folder} is an evaluation {word} ISR"):
            ap_change.numbers(inputs_of(world, f"{key}={folder}"))
    results = json.loads((without / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(results | {"images": 3}))
    with pytest.raises(UserError, match="differ in images"):
        ap_change.numbers(inputs_of(world, f"without_isr={tmp_path}"))
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "per_category.csv").write_text("mid,name\n/m/0,x\n")
    with pytest.raises(UserError, match="has no column seen"):
        ap_change.numbers(inputs_of(world, f"without_isr={tmp_path}"))


def test_grad_cam_has_one_importer():
    assert importers("pytorch_grad_cam") == {"c2srt/figures/cam.py"}


# What decides a figure
# --------------------------------------------------------------------------------------------------


ELSEWHERE = {"out", "batch", "loader_workers", "clip"}
"""What numbers may look at beyond their identity: where and how they are computed; the CLIP, which
is refused unless it is the text features' own.
"""


def settings_read(inputs: Inputs, act) -> set[str]:
    """The keys of `c2srt figures` that a function looks at."""
    read, names = set(), {field.name for field in fields(Config)}

    class Watched(Config):
        def __getattribute__(self, name: str):
            read.update({name} & names)
            return super().__getattribute__(name)

    inputs.config.__class__ = Watched
    act(inputs)
    inputs.config.__class__ = Config
    return read


@pytest.mark.parametrize("name", ["cam", "patches", "isr", "relations", "predictions", "graph"])
def test_a_figure_forgets_no_setting_that_decides_it(world, name):
    """What its numbers look at and its identity does not: only how they are computed."""
    for figure in FIGURES[name]:
        inputs = inputs_of(world, "fixed=[1,3]")
        decides = settings_read(inputs, figure.made_from)
        assert settings_read(inputs, figure.numbers) - decides <= ELSEWHERE, figure.stem


def test_the_relations_figure_depends_on_an_oracle_only_where_one_wrote_the_graph(world, tmp_path):
    """A figure that was made before its identity named the oracle stays current without one."""
    (figure,) = FIGURES["relations"]
    copied = tmp_path / "llm"
    shutil.copytree(world / "relations/similarity", copied)
    inputs = inputs_of(world, f"relations_folder={tmp_path}")
    without = figure.made_from(inputs)
    assert without == {**inputs.made_from(), **inputs.made_from_ours()}
    assert without == figure.made_from(inputs_of(world, f"relations_folder={tmp_path}/none"))
    assert not figure.numbers(inputs).oracle
    content = json.loads((copied / PROVENANCE).read_text())
    write_json(copied / PROVENANCE, content | {"oracle": True})
    assert figure.made_from(inputs) == without | {"oracle": sha256_of_file(copied / TABLE)}
