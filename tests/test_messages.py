"""Score messages: the fit meets its conditions, wrong sources are not heard, unseen categories hear
what their names do not tell, and the export carries it all.
"""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.evaluation.scorers import ModelScorer, Subject
from c2srt.export.read import load_export
from c2srt.export.write import save_export
from c2srt.messages.build import messages_of
from c2srt.messages.collect import collect
from c2srt.messages.config import Config
from c2srt.messages.fit import fit_category, probability
from c2srt.messages.job import run
from c2srt.messages.sources import neighbours_of_unseen, sources_of_seen
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.messages import Messages
from c2srt.model.network import C2SRT
from c2srt.relations.build import run as relate
from c2srt.relations.kinds import GraphConfig
from tests.shard_folder import make_shards, make_vocabulary
from tests.tiny import random_graph, tiny_clip

SEEN, UNSEEN = 8, 3
TYPES = ("is-a", "co-occurrence", "synonymy", "part-whole")


def drawn(count: int, useful: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, 1 + 6 + 1] and labels [n] that follow the own score, the first source, and
    nothing else.
    """
    random = np.random.default_rng(seed)
    features = np.concatenate([random.normal(size=(count, 7)), np.ones((count, 1))], 1)
    chance = probability(features[:, 0] + useful * features[:, 1] - 0.5)
    return features, (random.random(count) < chance).astype(np.float64)


@pytest.mark.parametrize("penalty", [0.0, 0.5, 2.0])
def test_a_fit_meets_the_conditions_of_its_minimum(penalty):
    """Karush, Kuhn and Tucker's: what pays no penalty has no gradient, what is heard has the
    penalty's, what is not heard at most that.
    """
    features, labels = drawn(400, 1.0)
    weights = fit_category(features, labels, penalty)
    gradient = features.T @ (probability(features @ weights) - labels) / len(labels)
    bound = penalty * math.sqrt(math.log(6) / len(labels))
    heard = weights[1:-1] != 0
    assert gradient[[0, -1]] == pytest.approx([0, 0], abs=1e-6)
    assert gradient[1:-1][heard] == pytest.approx(-bound * np.sign(weights[1:-1][heard]), abs=1e-6)
    assert (np.abs(gradient[1:-1][~heard]) <= bound + 1e-6).all()


def test_a_source_that_the_labels_do_not_bear_out_is_not_heard():
    wrong, right = 0, 0
    for seed in range(20):
        weights = fit_category(*drawn(300, 1.0, seed), 1.0)
        right += weights[1] > 0.3
        wrong += int((weights[2:-1] != 0).sum())
    assert right == 20 and wrong <= 10  # of 100


def test_labels_of_one_kind_teach_nothing():
    features, labels = drawn(5, 1.0)
    weights = fit_category(features, np.ones_like(labels), 0.5)
    assert weights[:-1].tolist() == [1] + [0] * 6 and weights[-1] == pytest.approx(math.log(6))


def test_messages_are_a_sum_over_scores_and_other_words_keep_theirs():
    messages = Messages(
        torch.tensor([[1, 0], [0, 0]]),
        torch.tensor([[2.0, 0.0], [0.0, 0.0]]),
        torch.tensor([[0, 1]]),
        torch.tensor([[1.0, -1.0]]),
        torch.tensor([1.0, 3.0, 0.5]),
        torch.tensor([0.0, 1.0, -1.0]),
        torch.tensor([10.0, -2.0]),
    )
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert messages(scores).tolist() == [[1 + 4, 6 + 1, 1.5 + 5 - 7 - 1, 40 - 2]]
    assert messages(scores[:, :3]).tolist() == [[5, 7, -1.5]]


def cases(images: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Scores [N, 11], labels [N, 11], sources [8, 3] and neighbours [3, 2]: category 0 is positive
    where category 1's score is high; category 8, unseen, hears 0 and 1, category 9 nobody.
    """
    random = np.random.default_rng(seed)
    scores = (random.normal(size=(images, 11)) * np.linspace(0.5, 3, 11) + 7).astype(np.float32)
    present = scores + random.normal(size=scores.shape) > 7
    present[:, 0] = scores[:, 1] > 7
    labels = np.where(random.random(scores.shape) < 0.7, np.where(present, 1, -1), 0)
    sources, neighbours = np.full((SEEN, 3), -1), np.full((3, 2), -1)
    sources[0], neighbours[0], neighbours[2, 0] = (1, 2, 3), (0, 1), 5
    return scores, labels.astype(np.int8), sources, neighbours


def test_everyone_is_on_one_scale():
    scores, labels, sources, neighbours = cases(3000)
    config = Config("x", "x", "x", "x")
    batches = zip(np.split(scores, 3), np.split(labels, 3), strict=True)
    collected = collect(batches, sources)
    assert collected.mean == pytest.approx(scores.mean(0), rel=1e-5)
    messages = messages_of(collected, sources, neighbours, config)
    logits = messages(torch.from_numpy(scores)).numpy()
    assert messages.weights[0, 0] > 0 and (messages.weights[0, 1:] == 0).all()
    right = (logits[:, 0] > 0) == (scores[:, 1] > 7)
    assert right.mean() > 0.95
    level, spread = np.median(logits[:, :SEEN].mean(0)), np.median(logits[:1024, :SEEN].std(0))
    some = logits[:1024, SEEN:]  # those that the scale is taken from
    assert some.mean(0) == pytest.approx(level, abs=0.02)
    assert some.std(0) == pytest.approx(spread, rel=0.02)
    standard = (scores - scores.mean(0)) / scores.std(0)
    for column, heard in ((8, logits[:, :2].mean(1)), (10, logits[:, 5])):
        mixed = heard + 0.25 * spread * standard[:, column]
        assert np.corrcoef(logits[:, column], mixed)[0, 1] == pytest.approx(1)
    assert np.corrcoef(logits[:, 9], scores[:, 9])[0, 1] == pytest.approx(1)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Shards, a graph with types, and an exported model."""
    folder = tmp_path_factory.mktemp("messages")
    clip, vocabulary = tiny_clip(folder), make_vocabulary(SEEN, UNSEEN)
    make_shards(folder / "shards", {"train": 24, "test": 6}, 12, vocabulary)
    lines = []
    for column, mid in enumerate(vocabulary.mids):
        others = [other for other in range(SEEN) if other != column][:4]
        related = [
            {"mid": vocabulary.mids[other], "name": "x", "type": kind, "strength": "high"}
            for other, kind in zip(others, TYPES, strict=True)
        ]
        lines.append({"mid": mid, "name": vocabulary.names[column], "related": related})
    (folder / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    relate(
        GraphConfig(
            "mined",
            4,
            str(folder / "own.jsonl"),
            shards=str(folder / "shards"),
            out=str(folder / "graph"),
        )
    )
    torch.manual_seed(0)
    graph = random_graph(SEEN + UNSEEN, SEEN, clip.width, 3)
    model = C2SRT(
        clip, ModelConfig(heads=4, neighbours=3, isr=False, ist=False), LossConfig(), graph, SEEN
    )
    state = model.state_dict()
    save_export(folder / "model", model, state, clip, vocabulary, ["{}"], {"config": {}})
    return folder


def settings(work, **changes) -> Config:
    config = Config(
        str(work / "model"), str(work / "shards"), str(work / "graph"), str(work / "out"), "."
    )
    small = {"neighbours": 4, "together": 2, "loader_workers": 0, "batch": 5}
    return replace(config, **small | changes)


def test_sources_of_the_seen_are_many_and_of_the_unseen_what_names_do_not_tell(work):
    vocabulary = make_vocabulary(SEEN, UNSEEN)
    sources = sources_of_seen(settings(work), vocabulary)
    assert len(sources) == SEEN
    for column, row in enumerate(sources.tolist()):
        found = [source for source in row if source >= 0]
        assert len(found) == len(set(found)) and column not in found
        assert set(found) >= {other for other in range(SEEN) if other != column and other < 4}
    neighbours = neighbours_of_unseen(settings(work), vocabulary)
    assert neighbours.tolist() == [[-1, 1, -1, 3]] * UNSEEN  # co-occurrence, part-whole of 0-3


@pytest.fixture(scope="module")
def made(work):
    run(settings(work))
    return work / "out"


def test_the_export_has_messages_besides_and_scores_by_them(work, made, capsys):
    before, after = load_export(work / "model"), load_export(made / "model")
    assert after.messages is not None and before.messages is None
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    plain, _ = before.scores(images)
    torch.testing.assert_close(after.scores(images)[0], after.messages(plain))
    graph, columns = after.graph_for(["thing 2", "a word"])
    logits = after.scores(images, graph)[0][:, columns]
    torch.testing.assert_close(logits[:, 0], after.messages(plain)[:, 2])
    torch.testing.assert_close(
        logits[:, 1],
        after.messages.new[0] * before.scores(images, graph)[0][:, -1] + after.messages.new[1],
    )
    scorer = ModelScorer(Subject(str(made / "model"), after.vocabulary), torch.device("cpu"))
    assert np.allclose(scorer.scores(images)[0], after.messages(plain).numpy(), atol=1e-5)
    heard = json.loads((made / "messages.json").read_text())
    assert set(heard) == set(after.vocabulary.mids)
    assert [mid for mid, _ in heard["/m/8"]] == ["/m/1", "/m/3"]


def test_again_it_does_nothing_and_what_decides_it_makes_it_anew(work, made, caplog):
    stamp = (made / "model/model.safetensors").stat().st_mtime_ns
    caplog.set_level("INFO")
    run(settings(work))
    assert "is up to date" in caplog.text
    assert (made / "model/model.safetensors").stat().st_mtime_ns == stamp
    run(settings(work, out=str(work / "other"), penalty=5.0))
    strong = load_export(work / "other/model").messages
    assert (strong.weights != 0).sum() < (load_export(made / "model").messages.weights != 0).sum()


def test_the_batch_does_not_matter_and_the_images_do(work, made):
    run(settings(work, out=str(work / "again"), batch=7))
    first, second = (load_file(f / "model/model.safetensors") for f in (made, work / "again"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=1e-4)
    run(settings(work, out=str(work / "half"), images=12))
    half = load_file(work / "half/model/model.safetensors")
    assert not torch.equal(half["messages.own"], first["messages.own"])


def test_refusals_are_sentences(work, made, tmp_path):
    with pytest.raises(UserError, match="has messages already"):
        run(settings(work, checkpoint=str(made / "model"), out=str(tmp_path / "twice")))
    with pytest.raises(UserError, match="where the checkpoint itself lies"):
        run(settings(work, checkpoint=str(made / "model")))
    with pytest.raises(UserError, match="keeps 4 neighbours"):
        run(settings(work, out=str(tmp_path / "more"), neighbours=9))
    with pytest.raises(UserError, match="c2srt relations"):
        run(settings(work, out=str(tmp_path / "none"), relations=str(tmp_path / "absent")))
    with pytest.raises(UserError, match="penalty=-1"):
        Config(**{**asdict(settings(work)), "penalty": -1})


@pytest.mark.parametrize("wrong", ["shape", "column", "neighbour", "number"])
def test_damaged_messages_are_refused(made, tmp_path, wrong):
    tensors = load_file(made / "model/model.safetensors")
    if wrong == "shape":
        tensors["messages.own"] = tensors["messages.own"][:-1].clone()
    elif wrong == "column":
        tensors["messages.sources"][0, 0] = SEEN + UNSEEN
    elif wrong == "neighbour":
        tensors["messages.neighbours"][0, 0] = SEEN  # hears an unseen one
    else:
        tensors["messages.weights"][0, 0] = float("nan")
    (tmp_path / "config.json").write_bytes((made / "model/config.json").read_bytes())
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="messages"):
        load_export(tmp_path)


def test_by_the_command(work, capsys):
    status = main(
        [
            "messages",
            f"checkpoint={work / 'model'}",
            f"shards={work / 'shards'}",
            f"relations={work / 'graph'}",
            f"out={work / 'typed'}",
            "neighbours=4",
            "loader_workers=0",
        ]
    )
    assert status == 0 and "next: c2srt evaluate" in capsys.readouterr().out
