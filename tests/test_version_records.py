"""The versions in records: what they say on resume, and that they decide nothing."""

import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from c2srt.export.files import CONFIG_FILE, identity
from c2srt.files import write_json
from c2srt.opened import read_json
from c2srt.train import checkpoints
from c2srt.train.config import Config
from c2srt.versions import VERSIONS, others, versions
from tests.ranks import run_ranks
from tests.train_case import make_case, said_while_training, told, train_rank

NEEDED = ("c2srt", "python", "torch", "torchvision", "open_clip_torch", "numpy", "deepspeed")


def test_every_library_that_computes_has_its_version():
    import torch

    assert tuple(versions()) == NEEDED
    assert torch.__version__.startswith(versions()["torch"])


def test_other_versions_are_named_with_both_numbers():
    now = versions()
    assert others(now) == others({}) == others({"of a later release": "1"}) == ""
    assert others({**now, "torch": "2.11.0"}) == f"torch 2.11.0 (now {now['torch']})"
    several = others({"numpy": "1", "c2srt": "0.0.1"})
    assert several == f"c2srt 0.0.1 (now {now['c2srt']}), numpy 1 (now {now['numpy']})"


def changed_by_hand(path: Path, **another: str) -> None:
    content = read_json(path, "")
    content[VERSIONS] |= another
    write_json(path, content)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished training of two steps, each with its checkpoint."""
    case = make_case(tmp_path_factory.mktemp("versions"))
    config = replace(told(case, steps=2, checkpoint_every=1), workers=1)
    run_ranks(1, train_rank, config)
    return config


def copy_start(source: Config, name: str) -> tuple[Config, Path]:
    """A training that was ended after its first step, and its checkpoint's record."""
    target = replace(source, out=str(Path(source.work) / name))
    folders = [checkpoints.folder_of(one.folder / "checkpoints", 1) for one in (source, target)]
    shutil.copytree(*folders)
    return target, folders[1] / checkpoints.COMPLETE


def test_a_training_leaves_its_versions(trained):
    for checkpoint in checkpoints.complete(trained.folder / "checkpoints"):
        assert checkpoints.read_record(checkpoint).versions == versions()
    for name in ("train.json", f"model/{CONFIG_FILE}"):
        assert read_json(trained.folder / name, "")[VERSIONS] == versions()


def test_a_resume_names_the_versions_of_the_checkpoint(trained):
    config, record = copy_start(trained, "elsewhere")
    changed_by_hand(record, torch="2.11.0")
    (said,) = run_ranks(1, said_while_training, config)
    assert said.count("this checkpoint was written with") == 1
    assert f"written with torch 2.11.0 (now {versions()['torch']}): " in said
    assert checkpoints.read_record(checkpoints.newest(config.folder / "checkpoints")) == replace(
        checkpoints.read_record(checkpoints.newest(trained.folder / "checkpoints")),
        settings=config.settings(),
        run_id=ANY,
        metrics=ANY,
    )


def test_a_checkpoint_without_versions_goes_on(trained):
    config, record = copy_start(trained, "earlier")
    content = read_json(record, "")
    del content[VERSIONS]
    write_json(record, content)
    (said,) = run_ranks(1, said_while_training, config)
    assert "of which 1 are done" in said and "written with" not in said


def test_an_exports_identity_is_what_it_was_before_and_not_its_versions(trained, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(trained.folder / "model", folder)
    before = identity(folder)
    changed_by_hand(folder / CONFIG_FILE, torch="2.11.0")
    assert identity(folder) == before
    content = read_json(folder / CONFIG_FILE, "")
    del content[VERSIONS]
    write_json(folder / CONFIG_FILE, content)
    assert identity(folder) == before
    content["templates"] = ["another {}."]
    write_json(folder / CONFIG_FILE, content)
    assert identity(folder) != before
