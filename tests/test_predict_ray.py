"""`c2srt predict` on a Ray cluster: a task a part, and what a command without one writes."""

import json

import pytest

from c2srt.cluster.cli import main
from tests.raw_images import jpeg
from tests.tiny import tiny_export

NAMES = ("Dog", "Cat", "Tree", "Car", "Cloud", "Boat", "Zebra", "Dog")


@pytest.mark.slow
def test_ray_tasks_write_the_same(tmp_path, monkeypatch, shared_ray):
    """Names as they were given, though a task runs in another folder."""
    tiny_export(tmp_path / "model", tmp_path, NAMES, ["a {}."])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("c2srt.predict.job.PART", 2)
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(
            jpeg(number, 60, 50)[: 99 if number == 1 else None]
        )
    common = ["predict", "checkpoint=model", "images=[2.jpg,1.jpg,0.jpg]", "labels=[dog,a car]"]
    assert main([*common, "out=ray.jsonl", "workers=2"]) == 1
    monkeypatch.delenv("RAY_ADDRESS")
    assert main([*common, "out=here.jsonl", "workers=2"]) == 1
    found = (tmp_path / "ray.jsonl").read_bytes()
    assert found == (tmp_path / "here.jsonl").read_bytes()
    rows = [json.loads(line) for line in found.splitlines()]
    assert [row["image"] for row in rows] == ["2.jpg", "1.jpg", "0.jpg"]
    assert ["error" in row for row in rows] == [False, True, False]
