"""`c2srt evaluate` of a checkpoint over shards under real Ray, CLIP zero-shot, the class prior."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from c2srt.backbone.clip import load_clip
from c2srt.evaluation.annotated import annotated_columns
from c2srt.evaluation.describe import describe
from c2srt.evaluation.metric_state import measure
from c2srt.evaluation.protocols import f1_at_k
from c2srt.evaluation.results import about
from c2srt.evaluation.scorers import ClipScorer, Subject, prior_scores
from c2srt.export.read import load_export
from c2srt.export.write import save_export
from c2srt.loader import LoaderConfig, evaluation_batches
from c2srt.model.config import LossConfig, ModelConfig
from c2srt.model.network import C2SRT
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.text import Config as TextConfig, run as write_text
from c2srt.vocabulary import Vocabulary, open_images_v4
from tests.evaluated import evaluate, results
from tests.nus_wide_files import NAMES
from tests.shard_folder import make_shards, make_vocabulary
from tests.test_metrics import slow_dense, slow_per_class, slow_qks
from tests.tiny import random_graph, tiny_clip_config

IMAGES, SEEN, UNSEEN = 37, 12, 4


# From shards
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(shared_ray, tmp_path_factory):
    """Shards, a tiny CLIP with text features, and an exported (untrained) model."""
    folder = tmp_path_factory.mktemp("world")
    vocabulary = make_vocabulary(SEEN, UNSEEN)
    make_shards(folder / "shards", {"train": 30, "test": IMAGES}, 10, vocabulary)
    config = tiny_clip_config(folder)
    write_text(TextConfig(config, ["a {}."], {}, str(folder / "shards"), str(folder / "text")))
    clip = load_clip(config)
    torch.manual_seed(0)
    graph = random_graph(SEEN + UNSEEN, SEEN, 16, 3)
    model = C2SRT(
        clip, ModelConfig(heads=4, neighbours=3, init="literal"), LossConfig(), graph, SEEN
    )
    save_export(folder / "run/model", model, model.state_dict(), clip, vocabulary, ["a {}."], {})
    return folder, vocabulary, config


def shared(world) -> list[str]:
    folder, _, config = world
    return [
        f"shards={folder}/shards",
        f"text={folder}/text",
        f"clip.name={config.name}",
        "clip.pretrained=random",
        "topk=[2,3]",
    ]


def everything(world, size: int):
    """All images and labels of the test split, in one process."""
    folder, vocabulary, _ = world
    batches = list(
        evaluation_batches(
            LoaderConfig(size, workers=0), load_index(folder / "shards"), vocabulary, "test"
        )
    )
    return (
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.labels for batch in batches]).numpy(),
    )


def test_checkpoint_over_shards_is_what_one_process_computes(world, tmp_path):
    folder, vocabulary, _ = world
    assert evaluate(*shared(world), f"checkpoint={folder}/run", f"out={tmp_path}/out") == 0
    found, exported = results(tmp_path / "out"), load_export(folder / "run/model")
    images, labels = everything(world, 32)
    scores, counts = exported.scores(images)
    assert found["images"] == IMAGES and found["vocabulary"] == vocabulary.hash
    seen = np.arange(16) < SEEN
    annotated = annotated_columns(labels, seen)
    state = measure(scores.numpy(), labels, seen, (2, 3), annotated=annotated)
    for label_set, columns in (("zsl", ~seen), ("gzsl", np.ones(16, bool))):
        for protocol, slow in (
            ("per_class", slow_per_class),
            ("dense", slow_dense),
            ("qks", slow_qks),
        ):
            assert found[label_set]["mAP"][protocol] == pytest.approx(
                np.nanmean(slow(scores.numpy(), labels, columns)), abs=1e-3
            )
        for name, values in f1_at_k(state, label_set, (2, 3), annotated=True).items():
            assert found[label_set][f"{name} annotated"] == pytest.approx(values, abs=1e-3)
    assert found["made_from"]["versions"] == {"biam_legacy": 2}
    assert found["isr"]["mean_patches"] == pytest.approx(counts.float().mean().item(), rel=1e-3)
    assert 0 <= found["isr"]["capped_share"] <= 1
    table = pl.read_csv(tmp_path / "out/per_category.csv")
    assert table["mid"].to_list() == list(vocabulary.mids) and table["name"].to_list() == list(
        vocabulary.names
    )
    assert table["seen"].to_list() == [True] * SEEN + [False] * UNSEEN
    for name, value in (("positives", 1), ("negatives", -1)):
        assert table[name].to_list() == (labels == value).sum(0).tolist()
    for label_set, columns in (("zsl", np.arange(16) >= SEEN), ("gzsl", np.ones(16, bool))):
        expected = slow_per_class(scores.numpy(), labels, columns)
        np.testing.assert_allclose(table[f"{label_set}_per_class"].to_numpy(), expected, atol=1e-2)
        assert {f"{label_set}_{protocol}" for protocol in found[label_set]["mAP"]} <= set(
            table.columns
        )
    assert found["published"] is None and found["given_away"] == []
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


def test_any_number_of_workers_gives_the_same_bytes_and_again_is_a_no_op(world, tmp_path, capsys):
    folder, _, _ = world
    for workers in (1, 2):
        assert (
            evaluate(
                *shared(world),
                f"checkpoint={folder}/run/model",
                f"out={tmp_path}/{workers}",
                f"workers={workers}",
            )
            == 0
        )
    for name in ("results.json", "per_category.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    before = (tmp_path / "1/results.json").stat().st_mtime_ns
    table = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith(("mAP", "F1@"))
    ][-9:]
    assert evaluate(*shared(world), f"checkpoint={folder}/run/model", f"out={tmp_path}/1") == 0
    printed = capsys.readouterr().out
    assert "up to date" in printed and (tmp_path / "1/results.json").stat().st_mtime_ns == before
    assert (
        len(table) == 9
        and [line for line in printed.splitlines() if line.startswith(("mAP", "F1@"))] == table
    )


def test_a_killed_run_goes_on(world, tmp_path, monkeypatch):
    """The second run scores only the pieces that the first did not finish."""
    import c2srt.evaluation.pieces as job

    folder, _, _ = world
    arguments = [*shared(world), f"checkpoint={folder}/run/model", f"out={tmp_path}/out"]
    monkeypatch.setattr(job, "thresholds_of", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert evaluate(*arguments) == 130
    pieces = sorted((tmp_path / "out").glob("pieces-*/*.npz"))
    assert len(pieces) == 8 and not (tmp_path / "out/results.json").exists()
    pieces[3].unlink()
    kept = {path: path.stat().st_mtime_ns for path in pieces if path.exists()}
    monkeypatch.undo()
    unchanged: list[bool] = []

    def merge(parts):
        unchanged.extend(path.stat().st_mtime_ns == at for path, at in kept.items())
        return whole(parts)

    whole = job.merge
    monkeypatch.setattr(job, "merge", merge)
    assert evaluate(*arguments) == 0 and unchanged == [True] * 7
    monkeypatch.undo()
    assert evaluate(*shared(world), f"checkpoint={folder}/run/model", f"out={tmp_path}/whole") == 0
    assert (tmp_path / "out/results.json").read_bytes() == (
        tmp_path / "whole/results.json"
    ).read_bytes()


def test_results_are_up_to_date_only_with_their_own_table(world, tmp_path, capsys):
    folder, _, _ = world
    arguments = [*shared(world), f"checkpoint={folder}/run/model", f"out={tmp_path}"]
    table = tmp_path / "per_category.csv"
    assert evaluate(*arguments) == 0
    whole, others = table.read_bytes(), tmp_path / "pieces-of-my-own"
    others.mkdir()
    for damage in (lambda: table.write_bytes(b"of another run"), table.unlink):
        damage()
        capsys.readouterr()
        assert evaluate(*arguments) == 0
        assert "up to date" not in capsys.readouterr().out and table.read_bytes() == whole
    (tmp_path / f"pieces-{'0' * 16}").mkdir()  # as a run leaves that was killed behind results.json
    (tmp_path / "results.json.tmp-4194305").write_text("{")
    assert evaluate(*arguments) == 0 and "up to date" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "per_category.csv",
        "pieces-of-my-own",
        "results.json",
    ]


def test_text_that_is_replaced_while_it_is_evaluated_is_noticed(
    world, tmp_path, monkeypatch, capsys
):
    """Between the driver's look at its identity and the workers that load it; put back, the results
    are those of the old.
    """
    import c2srt.evaluation.pieces as job
    from c2srt import text

    folder, _, clip = world
    for name, template in (("text", "a {}."), ("other", "no {}!")):
        text.run(text.Config(clip, [template], {}, str(folder / "shards"), str(tmp_path / name)))
    arguments = [
        *shared(world),
        "checkpoint=clip",
        f"text={tmp_path}/text",
        f"clip.name={clip.name}",
        f"clip.pretrained={clip.pretrained}",
    ]

    def exchange() -> None:
        for one, other in (("text", "aside"), ("other", "text"), ("aside", "other")):
            (tmp_path / one).rename(tmp_path / other)

    def tasks(*some):
        exchange()
        return score_missing(*some)

    score_missing = job.score_missing
    monkeypatch.setattr(job, "score_missing", tasks)
    assert evaluate(*arguments, f"out={tmp_path}/out", "protocols=[per_class]") == 2
    assert (
        "was written anew while it was evaluated" in capsys.readouterr().err
        and not (tmp_path / "out/results.json").exists()
    )
    monkeypatch.undo()
    exchange()
    for out in ("out", "undisturbed"):
        assert evaluate(*arguments, f"out={tmp_path}/{out}", "protocols=[per_class]") == 0
    assert (tmp_path / "out/results.json").read_bytes() == (
        tmp_path / "undisturbed/results.json"
    ).read_bytes()


def test_results_go_to_the_trainings_mlflow_run(world, tmp_path):
    from c2srt.tracking import Run, Tracker

    folder, _, _ = world
    shutil.copytree(folder / "run", tmp_path / "run")
    tracker = Tracker(
        tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db", Run("c2srt", "training", {}, {})
    )
    tracker.close()
    assert (
        evaluate(
            *shared(world),
            f"checkpoint={tmp_path}/run/model",
            f"out={tmp_path}/out",
            "loader_workers=1",
        )
        == 0
    )
    import mlflow

    client = mlflow.MlflowClient(tracker.uri)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/gzsl_mAP_per_class"] == pytest.approx(
        results(tmp_path / "out")["gzsl"]["mAP"]["per_class"]
    )
    assert run.data.metrics["headline/test_gzsl_mAP_per_class"] == pytest.approx(
        run.data.metrics["test/gzsl_mAP_per_class"]
    )
    led = {name for name in run.data.metrics if name.startswith("headline/")}
    assert len(led) == 6, led  # mAP and F1@K at two K, of ZSL and of GZSL
    assert {path.path for path in client.list_artifacts(tracker.run_id, "evaluation-test")} == {
        "evaluation-test/results.json",
        "evaluation-test/per_category.csv",
    }


def test_clip_zero_shot(world, tmp_path):
    folder, vocabulary, config = world
    assert evaluate(*shared(world), "checkpoint=clip", f"out={tmp_path}/out") == 0
    images, labels = everything(world, 32)
    scores, _ = ClipScorer(
        Subject("clip", vocabulary, config, str(folder / "text")), torch.device("cpu")
    ).scores(images)
    found = results(tmp_path / "out")
    assert found["checkpoint"] == "clip" and found["isr"] is None
    expected = np.nanmean(slow_per_class(scores, labels, np.ones(16, bool)))
    assert found["gzsl"]["mAP"]["per_class"] == pytest.approx(expected, abs=1e-3)
    assert np.abs(scores).max() <= 1.0001


def test_class_prior(world, tmp_path, monkeypatch):
    folder, vocabulary, _ = world
    index = load_index(folder / "shards")
    prior, total = prior_scores(index, vocabulary), np.zeros(16)
    for shard in index.split("train"):
        reader = ShardReader(index.folder, shard)
        for sample in range(len(reader)):
            positive = json.loads(reader.json(sample))["positive"]
            total += [mid in positive for mid in vocabulary.mids]
    np.testing.assert_allclose(prior[:SEEN], total[:SEEN] / 30, rtol=1e-6)
    assert total[SEEN:].sum() and not prior[SEEN:].any()
    assert evaluate(*shared(world), "checkpoint=prior", f"out={tmp_path}/out") == 0
    _, labels = everything(world, 8)
    prevalence = [(labels[:, c] == 1).sum() / (labels[:, c] != 0).sum() for c in range(16)]
    assert results(tmp_path / "out")["gzsl"]["mAP"]["lesa"] == pytest.approx(np.mean(prevalence))
    best = np.argsort(-prior, kind="stable")[:2]
    assert len(set(np.sort(prior)[-3:])) == 3, "the test needs a prior without ties at the top"
    rows = (labels == 1).any(1)
    assert results(tmp_path / "out")["gzsl"]["F1@2"]["P"] == pytest.approx(
        (labels[rows][:, best] == 1).sum() / (2 * rows.sum())
    )
    monkeypatch.setattr("c2srt.evaluation.job.count_prior", None)
    assert evaluate(*shared(world), "checkpoint=prior", f"out={tmp_path}/out") == 0, (
        "up to date: nothing is counted"
    )


def test_what_is_known_of_a_vocabulary_stands_beside_the_results():
    """Both published constants, a difference from them, and unseen names that a seen one gives
    away.
    """
    open_images = open_images_v4()
    nus_wide = Vocabulary(NAMES, NAMES, 925)
    assert about(open_images, "test")["published"] == {
        "zsl": 1.28,
        "gzsl": 8.68,
        "over": "positive",
    }
    assert about(nus_wide, "test")["published"] == {"zsl": 1.875, "gzsl": 6.8, "over": "all"}
    assert (
        about(open_images, "validation")["published"] is None
        and about(make_vocabulary(4, 2), "test")["published"] is None
    )
    assert about(open_images, "test")["given_away"] == [
        "Rings/Ring",
        "Lamborghini/Lamborghini",
        "Snowshoe/Snowshoe",
    ]
    for vocabulary, unseen, same, row in (
        (open_images, 400, [1.2841, 8.6789], "published, such images"),
        (nus_wide, 81, [1.8751, 6.8049], "published, over all images"),
    ):
        labels = results_with(same, about(vocabulary, "test"), unseen)
        said = describe(labels)
        known = [f"{labels['published'][label_set]:g}" for label_set in ("zsl", "gzsl")]
        assert [*row.split(), *known] in [
            line.split() for line in said.splitlines()
        ] and "cannot be compared" not in said
        pairs = len({pair.split("/")[0] for pair in labels["given_away"]})
        assert (
            f"note: {pairs} of the {unseen} unseen names equal a seen one but for a plural" in said
        )
        said = describe(results_with([same[0] + 0.1, same[1]], about(vocabulary, "test"), unseen))
        assert (
            said.count("cannot be compared") == 1
            and f"ZSL has {same[0] + 0.1:.3f} positives per image" in said
        )
    assert len({pair.split("/")[0] for pair in about(nus_wide, "test")["given_away"]}) == 30


def test_twins_that_a_model_s_graph_joins_are_counted_from_its_own_table(world, tmp_path, capsys):
    """The first unseen category is called as a seen one that it hears, the second as one that it
    does not hear.
    """
    folder, vocabulary, config = world
    exported = load_export(folder / "run/model")
    heard = int(exported.graph.table[SEEN].max())
    unheard = min(set(range(SEEN)) - set(exported.graph.table[SEEN + 1].tolist()) - {heard})
    names = list(vocabulary.names)
    names[SEEN], names[SEEN + 1] = f"{names[heard]}s", f"{names[unheard]}S"
    renamed = Vocabulary(vocabulary.mids, tuple(names), SEEN)
    make_shards(tmp_path / "shards", {"test": IMAGES}, 10, renamed)
    clip = load_clip(config)
    write_text(TextConfig(config, ["a {}."], {}, str(tmp_path / "shards"), str(tmp_path / "text")))
    for run, settings in (("full", {}), ("isr", {"ist": False})):
        model = C2SRT(
            clip, ModelConfig(heads=4, neighbours=3, **settings), LossConfig(), exported.graph, SEEN
        )
        folder = tmp_path / run / "model"
        save_export(folder, model, model.state_dict(), clip, renamed, ["a {}."], {})
        given = [f"shards={tmp_path}/shards", f"text={tmp_path}/text", "topk=[2,3]"]
        assert evaluate(*given, f"checkpoint={folder}", f"out={tmp_path}/{run}/evaluation") == 0
    found, said = results(tmp_path / "full/evaluation"), capsys.readouterr().out
    assert len(found["given_away"]) == 2 and found["twins_heard"] == 1
    assert said.count("; 1 of these hear that very category as a neighbour") == 1
    assert results(tmp_path / "isr/evaluation")["twins_heard"] is None


def results_with(positives: list[float], about_: dict, unseen: int) -> dict:
    """A results.json with given positives per image, whichever images they are over."""
    return {
        "isr": None,
        "bootstrap": None,
        **about_,
        **{
            label_set: {
                "mAP": {"per_class": 0.5},
                "F1@3": {"P": 0.1, "R": 0.1, "F1": 0.1},
                "images": 10,
                "positives_per_image": value,
                "categories": {"all": unseen, "positive": 3},
                "all_images": {"positives_per_image": value},
            }
            for label_set, value in zip(("zsl", "gzsl"), positives, strict=True)
        },
    }


def test_bad_checkpoints_get_one_sentence(world, tmp_path, capsys):
    folder, _, config = world
    make_shards(tmp_path / "other", {"test": 5}, 10, make_vocabulary(SEEN + 1, UNSEEN))
    same = make_vocabulary(SEEN, UNSEEN)
    swapped = (values[1::-1] + values[2:] for values in (same.mids, same.names))
    make_shards(tmp_path / "order", {"test": 5}, 10, Vocabulary(*swapped, SEEN))
    cases = [
        ([f"checkpoint={tmp_path}"], "is not an exported model"),
        (
            [f"checkpoint={folder}/elsewhere/model"],
            f"there is {folder}/run/model: give one as checkpoint=…",
        ),
        ([f"checkpoint={folder}/run", f"shards={tmp_path}/other"], "was made for vocabulary"),
        ([f"checkpoint={folder}/run", f"shards={tmp_path}/order"], "was made for vocabulary"),
        (["checkpoint=clip", f"shards={tmp_path}/order"], "was made for vocabulary"),
        ([f"checkpoint={folder}/run", f"shards={tmp_path}/none"], "does not exist"),
        ([f"checkpoint={folder}/run", "split=validation"], "has no images of split 'validation'"),
        ([f"checkpoint={folder}/run", "topk=[5]"], "K = 5 does not fit the 4 categories of ZSL"),
        (["checkpoint=clip", f"text={tmp_path}/none"], "c2srt text"),
    ]
    for arguments, sentence in cases:
        assert evaluate(*shared(world), f"out={tmp_path}/out", *arguments) == 2
        message = capsys.readouterr().err
        assert sentence in message and "Traceback" not in message.splitlines()[-1]
        assert not (tmp_path / "out/results.json").exists()


def test_scores_that_are_not_finite_name_the_images(world, tmp_path, capsys):
    folder, vocabulary, config = world
    clip = load_clip(config)
    model = C2SRT(
        clip,
        ModelConfig(heads=4, neighbours=3),
        LossConfig(),
        random_graph(SEEN + UNSEEN, SEEN, 16, 3),
        SEEN,
    )
    with torch.no_grad():
        model.tower.proj.fill_(float("nan"))
    save_export(tmp_path / "broken", model, model.state_dict(), clip, vocabulary, ["a {}."], {})
    assert evaluate(*shared(world), f"checkpoint={tmp_path}/broken", f"out={tmp_path}/out") == 2
    assert "scores must be finite" in capsys.readouterr().err
