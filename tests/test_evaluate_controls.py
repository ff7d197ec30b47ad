"""`c2srt evaluate` of what uses a relation graph without training: scores of neighbours, SPARC."""

import numpy as np
import pytest
import torch

from c2srt.backbone.clip import load_clip
from c2srt.backbone.ensemble import embed
from c2srt.evaluation.metric_state import measure
from c2srt.evaluation.protocols import average_precisions, sorted_keys
from c2srt.evaluation.scorers import ClipScorer, Subject
from c2srt.evaluation.sparc import sparc
from c2srt.loader import LoaderConfig, evaluation_batches
from c2srt.relations.neighbours import ABSENT, Neighbours
from c2srt.relations.table import save
from c2srt.relations.untold import by_neighbours, of_unseen, untold
from c2srt.shards import load_index
from c2srt.text import Config as TextConfig, run as write_text
from tests.evaluated import evaluate, results
from tests.shard_folder import make_shards, make_vocabulary
from tests.tiny import tiny_clip_config

IMAGES, SEEN, UNSEEN = 21, 6, 3
SEEN_COLUMNS = np.arange(SEEN + UNSEEN) < SEEN


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Shards, a tiny CLIP with text features, and a graph in which an unseen category has a seen
    neighbour of its name, another one none.
    """
    folder = tmp_path_factory.mktemp("world")
    vocabulary = make_vocabulary(SEEN, UNSEEN)
    make_shards(folder / "shards", {"train": 6, "test": IMAGES}, 8, vocabulary)
    config = tiny_clip_config(folder)
    write_text(TextConfig(config, ["a {}."], {}, str(folder / "shards"), str(folder / "text")))
    table = np.full((SEEN + UNSEEN, 3), ABSENT, np.int32)
    table[:3] = [[1, 2, 3], [0, -1, -1], [5, 4, -1]]
    table[6:8] = [[0, 1, 2], [3, 4, -1]]
    types = np.where(table != ABSENT, "contextual", "").astype(object)
    types[6, 0] = types[0, 2] = "is-a"
    graph = Neighbours(table, np.ones(table.shape, np.float32), types)
    made = {"kind": "mined", "vocabulary": vocabulary.hash, "neighbours": 3}
    save(folder / "graph", graph, vocabulary, made, {})
    return folder, vocabulary, config


def told(world) -> list[str]:
    folder, _, config = world
    return [
        *(f"shards={folder}/shards", f"text={folder}/text", f"relations={folder}/graph"),
        *(f"clip.name={config.name}", "clip.pretrained=random", "topk=[2]", "bootstrap=0"),
    ]


@pytest.fixture(scope="module")
def clip_scores(world):
    """CLIP's scorer, all images of the split, and their labels."""
    folder, vocabulary, config = world
    scorer = ClipScorer(Subject("clip", vocabulary, config, f"{folder}/text"), torch.device("cpu"))
    index = load_index(folder / "shards")
    batches = list(
        evaluation_batches(LoaderConfig(scorer.size, workers=0), index, vocabulary, "test")
    )
    images = torch.cat([batch.images for batch in batches])
    return scorer, images, torch.cat([batch.labels for batch in batches]).numpy()


def assert_measures(found: dict, scores: np.ndarray, labels: np.ndarray) -> None:
    state = measure(scores, labels, SEEN_COLUMNS, (2,))
    for label_set in ("zsl", "gzsl"):
        keys = sorted_keys(state)
        protocols = ("per_class",)
        ap = average_precisions(state, SEEN_COLUMNS, label_set, protocols, keys, None, None)
        expected = np.nanmean(ap["per_class"])
        assert found[label_set]["mAP"]["per_class"] == pytest.approx(expected, abs=1e-6)


def test_relations_that_the_name_tells_are_left_out(world):
    folder, vocabulary, _ = world
    assert untold(folder / "graph", vocabulary, 2)[[0, 6]].tolist() == [[1, 2], [-1, 1]]
    assert of_unseen(folder / "graph", vocabulary, 3)[[0, 6, 7, 8]].tolist() == [
        [-1, -1, -1],
        [-1, 1, 2],
        [3, 4, -1],
        [-1, -1, -1],
    ]
    scores = np.array([[8.0, 2, 4, 1, 3, 0, 9, 9, 9]])
    heard = by_neighbours(scores, of_unseen(folder / "graph", vocabulary, 3))
    assert heard.tolist() == [[8, 2, 4, 1, 3, 0, 3, 2, 9]]


def test_unseen_categories_get_their_neighbours_scores(world, clip_scores, tmp_path, capsys):
    folder, vocabulary, _ = world
    scorer, images, labels = clip_scores
    plain = scorer.scores(images)[0]
    arguments = [*told(world), "checkpoint=clip", f"out={tmp_path}/out"]
    assert evaluate(*arguments, "neighbours=2") == 0
    expected = by_neighbours(plain, of_unseen(folder / "graph", vocabulary, 2))
    found = results(tmp_path / "out")
    assert_measures(found, expected, labels)
    capsys.readouterr()
    assert evaluate(*arguments, "neighbours=2") == 0
    assert "is up to date" in capsys.readouterr().out
    assert evaluate(*arguments) == 0
    assert "is up to date" not in capsys.readouterr().out
    own = results(tmp_path / "out")
    assert_measures(own, plain, labels)
    assert own["made_from"]["key"] != found["made_from"]["key"]


def test_sparc_over_shards_is_what_one_process_computes(world, clip_scores, tmp_path, capsys):
    folder, vocabulary, config = world
    scorer, images, labels = clip_scores
    arguments = [*told(world), "checkpoint=sparc", "neighbours=2", f"out={tmp_path}/out"]
    assert evaluate(*arguments) == 0
    pairs = {0: [1, 2], 1: [0], 2: [5, 4], 6: [1], 7: [3, 4]}
    names, clip = list(vocabulary.names), load_clip(config)
    texts = [f"{names[one]} and {names[other]}" for one, all_ in pairs.items() for other in all_]
    features = scorer.features(images)
    plain, compound = (features @ embed(clip, some, ["{}"]).T for some in (names, texts))
    prompts, at = [], 0
    for column in range(SEEN + UNSEEN):
        count = len(pairs.get(column, []))
        prompts.append(list(range(at, at + count)))
        at += count
    own = scorer.scores(images)[0]
    expected = sparc(own, plain.numpy(), compound.numpy(), prompts)
    found = results(tmp_path / "out")
    assert_measures(found, expected, labels)
    assert (found["checkpoint"], found["twins_heard"]) == ("sparc", 0)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []
    capsys.readouterr()
    assert evaluate(*arguments) == 0
    assert "is up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["checkpoint=sparc"], "checkpoint=sparc needs neighbours for its compound prompts"),
        (["checkpoint=clip", "neighbours=-1"], "neighbours=-1 must be at least 0"),
        (["scores=x.csv", "neighbours=2"], "neighbours=2 is for a checkpoint's scores"),
        (["checkpoint=clip", "neighbours=4"], "keeps 3 neighbours a category, but 4 are asked"),
    ],
)
def test_a_control_that_cannot_be_is_refused(world, tmp_path, capsys, arguments, sentence):
    assert evaluate(*told(world), *arguments, f"out={tmp_path}/out") == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("checkpoint", ["clip", "sparc"])
def test_a_control_without_its_graph_is_refused(world, tmp_path, capsys, checkpoint):
    none = f"relations={tmp_path}/none"
    arguments = (f"checkpoint={checkpoint}", "neighbours=2", f"out={tmp_path}/out", none)
    assert evaluate(*told(world), *arguments) == 2
    said = capsys.readouterr().err
    assert "none/relations.json does not exist: make it with `c2srt relations" in said
