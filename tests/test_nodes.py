"""What many nodes are doing, in a few numbers, and which of them are unlike the others."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from c2srt.bench.many_nodes import ManyNodes
from c2srt.tracking import Run, Tracker
from c2srt.tracking.journal import Journal
from c2srt.train import node as reading
from c2srt.train.engine import Update
from c2srt.train.node import GPU_KINDS, KINDS, Node
from c2srt.train.nodes import MOST_NAMED, Nodes
from c2srt.train.recorder import METRICS, Recorder
from c2srt.train.world import World

DAY_S = 86_400
RECORD_S, NODE_S = 5, 30
"""tracking.seconds and tracking.node_seconds."""


def column(kind: str, gpu: int | None = None) -> int:
    if gpu is None:
        return KINDS.index(kind)
    return len(KINDS) + gpu * len(GPU_KINDS) + GPU_KINDS.index(kind)


def test_a_node_tells_what_it_can(monkeypatch):
    values = Node().read()
    assert len(values) == len(KINDS) + Node().gpus * len(GPU_KINDS)
    assert all(value >= 0 for value in values[: len(KINDS)])
    monkeypatch.setattr(reading.psutil, "net_io_counters", lambda: None)
    assert [math.isnan(value) for value in Node().read()[:6]] == [False] * 4 + [True] * 2


def test_the_least_mean_and_greatest_whatever_a_machine_does_not_tell():
    world = ManyNodes(nodes=4, gpus=2)
    nodes, rows = Nodes(world, 0), world.table()
    rows[world.firsts[1], column("power_usage_watts", 1)] = math.nan
    rows[world.firsts[2], column("cpu_utilization_percentage")] = 7
    rows[world.firsts, column("disk_usage_percentage")] = math.nan
    found = nodes.summary(rows)
    assert found["system/cpu_utilization_percentage/min"] == 7
    assert found["system/cpu_utilization_percentage/max"] == 40
    assert found["system/cpu_utilization_percentage/mean"] == (3 * 40 + 7) / 4
    assert found["system/gpu_power_usage_watts/mean"] == 600
    assert not [name for name in found if "disk" in name]
    assert nodes.summary(np.full_like(rows, math.nan)) == {}


def test_one_machine_has_one_number_of_a_kind():
    world = ManyNodes(nodes=1, gpus=1)
    names = Nodes(world, 0).summary(world.table())
    assert {name.rpartition("/")[2] for name in names} == {"mean"}


def test_what_is_odd_twice_is_named_once_and_so_is_its_end(caplog):
    world = ManyNodes(nodes=64, gpus=8)
    nodes, odd = Nodes(world, 0), world.table()
    odd[world.firsts[17], column("utilization_percentage", 3)] = 12
    odd[world.firsts[17], column("power_usage_watts", 3)] = 90
    odd[world.firsts[5], column("system_memory_usage_percentage")] = 95
    lines = (
        "node node-5: memory 95 % where the median is 30 %",
        "node node-17, GPU 3: utilisation 12 % where the median is 93 %, power 90 W where the"
        " median is 600 W",
    )
    with caplog.at_level("INFO", "c2srt"):
        for rows, note in (
            (odd, ""),
            (world.table(), ""),  # once is chance
            (odd, ""),
            (odd, lines),
            (odd, lines),
            (world.table(), ""),
        ):
            nodes.summary(rows)
            assert set(nodes.note.split("; ")) == set(note or [""])
    said = [record.message for record in caplog.records]
    assert sorted(said[:2]) == sorted(lines) and sorted(said[2:]) == [
        "node node-17, GPU 3 is like the others again",
        "node node-5 is like the others again",
    ]


@pytest.mark.parametrize(
    "values, odd",
    [
        ([93, 91, 94, 60], [3]),
        ([93, 91, 94, 75], []),  # less than the floor from the others
        ([90, 70, 50, 30, 10], []),  # none is like another
        ([90, 10], []),  # two machines: which of them?
        ([90, 90, 10, 10, 10], [0, 1]),
        ([math.nan, 90, 90, 90, 10], [4]),
    ],
)
def test_who_is_odd(values, odd):
    world = ManyNodes(nodes=len(values), gpus=1)
    nodes, rows = Nodes(world, 0), world.table()
    rows[world.firsts, column("utilization_percentage", 0)] = values
    nodes.summary(rows)
    nodes.summary(rows)
    assert sorted(nodes.named) == [f"node node-{number}, GPU 0" for number in odd]


def test_many_odd_ones_do_not_fill_the_log(caplog):
    world = ManyNodes(nodes=64, gpus=8)
    nodes, rows = Nodes(world, 0), world.table()
    rows[world.firsts[:20], column("temperature_celsius", 0)] = 95
    nodes.summary(rows)
    nodes.summary(rows)
    assert len(caplog.records) == MOST_NAMED and nodes.note.endswith("; and 12 more")


def recorded(folder: Path, nodes: int, step: int, odd: bool = False) -> tuple[Recorder, int]:
    """A recorder of many nodes after two records, and the bytes of the second in the journal."""
    tracker = Tracker(
        folder, f"sqlite:///{folder}/runs.db", Run("miniature", "full", {}, {}, "key")
    )
    tracker.sender.end()  # nothing is sent
    world = ManyNodes(nodes, 8, odd=odd)
    recorder = Recorder(folder, world, tracker, 0, 1 << 40, 512, node_seconds=0)
    for number in (step - 1, step):
        before = Journal(folder).size
        losses = dict.fromkeys(("loss", "ranking", "distillation", "drift"), 1 / 3)
        recorder.add(Update(losses, True, 0.123456789), 1e-3 / 3)
        recorder.flush(number)
    return recorder, Journal(folder).size - before


@pytest.mark.parametrize("nodes", [1, 64, 256])
def test_a_days_journal_stays_below_50_mb(tmp_path, nodes):
    _, size = recorded(tmp_path, nodes, 8_640_000)
    lines = (tmp_path / "tracking.jsonl").read_bytes().splitlines()
    without = len(next(line for line in reversed(lines) if b'"loss"' in line)) + 1
    day = DAY_S / RECORD_S * without + DAY_S / NODE_S * (size - without)
    assert day < 50e6 / 2


def test_odd_ones_are_text_in_the_record(tmp_path):
    recorder, _ = recorded(tmp_path, 64, 2, odd=True)
    text = "node node-9, GPU 1: utilisation 5 % where the median is 93 %"
    last = json.loads((tmp_path / METRICS).read_text().splitlines()[-1])
    assert last["outliers"] == recorder.nodes.note == text and last["loss"] == 1 / 3
    entries = [json.loads(line) for line in (tmp_path / "tracking.jsonl").read_text().splitlines()]
    assert [entry["tags"] for entry in entries if "tags" in entry] == [{"outliers": text}]
    assert "outliers" not in recorder.last


def test_nodes_are_read_on_their_own_clock(tmp_path, monkeypatch):
    world = ManyNodes(nodes=2, gpus=1)
    nodes = Nodes(world, 30)
    assert not math.isnan(nodes.row(nodes.waited())[0])  # the first record has them
    assert math.isnan(nodes.row(29)[0]) and math.isnan(nodes.row(nodes.waited())[0])
    assert not math.isnan(nodes.row(30)[0])
    assert isinstance(world, World) and world.device == torch.device("cpu")
