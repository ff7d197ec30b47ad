"""Which checkpoints count, which are refused and why, and what is cleared away."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from c2srt.errors import UserError
from c2srt.files import sha256_of_file
from c2srt.train import checkpoints
from c2srt.train.checkpoints import Record

RECORD = Record(
    3, 2, {"seed": 0, "model": {"layers": 2, "heads": 8}}, {"text": "aa", "shards": "bb"}
)


def make(root, step: int) -> Path:
    """A small but whole checkpoint."""
    folder = checkpoints.folder_of(root, step)
    folder.mkdir(parents=True)
    save_file({"head.source": torch.ones(2)}, folder / checkpoints.WEIGHTS)
    save_file({"exp_avg.head.source": torch.ones(2)}, folder / checkpoints.OPTIMIZER)
    files = {
        name: sha256_of_file(folder / name) for name in (checkpoints.WEIGHTS, checkpoints.OPTIMIZER)
    }
    record = replace(RECORD, step=step, files=files)
    (folder / checkpoints.COMPLETE).write_text(
        json.dumps({"format": checkpoints.FORMAT, **record.__dict__})
    )
    return folder


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
    for step in (1, 2, 10, 9, 30):
        make(tmp_path, step)
    checkpoints.prune(tmp_path, 2, 10)  # 30 is damaged, or the run would not be at step 10
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000009",
        "step-00000010",
        "step-00000030",
    ]
    checkpoints.prune(tmp_path, 5, 30)
    assert len(list(tmp_path.iterdir())) == 3


def check(tmp_path, config=None, inputs=None) -> None:
    checkpoints.check_resumable(tmp_path, RECORD, config or RECORD.config, inputs or RECORD.inputs)


def test_another_run_is_refused_by_name(tmp_path):
    check(tmp_path)
    with pytest.raises(UserError, match="model.heads=8, not 4"):
        check(tmp_path, config={"seed": 0, "model": {"layers": 2, "heads": 4}})
    with pytest.raises(UserError, match=r"another shards \(hash bb, now cc\)"):
        check(tmp_path, inputs={"text": "aa", "shards": "cc"})


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", (checkpoints.WEIGHTS, checkpoints.OPTIMIZER, checkpoints.COMPLETE))
@pytest.mark.parametrize("harm", (cut_short, flip_a_bit, Path.unlink))
def test_a_damaged_checkpoint_is_passed_over_with_a_line(tmp_path, capsys, name, harm):
    make(tmp_path, 5)
    newer = make(tmp_path, 40)
    harm(newer / name)
    assert checkpoints.newest(tmp_path).name == "step-00000005"
    said = capsys.readouterr().out
    if not (name == checkpoints.COMPLETE and harm is Path.unlink):  # then it was never whole
        assert said.count("\n") == 1 and f"checkpoint {newer} is damaged" in said and name in said


def test_nothing_but_damaged_ones_is_an_error(tmp_path):
    assert checkpoints.newest(tmp_path) is None
    cut_short(make(tmp_path, 5) / checkpoints.WEIGHTS)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        checkpoints.newest(tmp_path)


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    folder = make(tmp_path, 5)
    assert checkpoints.read_record(folder).step == 5 and set(checkpoints.read_weights(folder)) == {
        "head.source"
    }
    moments = checkpoints.open_moments(folder)
    assert torch.equal(moments("exp_avg.head.source"), torch.ones(2))
    with pytest.raises(UserError, match="cannot be read"):
        moments("exp_avg.tower.proj")
    for name, read in (
        (checkpoints.WEIGHTS, checkpoints.read_weights),
        (checkpoints.OPTIMIZER, checkpoints.open_moments),
    ):
        (folder / name).write_bytes(b"short")
        with pytest.raises(UserError, match="cannot be read"):
            read(folder)
    for content in ('{"format": 1}', '{"format": 2, "strange": 0}'):
        (folder / checkpoints.COMPLETE).write_text(content)
        with pytest.raises(UserError, match="another version"):
            checkpoints.read_record(folder)


class Harmful:
    """What a pickle may do when it is read."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_a_pickle_in_a_files_place_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make(tmp_path / "checkpoints", 5)
    for name, read in (
        (checkpoints.WEIGHTS, checkpoints.read_weights),
        (checkpoints.OPTIMIZER, checkpoints.open_moments),
    ):
        torch.save(Harmful(), folder / name)
        with pytest.raises(UserError, match="cannot be read"):
            read(folder)
    assert not Path("harmed").exists()
    torch.load((folder / name).rename("file.pt"), weights_only=False)  # it could have done harm
    assert Path("harmed").exists()
