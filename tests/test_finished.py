"""A finished training is known without a look at anything's content, unless something changed."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from c2srt.backbone.config import ClipConfig
from c2srt.train import finished
from c2srt.train.config import Config
from c2srt.train.finished import FILE, Look, known_finished
from tests.train_case import told

FOLDERS = ("shards", "text", "relations", "teacher")
STEPS = 12


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    """A training's folders, found finished."""
    monkeypatch.setattr(finished, "RACE_S", -3600.0)
    for name in (*FOLDERS, "train/checkpoints/step-00000012", "train/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    for name in ("clip.json", "train/model/config.json"):
        (tmp_path / name).write_text("{}")
    folders = {name: str(tmp_path / name) for name in FOLDERS}
    clip = ClipConfig(name=str(tmp_path / "clip.json"), pretrained="random")
    config = Config(**folders, work=str(tmp_path), out=str(tmp_path / "train"), clip=clip)
    Look(config).remember(STEPS, [clip.name])
    return config


def test_what_was_checked_in_full_is_known(config):
    assert known_finished(config) == STEPS
    assert known_finished(replace(config, out=config.work)) is None


@pytest.mark.parametrize(
    "path",
    [
        "shards/file",
        "text/file",
        "relations/file",
        "teacher/file",
        "clip.json",
        "train/model/file",
        "train/checkpoints/step-00000012/file",
    ],
)
def test_a_file_that_changed_is_noticed_whatever_its_time_and_size_say(config, path):
    file = Path(config.work) / path
    before = file.stat()
    file.write_text(file.read_text()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size and file.stat().st_mtime_ns == before.st_mtime_ns
    assert known_finished(config) is None


def test_a_file_that_came_or_went_is_noticed(config):
    more = Path(config.text) / "more"
    more.touch()
    assert known_finished(config) is None
    more.unlink()
    assert known_finished(config) == STEPS
    (Path(config.work) / "clip.json").unlink()
    assert known_finished(config) is None


def test_another_setting_or_library_is_noticed(config, monkeypatch):
    assert known_finished(replace(config, seed=config.seed + 1)) is None
    assert known_finished(told(config, steps=99)) is None
    monkeypatch.setattr(finished, "version_of", lambda library: "another")
    assert known_finished(config) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": {"a": 1}, "run": 0}'])
def test_a_broken_record_is_none(config, content):
    (config.folder / FILE).write_text(content)
    assert known_finished(config) is None


def test_nothing_is_noted_that_could_not_be_trusted(config, monkeypatch):
    record = config.folder / FILE
    record.unlink()
    look = Look(config)
    look.remember(STEPS, None)
    assert not record.exists()
    (Path(config.text) / "file").write_text("changed while it was checked")
    look.remember(STEPS, [])
    assert not record.exists()
    monkeypatch.setattr(finished, "RACE_S", 2.0)
    Look(config).remember(STEPS, [])  # a moment ago: a further change could have the same ctime
    assert not record.exists()


def test_a_training_without_an_export_is_not_looked_through(config, monkeypatch):
    monkeypatch.setattr(finished, "seen_below", lambda config: pytest.fail("every file was asked"))
    (config.folder / "model/config.json").unlink()
    assert Look(config).before is None
