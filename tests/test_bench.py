"""`c2srt bench`: both sides of every benchmark compute the same, and a run leaves a table and a
JSON file.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from c2srt.bench import (
    evaluation,
    head as cases,
    loader as loaders,
    loss as loss_cases,
    packing as packings,
)
from c2srt.bench.config import Config
from c2srt.bench.drawn_shards import draw_shards
from c2srt.bench.run import CASES
from c2srt.bench.sizes import make_inputs
from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.model.chunks import Buffers
from c2srt.model.config import LossConfig
from c2srt.model.ist import Table, Transfer, with_self_loops
from c2srt.profiling import Side, Stopwatch, allocator_peak, measure
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from tests.tiny import tiny_clip_config

SMALL = {
    "categories": 60,
    "patches": 9,
    "width": 16,
    "heads": 2,
    "batch": 2,
    "large_batch": 3,
    "repeats": 2,
    "threads": 1,
    "device": "cpu",
    "images": 70,
    "unseen": 25,
    "labels": 900,
    "compared": 9,
    "pictures": 40,
    "photographs": 24,
    "nodes": 3,
    "days": 1,
}

FEW = ("photographs=2", "device=cpu")


def small(what: str) -> Config:
    return Config(what=what, **SMALL)


@pytest.mark.parametrize(
    "kind, literal",
    [(Transfer, cases.literal_layer), (cases.Convolution, cases.literal_convolution)],
)
def test_the_layer_of_both_sides_has_the_same_gradient(kind, literal):
    inputs = make_inputs(small("gat"), 1, layers=1)
    rows, upstream = torch.randn(60, 16, requires_grad=True), torch.randn(60, 16)
    literal(inputs, rows, upstream)
    table = Table(with_self_loops(inputs.graph.table, True))
    gradient = cases.table_layer(kind, inputs, rows.detach(), upstream, table, Buffers())
    torch.testing.assert_close(gradient, rows.grad, rtol=1e-4, atol=1e-5)


def test_the_patches_of_both_sides_have_the_same_mean():
    inputs = make_inputs(small("isr"), 1)
    arguments = (inputs.patches.detach(), inputs.graph.text, inputs)
    torch.testing.assert_close(
        cases.select_and_multiply(*arguments),
        cases.sort_and_gather(*arguments),
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_three_losses_have_the_same_value_and_gradient():
    scores = torch.randn(2, 60, dtype=torch.double, requires_grad=True)
    found = []
    for form in (loss_cases.sorted_positives, loss_cases.all_pairs, loss_cases.loop):
        positive = torch.rand(2, 60, generator=torch.Generator().manual_seed(1)).argsort(1) < 7
        value = loss_cases.step(form, scores, positive)
        found.append((value.detach(), scores.grad))
    for value, gradient in found[1:]:
        torch.testing.assert_close(value, found[0][0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-9, atol=1e-12)


def test_both_heads_have_the_same_gradient():
    inputs = make_inputs(small("head"), 1)
    labels = inputs.labels(6, 2)
    cases.literal_step(inputs, labels)
    literal = inputs.patches.grad
    cases.tiled_step(inputs, labels, LossConfig())
    torch.testing.assert_close(inputs.patches.grad, literal, rtol=1e-3, atol=1e-6)
    assert (labels == 1).sum(1).tolist() == [2] and (labels == -1).sum(1).tolist() == [4]


def test_the_literal_reader_gives_the_same_batches(tmp_path):
    """Also where every read waits."""
    index, vocabulary = draw_shards(tmp_path, 40, 0)
    sides = (loaders.Mapped, 0.0), (loaders.Ours, 0.0), (loaders.Ours, 0.002)
    literal, *others = (side(index, vocabulary, latency)() for side, latency in sides)
    assert sum(len(batch.ids) for batch in literal) == 48  # 40 and padding
    for batches in others:
        for one, other in zip(batches, literal, strict=True):
            assert one.ids == other.ids and torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)


def test_a_folder_and_urls_give_the_same_pictures(tmp_path):
    raw, config = packings.Raw(tmp_path, 9, 0), small("packing")
    config.photographs = 9
    found = []
    for images in ("folders", "urls"):
        watch = packings.shards(raw, config, images)
        assert watch.seconds > 0 and watch.cpu > 0 and watch.peak > 1 << 20
        index = load_index(tmp_path / "shards")
        readers = [ShardReader(index.folder, shard) for shard in index.split("train")]
        found.append([reader.jpeg(each) for reader in readers for each in range(len(reader.ids))])
    assert len(found[0]) == 9 and found[0] == found[1]
    config.photographs = 10
    with pytest.raises(UserError, match="9 of 10 pictures were packed"):
        packings.shards(raw, config, "folders")


def test_what_a_process_leaves_behind_counts_and_what_it_imports_does_not(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    raw = SimpleNamespace(folder=tmp_path)
    watch = packings.metered_run(raw, sys.executable, "orphans:work", {"cpu_s": 0.1}, {})
    assert 0.1 <= watch.cpu < 1
    with pytest.raises(UserError, match="orphans:work failed in the benchmark.*ZeroDivisionError"):
        packings.metered_run(raw, sys.executable, "orphans:work", {"cpu_s": 1 / 3 - 1 / 3}, {})


def test_what_python_compiles_is_kept_for_the_next_turn(tmp_path, monkeypatch):
    (tmp_path / "keeping.py").write_text(KEEPING)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    raw = SimpleNamespace(folder=tmp_path)
    packings.metered_run(raw, sys.executable, "keeping:kept", {"folder": str(tmp_path)}, {})
    assert next((tmp_path / "compiled").rglob("keeping.*.pyc")).is_file()


KEEPING = """
import sys

def kept(folder):
    assert not sys.dont_write_bytecode and sys.pycache_prefix.startswith(folder)
"""
ORPHANS = """
import os, time

while time.process_time() < 1:  # as an import that takes its time
    pass


def work(cpu_s):
    1 / cpu_s
    if os.fork() == 0:
        if os.fork() == 0:
            until = time.process_time() + cpu_s
            while time.process_time() < until:
                pass
        os._exit(0)
"""


def test_a_split_is_the_same_in_any_block():
    split = evaluation.Split(small("evaluation"))
    scores, columns = split.scores(0), np.array([3, 40, 84])
    assert (
        scores.shape == (70, 85)
        and 0 < scores.min() < 0.45 < 0.55 < scores.max() < 1
        and split.seen.sum() == 60
    )
    labels = split.fill_labels(0, np.empty((80, 85), np.int8))
    assert (
        labels.shape == scores.shape
        and np.abs(labels).sum() == 900
        and 0.6 < (labels == 1).sum() / 900 < 0.72
    )
    np.testing.assert_array_equal(split.labels_of(columns), labels[:, columns])
    np.testing.assert_array_equal(split.scores(0, columns), scores[:, columns])
    for start in (0, 32, 64):
        some = split.scores(start, out=np.empty((32, 85), np.float32))
        np.testing.assert_array_equal(some, scores[start : start + 32])
        np.testing.assert_array_equal(
            split.fill_labels(start, np.ones((32, 85), np.int8)), labels[start : start + 32]
        )


def test_average_precisions_of_both_sides_are_equal_and_a_difference_is_refused(monkeypatch):
    split, columns = evaluation.Split(small("evaluation")), np.arange(85)
    scores, labels = np.round(split.scores(0), 2), split.labels_of(columns)
    expected = [
        average_precision_score(label[label != 0] == 1, score[label != 0])
        if (label == 1).any()
        else 0
        for score, label in zip(scores.T, labels.T, strict=True)
    ]
    pool = ThreadPoolExecutor(2)
    for found in (
        evaluation.verified_precision(scores, labels, pool),
        evaluation.loop(scores, labels, True),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    target = torch.from_numpy(np.where(labels == 0, -1, labels == 1).astype(np.int64))
    arrays = scores, labels, torch.from_numpy(scores), target, pool
    evaluation.check(*arrays)
    monkeypatch.setattr(evaluation, "loop", lambda *_: np.array(expected) + 1e-6)
    with pytest.raises(UserError, match="differs from a sort per category"):
        evaluation.check(*arrays)


def test_a_call_may_say_what_counts_as_its_time():
    def call():
        watch = Stopwatch()
        with watch:
            time.sleep(0.01)
        time.sleep(0.2)
        return watch

    side, began, worked = Side("x", call, numpy=True), time.perf_counter(), time.process_time()
    measure([side], 1, 0, torch.device("cpu"), lambda line: None)
    assert (
        0.01 <= side.seconds[0] <= time.perf_counter() - began - 0.2
    )  # the second sleep is not in it
    assert 0 <= side.cpu[0] <= time.process_time() - worked


@pytest.mark.parametrize(
    "what",
    [pytest.param(what, marks=pytest.mark.slow) if what == "tracking" else what for what in CASES],
)
def test_a_run_prints_a_table_and_writes_json(what, tmp_path, capsys):
    clip = tiny_clip_config(tmp_path)
    sizes = [f"{key}={value}" for key, value in SMALL.items()]
    assert main(["bench", what, f"out={tmp_path}", f"clip={clip.name}", *sizes]) == 0
    written = json.loads((tmp_path / f"{what}.json").read_text())
    timed = [side for side in written["sides"] if side["seconds"]]
    assert len(timed) >= 2 and all(
        len(side["seconds"]) == 2 and side["milliseconds_per_image"] > 0 for side in timed
    )
    assert written["sides"][0]["times_faster"] == 1 and written["gemm_gflops"] > 0
    printed = capsys.readouterr().out
    assert all(side["side"] in printed for side in written["sides"]) and "GFLOP/s" in printed


def test_memory_is_the_most_that_is_held_at_once():
    def call():
        first = torch.empty(1000, 1000)
        del first
        return torch.empty(500, 1000)

    assert 4_000_000 <= allocator_peak(call) < 4_100_000
    side = Side("x", call, returned=2_000_000)
    measure([side], 1, 0, torch.device("cpu"), lambda line: None)
    assert 2_000_000 <= side.peak < 2_100_000


def test_numpy_memory_is_counted_where_asked():
    side = Side("x", lambda: np.ones((500, 1000), np.float32), numpy=True)
    measure([side], 1, 0, torch.device("cpu"), lambda line: None)
    assert 2_000_000 <= side.peak < 2_100_000


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["bench"], "what="),
        (["bench", "speed"], "choose one of head"),
        (["bench", "isr", "categories=0"], "categories=0 must be at least 1"),
        (["bench", "head", "present=5"], "must not decrease"),
        (["bench", "gat", "precision=int8"], "fp32, bf16"),
        (["bench", "evaluation", "images=10"], "labels=1667399 are too many"),
        (["bench", "head", "tile_mib=1", "device=cpu"], "raise model.tile_mib"),
        (["bench", "packing", "peer=/nowhere/python", *FEW], "is no Python that has img2dataset"),
        (["bench", "packing", f"peer={sys.executable}", *FEW], "is no Python that has img2dataset"),
    ],
)
def test_senseless_sizes_are_refused(arguments, sentence, capsys):
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err
