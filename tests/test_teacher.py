"""The teacher cache: right features of every image and view, resumed after a kill, refused when it
does not match.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.backbone.tower import normalise
from c2srt.cluster.session import connect
from c2srt.cluster.teacher import Config, run
from c2srt.errors import UserError
from c2srt.files import write_json
from c2srt.loader import LoaderConfig, train_batches
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.teacher import cache as teacher
from c2srt.teacher.cache import FILE, TeacherCache, cache_key, write_shard
from c2srt.view_config import ViewConfig
from c2srt.views import centre_pixels, decode
from tests.shard_folder import make_shards, make_vocabulary

VOCABULARY = make_vocabulary()
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with shards, a tiny CLIP's config and a cache made by the plain functions."""
    folder = tmp_path_factory.mktemp("teacher")
    make_shards(folder / "shards", {"train": 19, "test": 5}, 8, VOCABULARY)
    (folder / "clip.json").write_text(json.dumps(TINY))
    make_cache(config_of(folder))
    return folder


@pytest.fixture(scope="module")
def cluster(shared_ray):
    """A real Ray for the verb."""
    connect(2)


def make_cache(config: Config) -> None:
    """What the verb does, shard by shard in this process."""
    index, clip, out = load_index(Path(config.shards)), load_clip(config.clip), Path(config.out)
    for shard in index.split("train"):
        write_shard(clip, config.views, config.seed, index, shard, out, config.batch, "cpu")
    write_json(out / FILE, key_of(config))


def config_of(work: Path, **changes) -> Config:
    clip = ClipConfig(str(work / "clip.json"), "random")
    settings = {
        "views": ViewConfig(count=3),
        "shards": str(work / "shards"),
        "out": str(work / "cache"),
        "batch": 10,
    }
    return Config(**{"clip": clip, **settings, **changes})


def key_of(config: Config, splits=("train",)) -> dict:
    return cache_key(
        load_clip(config.clip),
        config.views,
        config.seed,
        load_index(Path(config.shards)),
        list(splits),
    )


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}


def test_the_files_are_aligned_and_small(work):
    sizes = {
        path.name: np.load(path, mmap_mode="r").shape for path in (work / "cache").glob("*.npy")
    }
    assert sizes == {
        "train-000000.npy": (3, 8, 16),
        "train-000001.npy": (3, 8, 16),
        "train-000002.npy": (3, 3, 16),
    }
    assert all(
        path.stat().st_size <= np.load(path).nbytes + 128 for path in (work / "cache").glob("*.npy")
    )  # an .npy header


@pytest.mark.parametrize("workers", [0, 1])
def test_the_cached_feature_is_the_teachers_of_the_very_pixels_in_the_batch(work, workers):
    config = config_of(work)
    index, clip = load_index(work / "shards"), load_clip(config.clip)
    cache = TeacherCache.open(work / "cache", key_of(config))
    loader = LoaderConfig(32, batch=8, micro_batch=4, views=config.views, workers=workers)
    mean, std = torch.tensor(clip.mean), torch.tensor(clip.std)
    batches = list(train_batches(loader, index, VOCABULARY, stop_step=4 * 3, teacher=cache))
    assert {batch.epoch for batch in batches} == {0, 1, 2, 3}  # three views, then the first again
    for batch in batches:
        assert batch.teacher.dtype == torch.float16 and batch.teacher.shape == (4, 16)
        expected = clip.tower(normalise(batch.images, mean, std))[1]
        torch.testing.assert_close(batch.teacher.float(), expected, atol=2e-3, rtol=2e-3)


def test_views_and_images_have_features_of_their_own(work):
    features = np.load(work / "cache" / "train-000000.npy").reshape(24, 16)
    assert len(np.unique(features, axis=0)) == 24


def test_the_verb_writes_what_the_plain_functions_write(work, cluster, tmp_path):
    run(config_of(work, out=str(tmp_path)))
    made, expected = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (tmp_path, work / "cache")
    )
    assert made == expected


def test_running_again_does_nothing(work, capsys):
    before = stamps(work / "cache")
    run(config_of(work))
    assert stamps(work / "cache") == before and "nothing to do" in capsys.readouterr().out


def test_a_missing_shard_or_marker_is_made_again_alone(work, cluster):
    before, content = stamps(work / "cache"), (work / "cache" / "train-000001.npy").read_bytes()
    (work / "cache" / "train-000001.json").unlink()
    (work / "cache" / "train-000001.npy.tmp-4194305").write_text("left by a killed run")
    run(config_of(work))
    after = stamps(work / "cache")
    assert {name for name in before if before[name] != after[name]} == {"train-000001.npy"}
    assert (work / "cache" / "train-000001.npy").read_bytes() == content
    assert not list((work / "cache").glob("*.tmp-*"))


@pytest.mark.parametrize(
    "damage",
    (
        lambda path: os.truncate(path, 300),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text("[]"),
    ),
    ids=("cut", "marker", "no marker"),
)
def test_a_damaged_shard_is_computed_again(work, cluster, damage):
    features = work / "cache" / "train-000001.npy"
    content, other = features.read_bytes(), (work / "cache" / "train-000000.npy").stat().st_mtime_ns
    damage(features)
    run(config_of(work))
    assert (
        features.read_bytes() == content
        and (work / "cache" / "train-000000.npy").stat().st_mtime_ns == other
    )


def test_a_complete_cache_is_used_where_nothing_can_be_written(work, monkeypatch, capsys):
    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        for name in ("replace", "unlink", "mkdir", "rmdir", "rename"):
            patched.setattr(os, name, refused)
        patched.setattr("c2srt.lock.opened", refused)
        run(config_of(work))
    assert "nothing to do" in capsys.readouterr().out


def test_other_views_compute_the_cache_again_and_say_why(work, cluster, capsys):
    out = str(work / "again")
    run(config_of(work, out=out))
    run(config_of(work, out=out, views=ViewConfig(count=3, scale_min=0.6)))
    assert "views.scale_min=0.3, not 0.6: computing it again" in capsys.readouterr().out
    assert not np.array_equal(
        np.load(work / "again" / "train-000000.npy"), np.load(work / "cache" / "train-000000.npy")
    )


def test_count_0_caches_the_centre_view(work, cluster):
    config = config_of(
        work, out=str(work / "centre"), views=ViewConfig(count=0), splits=["train", "test"]
    )
    run(config)
    cache = TeacherCache.open(work / "centre", key_of(config, ["test"]))
    features = cache.features(["test-000000"] * 5, np.arange(5), 0)
    reader, clip = (
        ShardReader(work / "shards", load_index(work / "shards").split("test")[0]),
        load_clip(config.clip),
    )
    pixels = torch.stack([centre_pixels(decode(reader.jpeg(sample)), 32) for sample in range(5)])
    expected = clip.images.global_features(pixels)
    torch.testing.assert_close(torch.from_numpy(features).float(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"views": ViewConfig(count=3, scale_min=0.5)}, "views.scale_min=0.3, not 0.5"),
        ({"views": ViewConfig(count=4)}, "views.count=3, not 4"),
        ({"views": ViewConfig(count=0)}, "views.count=3, not 0"),
        ({"seed": 1}, "seed=0, not 1"),
    ],
)
def test_a_cache_of_other_settings_is_refused(work, changes, message):
    with pytest.raises(UserError, match=f"{message}: rebuild it with `c2srt teacher`"):
        TeacherCache.open(work / "cache", key_of(config_of(work, **changes)))


def test_a_cache_of_another_clip_or_split_or_shards_is_refused(work, tmp_path):
    other = TINY | {"embed_dim": 8}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="clip="):
        TeacherCache.open(
            work / "cache",
            key_of(config_of(work, clip=ClipConfig(str(tmp_path / "other.json"), "random"))),
        )
    with pytest.raises(UserError, match="shards.test=None"):
        TeacherCache.open(work / "cache", key_of(config_of(work), ["test"]))
    make_shards(tmp_path / "shards", {"train": 19}, 8, VOCABULARY, seed=1)
    with pytest.raises(UserError, match="shards.train="):
        TeacherCache.open(work / "cache", key_of(config_of(work, shards=str(tmp_path / "shards"))))


def test_a_cache_with_more_views_serves_fewer(work):
    TeacherCache.open(work / "cache", key_of(config_of(work, views=ViewConfig(count=2))))


def test_centre_views_serve_every_seed_and_crop_setting(work):
    one = key_of(config_of(work, seed=0, views=ViewConfig(count=0, scale_min=0.3)))
    other = key_of(config_of(work, seed=1, views=ViewConfig(count=0, scale_min=0.5)))
    assert one == other and teacher.difference(one, other) is None
    assert teacher.difference(one, key_of(config_of(work))) == "views.count=0, not 3"


def test_an_absent_or_unfinished_cache_is_refused(work, tmp_path):
    with pytest.raises(
        UserError, match="teacher.json does not exist: make it with `c2srt teacher`"
    ):
        TeacherCache.open(tmp_path, key_of(config_of(work)))


def test_a_damaged_file_is_named(work, tmp_path):
    (tmp_path / "train-000000.npy").write_bytes(
        (work / "cache" / "train-000000.npy").read_bytes()[:-5]
    )
    with pytest.raises(
        UserError,
        match="train-000000.npy has 891 bytes, where its header says 896: .*c2srt teacher",
    ):
        TeacherCache(tmp_path, 16).file("train-000000")


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_a_feature_beyond_half_precision_is_refused_and_nothing_is_marked(
    work, tmp_path, monkeypatch, value
):
    clip, index = load_clip(config_of(work).clip), load_index(work / "shards")
    clip.tower.proj.data[0, 0] = value
    with pytest.raises(
        UserError, match=r"feature of image 000{14} in .*train-000000.tar is beyond half precision"
    ):
        write_shard(clip, ViewConfig(), 0, index, index.split("train")[0], tmp_path, 8, "cpu")
    assert not list(tmp_path.iterdir())


def test_a_killed_run_is_finished_by_the_next(work, cluster, tmp_path):
    """SIGKILL as soon as the first shard is there; the second run keeps it and ends with an
    undisturbed run's bytes.
    """
    program = (
        "import sys; from pathlib import Path; from tests.test_teacher import config_of; "
        "from c2srt.cluster.teacher import run; "
        "run(config_of(Path(sys.argv[1]), out=sys.argv[2], workers=1))"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", program, str(work), str(tmp_path)], cwd=Path(__file__).parent.parent
    )
    while job.poll() is None and not list(tmp_path.glob("*.json")):
        time.sleep(0.005)
    job.kill()
    job.wait()
    kept = stamps(tmp_path)
    assert kept
    time.sleep(1)  # Ray's processes of the killed job notice and end
    run(config_of(work, out=str(tmp_path)))
    for path in (work / "cache").glob("*.npy"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    TeacherCache.open(tmp_path, key_of(config_of(work)))


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="workers=0"):
        Config(workers=0)
    with pytest.raises(UserError, match="names nothing"):
        Config(splits=[])
