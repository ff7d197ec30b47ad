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
import pytest
import torch

from c2srt.cluster.cli import main
from c2srt.compose import to_config
from c2srt.errors import UserError
from c2srt.figures import (
    ap_change,
    patches,
)
from c2srt.figures.config import Config
from c2srt.figures.draw import style
from c2srt.figures.draw.style import save as save_figure
from c2srt.figures.inputs import Inputs
from c2srt.figures.photos import Photos
from c2srt.figures.registry import FIGURES
from c2srt.figures.viewers import ranks_of, subgraph
from c2srt.files import sha256_of_file, write_json
from c2srt.model.graph import Graph
from c2srt.relations.table import PROVENANCE, TABLE
from c2srt.train import config as train
from tests.figures_case import IMAGES, SEEN, check_picture, figures, inputs_of, make_world
from tests.test_structure import importers
from tests.verbs import compose_verb

STEMS = ["cam", "graph", "isr-ap", "isr-patches", "patches", "predictions", "relations"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("figures"))


def given(work: Path) -> str:
    """What every printed command repeats."""
    return f"work={work} clip.name={work}/tiny.json clip.pretrained=random"


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
    assert "novel: left out, words that the data set does not have are yours to name" in printed
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


@pytest.mark.parametrize(
    "name", ["cam", "patches", "isr", "relations", "predictions", "novel", "graph"]
)
def test_a_figure_forgets_no_setting_that_decides_it(world, name):
    """What its numbers look at and its identity does not: only how they are computed."""
    for figure in FIGURES[name]:
        inputs = inputs_of(world, "fixed=[1,3]", "words=[tuk tuk]")
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
