"""The miniature's CLIP as it comes with the package."""

import json
from importlib.resources import as_file

import pytest
import torch
from safetensors.torch import load_file, save_file

from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.backbone.tower import normalise
from c2srt.demo import shipped
from c2srt.demo.captions import captioned_chunk
from c2srt.demo.config import Config
from c2srt.demo.pretrain import clip_key
from c2srt.demo.run import came_along, estimate
from c2srt.demo.words import FIRST
from c2srt.errors import UserError
from c2srt.tables.rows import Row, Table

MOST_BYTES = 2_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    shipped.unpack(folder, 0)
    return folder


def test_it_is_small_and_of_todays_recipe():
    """If this fails: `c2srt demo pretrain=true`, then `python -m c2srt.demo.shipped FOLDER`."""
    with as_file(shipped.FILE) as path:
        assert path.stat().st_size <= MOST_BYTES
    assert shipped.shipped_record()["key"] == clip_key(0)
    assert shipped.is_shipped(0) and not shipped.is_shipped(1)


def test_it_reads_captions_of_pictures_far_above_chance(folder):
    clip = load_clip(ClipConfig(str(folder / "model.json"), str(folder / "model.safetensors")))
    pixels, captions = captioned_chunk(FIRST, 1, range(128))  # another seed's: never seen
    images = normalise(
        torch.from_numpy(pixels).permute(0, 3, 1, 2),
        torch.tensor(clip.mean),
        torch.tensor(clip.std),
    )
    with torch.no_grad():
        _, features = clip.tower(images)
        scores = features @ clip.encode_text(clip.tokenize(captions)).T
    rank = (scores > scores.diagonal()[:, None]).sum(1).float()
    assert rank.mean() < 12  # chance: 63.5


def test_its_mark_is_that_of_pretraining_and_says_where_it_came_from(folder):
    mark = json.loads((folder / "clip.json").read_text(encoding="utf-8"))
    assert mark["key"] == clip_key(0)
    assert came_along(folder / "clip.json")


def test_packing_what_was_unpacked_gives_the_same_file(folder, tmp_path, monkeypatch):
    with as_file(shipped.FILE) as path:
        before = load_file(path)
    monkeypatch.setattr(shipped, "FILE", tmp_path / "packed.safetensors")
    monkeypatch.setattr(shipped, "used_tokens", lambda seed: before["tokens"])
    shipped.pack(folder, 0)
    after = load_file(tmp_path / "packed.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_changed_value_is_refused_and_writes_nothing(tmp_path, monkeypatch):
    with as_file(shipped.FILE) as path:
        state = load_file(path)
    record = shipped.shipped_record()
    state["logit_scale"] += 1e-6
    changed = tmp_path / "changed.safetensors"
    save_file(state, changed, record)
    monkeypatch.setattr(shipped, "FILE", changed)
    with pytest.raises(UserError, match="came out as another one"):
        shipped.unpack(tmp_path / "clip", 0)
    assert not (tmp_path / "clip").exists()


@pytest.mark.parametrize(
    "drawing, changes, trainings, said",
    [
        (10, {}, 1, "3:25"),
        (10, {"pretrain": True}, 1, "7:55"),
        (10, {"seeds": 3}, 5, "23:45"),
        (0.1, {}, 1, None),  # it was drawn before
    ],
)
def test_the_demo_estimates_its_duration(drawing, changes, trainings, said):
    images = {"train": 6000, "validation": 1500, "test": 2500}
    tables = {"main": Table("", [Row("full", run="full")])}
    config = Config(work="w", seed=0, workers=2, images=images, tables=tables, **changes)
    assert estimate(drawing, config, trainings) == said
