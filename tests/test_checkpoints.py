"""Which checkpoints count, which are refused and why, and what is cleared away."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from c2srt.errors import UserError
from c2srt.train import checkpoints
from c2srt.train.checkpoints import Record
from tests.ranks import run_ranks

RECORD = Record(3, 2, {"seed": 0, "model": {"layers": 2, "heads": 8}}, {"text": "aa", "shards": "bb"})


def make(root, step: int) -> None:
    folder = checkpoints.folder_of(root, step)
    folder.mkdir(parents=True)
    save_file({"head.source": torch.ones(2)}, folder / checkpoints.WEIGHTS)
    (folder / checkpoints.COMPLETE).write_text(json.dumps({"format": 1, **replace(RECORD, step=step).__dict__}))


def test_half_written_ones_are_ignored_and_removed(tmp_path):
    make(tmp_path, 5)
    make(tmp_path, 40)
    (tmp_path / "step-00000050").mkdir()
    (tmp_path / "step-00000060.tmp-writing").mkdir()
    (tmp_path / "step-00000060.tmp-writing" / checkpoints.COMPLETE).write_text("{}")
    assert checkpoints.newest(tmp_path).name == "step-00000040"
    checkpoints.clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005", "step-00000040"]


def test_prune_keeps_the_newest(tmp_path):
    for step in (1, 2, 10, 9):
        make(tmp_path, step)
    checkpoints.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-00000010"]
    checkpoints.prune(tmp_path, 5)
    assert len(list(tmp_path.iterdir())) == 2


def check(tmp_path, world_size=2, config=None, inputs=None) -> None:
    checkpoints.check_resumable(tmp_path, RECORD, world_size, config or RECORD.config, inputs or RECORD.inputs)


def test_another_run_is_refused_by_name(tmp_path):
    check(tmp_path)
    with pytest.raises(UserError, match="workers=2, not 3"):
        check(tmp_path, world_size=3)
    with pytest.raises(UserError, match="model.heads=8, not 4"):
        check(tmp_path, config={"seed": 0, "model": {"layers": 2, "heads": 4}})
    with pytest.raises(UserError, match=r"another shards \(hash bb, now cc\)"):
        check(tmp_path, inputs={"text": "aa", "shards": "cc"})


def test_a_damaged_checkpoint_is_refused_with_a_sentence(tmp_path):
    make(tmp_path, 5)
    folder = checkpoints.newest(tmp_path)
    assert checkpoints.read_record(folder).step == 5 and set(checkpoints.read_weights(folder)) == {"head.source"}
    (folder / checkpoints.WEIGHTS).write_bytes(b"short")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.read_weights(folder)
    (folder / checkpoints.COMPLETE).write_text('{"format": 0}')
    with pytest.raises(UserError, match="another version"):
        checkpoints.read_record(folder)


class FullDisk:
    """An engine whose part of the state does not fit on the disk."""

    def save(self, folder) -> None:
        raise OSError(28, "No space left on device", str(folder / "deepspeed"))


def write_on_full_disk(rank: int, root) -> str:
    try:
        checkpoints.write(root, FullDisk(), RECORD)
    except UserError as error:
        return str(error)
    return "written"


def test_a_full_disk_is_one_sentence_and_leaves_no_checkpoint(tmp_path):
    (sentence,) = run_ranks(1, write_on_full_disk, tmp_path)
    assert "the disk is full" in sentence
    assert checkpoints.newest(tmp_path) is None
    checkpoints.clean(tmp_path)
    assert not list(tmp_path.iterdir())
