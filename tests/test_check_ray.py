"""`c2srt check cluster` on a Ray cluster: a probe in a task on every node."""

import json

import pytest

from c2srt.cluster.check import named
from c2srt.errors import UserError
from tests.verbs import run_verb


def test_the_nodes_of_a_ray_cluster(tmp_path, shared_ray, capsys):
    keys = ["what=cluster", f"work={tmp_path}", "parts=[versions,clock,places]", "seconds=300"]
    assert run_verb("check", keys) == 0
    content = json.loads((tmp_path / "cluster.json").read_text())
    (node,) = content["names"]
    assert content["silent"] == {} and content["findings"] == []
    assert content["answers"]["places"][node]["work"]["word"]
    assert "1 node looked at in" in capsys.readouterr().out


def test_what_is_written_must_last(tmp_path, shared_ray, monkeypatch):
    copied = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    copied.mkdir(parents=True)
    monkeypatch.chdir(copied)
    with pytest.raises(UserError, match="an absolute path on shared storage"):
        run_verb("check", ["what=cluster", "work=runs/miniature"])


def test_nodes_of_one_host_are_told_apart():
    nodes = [
        {"NodeManagerHostname": "a", "NodeID": "1234567"},
        {"NodeManagerHostname": "b", "NodeID": "2345678"},
        {"NodeManagerHostname": "a", "NodeID": "3456789"},
    ]
    assert named(nodes) == {"a-123456": "1234567", "b": "2345678", "a-345678": "3456789"}
