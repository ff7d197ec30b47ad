"""A folder of images → one shard, without Ray: formats, statuses, unwritable places."""

import dataclasses
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from c2srt.errors import UserError
from c2srt.executor import open_local
from c2srt.keys import deciding
from c2srt.shard_reader import ShardReader
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.folders import find_folders
from c2srt.sharding.inputs import inputs_path, prepare_inputs
from c2srt.sharding.job import make_shards
from c2srt.sharding.openimages import OpenImages
from c2srt.sharding.pack import add_member, end_tar, finished, pack_shard
from c2srt.sharding.packs import PackSource, pack_tasks, stage_pack
from c2srt.sharding.raw_files import find_root
from c2srt.sharding.tasks import choose_source, shard_tasks, status_counts
from tests.packed import prepared, sidecar, tasks_of
from tests.raw_images import digests, jpeg, name, write_csvs, write_folder, write_pack


def test_a_shard_of_a_folder_has_every_input_and_every_sample(tmp_path):
    """Good, missing, corrupt, turned, without labels, with labels but not listed."""
    ids = [name(number) for number in range(6)]
    config, out = prepared(
        tmp_path,
        [
            {"id": ids[0]},
            {"id": ids[1]},
            {"id": ids[2]},
            {"id": ids[3], "rotation": 90.0},
            {"id": ids[4], "labels": []},
            {"id": ids[5], "listed": False, "labels": [("/g/03", 1)]},
        ],
    )
    write_folder(
        tmp_path / "raw",
        "train",
        {ids[0]: jpeg(0), ids[2]: jpeg(2)[:500], ids[3]: jpeg(3), ids[4]: jpeg(4), ids[5]: jpeg(5)},
    )
    (shard,) = [pack_shard(task) for task in tasks_of(config, out)]
    rows = sidecar(out, shard)
    assert list(rows) == sorted(ids)
    assert [rows[each]["status"] for each in ids] == [
        "ok",
        "missing",
        "corrupt",
        "ok",
        "no_labels",
        "ok",
    ]
    assert all(bool(row["reason"]) == (row["status"] != "ok") for row in rows.values())
    assert (rows[ids[3]]["width"], rows[ids[3]]["height"]) == (32, 48) and (
        rows[ids[0]]["width"],
        rows[ids[0]]["height"],
    ) == (
        48,
        32,
    )
    assert (shard.inputs, shard.count, shard.first, shard.last) == (
        6,
        3,
        sorted(ids)[0],
        sorted(ids)[-1],
    )
    reader = ShardReader(out, shard)
    assert reader.ids == sorted([ids[0], ids[3], ids[5]])
    for sample, image_id in enumerate(reader.ids):
        text = json.loads(reader.json(sample))
        image = Image.open(io.BytesIO(reader.jpeg(sample)))
        image.load()
        assert text["id"] == image_id and image.size == (text["width"], text["height"]) == (
            rows[image_id]["width"],
            rows[image_id]["height"],
        )
    text = json.loads(reader.json(reader.ids.index(ids[3])))
    assert (text["positive"], text["negative"]) == (["/m/01"], ["/m/02"])
    assert text["attribution"] == {
        "author": 'Ann "A", B',
        "license": "https://creativecommons.org/licenses/by/2.0/",
        "landing_url": "",
        "title": "two\nlines",
    }
    assert text["source"]["orientation"] == 8 and text["source"]["from"] == "folders"


@pytest.mark.parametrize("odd", ["run [1]", "run?", "run*", "{a,b}", "50%25#x", "s3:run"])
def test_a_folder_of_any_name_is_no_pattern(tmp_path, odd):
    """Beside it lies one that a pattern would find, with other images."""
    for number, place in enumerate((tmp_path / "run1", tmp_path / odd)):
        ids = [name(number)]
        config, out = prepared(place, [{"id": image_id} for image_id in ids])
        write_pack(
            place / "raw/train_0.tar.gz",
            [(f"train/{image_id}.jpg", jpeg(number)) for image_id in ids],
        )
        source = choose_source(config, find_root(Path(config.data.root)))
        tasks = shard_tasks(out, "train", "settings", source, config)
        for task in pack_tasks(source, tasks):
            stage_pack(task)
        shard = pack_shard(tasks[0])
        assert list(sidecar(out, shard)) == ids and finished(out, shard.name, "settings") == shard
        assert status_counts(out, [shard.name]).rows() == [("train", "ok", 1)]


def test_the_tar_is_plain_and_webdataset_reads_it(tmp_path):
    ids = sorted(name(number) for number in range(5))
    config, out = prepared(tmp_path, [{"id": each} for each in ids])
    write_folder(tmp_path / "raw", "train", {each: jpeg(number) for number, each in enumerate(ids)})
    shard = pack_shard(tasks_of(config, out)[0])
    samples = list(
        webdataset.WebDataset(str(out / f"{shard.name}.tar"), shardshuffle=False)
        .decode("pil")
        .to_tuple("__key__", "jpg", "json")
    )
    assert [(key, image.size, text["id"]) for key, image, text in samples] == [
        (each, (48, 32), each) for each in ids
    ]
    with tarfile.open(out / f"{shard.name}.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [
        f"{each}.{kind}" for each in ids for kind in ("jpg", "json")
    ]
    assert {
        (member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members
    } == {(0, 0, 0, "c2srt", 0o644)}
    rows = sidecar(out, shard)
    for member in members[::2]:
        assert (
            member.offset_data == rows[member.name[:16]]["jpg_offset"]
            and member.size == rows[member.name[:16]]["jpg_bytes"]
        )


def test_unlabelled_images_are_packed_on_request(tmp_path):
    config, out = prepared(tmp_path, [{"id": name(0), "labels": []}], unlabelled="pack")
    write_folder(tmp_path / "raw", "train", {name(0): jpeg(0)})
    assert pack_shard(tasks_of(config, out)[0]).count == 1


def test_shards_hold_slices_of_the_sorted_inputs(tmp_path):
    ids = sorted(name(number) for number in range(7))
    config, out = prepared(tmp_path, [{"id": each} for each in ids[::-1]], images_per_shard=3)
    write_folder(tmp_path / "raw", "train", {each: jpeg(1) for each in ids})
    shards = [pack_shard(task) for task in tasks_of(config, out)]
    assert [(shard.name, shard.first, shard.last, shard.count) for shard in shards] == [
        ("train-000000", ids[0], ids[2], 3),
        ("train-000001", ids[3], ids[5], 3),
        ("train-000002", ids[6], ids[6], 1),
    ]


def test_a_finished_shard_is_known_by_its_settings_and_its_size(tmp_path):
    config, out = prepared(tmp_path, [{"id": name(0)}])
    write_folder(tmp_path / "raw", "train", {name(0): jpeg(0)})
    shard = pack_shard(tasks_of(config, out)[0])
    assert finished(out, shard.name, "settings") == shard
    assert (
        finished(out, shard.name, "other") is None
        and finished(out, "train-000001", "settings") is None
    )
    with (out / f"{shard.name}.tar").open("ab") as file:
        file.write(b"\0")
    assert finished(out, shard.name, "settings") is None
    (out / f"{shard.name}.parquet").write_bytes(b"PAR1 cut off")
    assert finished(out, shard.name, "settings") is None


@pytest.mark.parametrize("layout", ["images/train", "train", "images", "."])
def test_folders_are_found_where_people_put_them(tmp_path, layout):
    (tmp_path / layout).mkdir(parents=True, exist_ok=True)
    (tmp_path / layout / f"{name(0)}.jpg").write_bytes(jpeg(0))
    assert find_folders([tmp_path], ["train"]) == {"train": str((tmp_path / layout).resolve())}


def test_folders_come_before_packs_before_urls(tmp_path):
    config, out = prepared(tmp_path, [{"id": name(0)}])

    def kind():
        return choose_source(config, find_root(tmp_path / "raw")).kind

    assert kind() == "urls"
    write_pack(tmp_path / "raw/train_0.tar.gz", [(f"train_0/{name(0)}.jpg", jpeg(0))])
    assert kind() == "packs"
    write_folder(tmp_path / "raw", "train", {name(0): jpeg(0)})
    assert kind() == "folders"
    with pytest.raises(UserError, match="no folder of images of test .*splits=.train."):
        choose_source(
            dataclasses.replace(config, splits=["train", "test"]), find_root(tmp_path / "raw")
        )
    with pytest.raises(UserError, match="no CVDF pack of validation"):
        choose_source(
            dataclasses.replace(
                config,
                splits=["validation"],
                data=DataConfig(root=str(tmp_path / "raw"), images="packs"),
            ),
            find_root(tmp_path / "raw"),
        )


def full_disk_tasks(tmp_path: Path, source: str):
    ids = [name(number) for number in range(8)]
    config, out = prepared(tmp_path, [{"id": each} for each in ids])
    if source == "folders":
        write_folder(
            tmp_path / "raw", "train", {each: jpeg(number) for number, each in enumerate(ids)}
        )
    else:
        write_pack(
            tmp_path / "raw/train_0.tar.gz",
            [(f"train_0/{each}.jpg", jpeg(number)) for number, each in enumerate(ids)],
        )
    return out, tasks_of(config, out)[0]


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path, suffix):
    """/dev/full answers every write with the kernel's own "no space left"."""
    out, task = full_disk_tasks(tmp_path, "folders")
    temporary = out / f"{task.name}.{suffix}.tmp-{os.getpid()}"
    temporary.symlink_to("/dev/full")
    with pytest.raises(
        UserError,
        match=(
            f"the disk is full while writing .*train-000000.{suffix}: free some space and run the"
            " same command again"
        ),
    ):
        pack_shard(task)
    assert (
        not list(out.glob(f"train-*.{suffix}*")) and finished(out, task.name, task.settings) is None
    )
    assert pack_shard(task).count == 8


@pytest.mark.parametrize("source", ["folders", "packs"])
def test_a_full_disk_for_real(tmp_path, source):
    """A file system of 64 KiB."""
    out, task = full_disk_tasks(tmp_path, source)
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        (small / "fill").write_bytes(bytes(56 << 10))
        cramped = dataclasses.replace(task, out=str(small))
        with pytest.raises(UserError, match="the disk is full"):
            if source == "packs":
                for each in pack_tasks(task.source, [cramped]):
                    stage_pack(each)
            pack_shard(cramped)
        assert [path.name for path in small.rglob("*") if path.is_file()] == ["fill"]
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("source", ["folders", "packs"])
def test_a_file_where_a_folder_is_needed(tmp_path, source):
    out, task = full_disk_tasks(tmp_path, source)
    (tmp_path / "file").write_text("in the way")
    blocked = dataclasses.replace(task, out=str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write .*choose another with out="):
        if source == "packs":
            stage_pack(pack_tasks(task.source, [blocked])[0])
        else:
            pack_shard(blocked)


def test_inputs_are_made_once_and_again_when_a_csv_changes(tmp_path):
    images = [{"id": name(number)} for number in range(3)]
    _, out = prepared(tmp_path, images)
    raw = OpenImages(find_root(tmp_path / "raw"), DataConfig())
    report, digest, new = prepare_inputs(raw, "train", out)
    assert not new and report.images == 3 and report.lines()
    write_csvs(tmp_path / "raw", {"train": images[:2]})
    report, other, new = prepare_inputs(raw, "train", out)
    assert new and report.images == 2 and other != digest
    write_csvs(tmp_path / "raw", {"train": images})
    assert prepare_inputs(raw, "train", out)[1:] == (digest, True)
    inputs_path(out, "train").write_bytes(b"cut off")
    assert prepare_inputs(raw, "train", out)[1:] == (digest, True)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"resize": "big"}, "resize=big"),
        ({"resize": -3}, "resize=-3"),
        ({"resize": True}, "resize=True"),
        ({"quality": 0}, "quality=0"),
        ({"unlabelled": "drop"}, "unlabelled=drop"),
        ({"splits": []}, "at least one"),
        ({"splits": ["train", "train"]}, "once"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_a_senseless_configuration_is_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Config(**options)


def test_resize_none_is_understood():
    assert (
        Config(resize="none").resize is None
        and Config(resize=None).resize is None
        and Config(resize=64).resize == 64
    )


@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_a_shard_is_the_tar_that_tarfile_writes(tmp_path, count):
    members = [
        (f"{'äa'[number % 2] * (number % 3 * 60)}{number}.jpg", bytes(number * 37))
        for number in range(count)
    ]
    twin = io.BytesIO()
    with (tmp_path / "tar").open("wb") as file, tarfile.open(fileobj=twin, mode="w|") as tar:
        for path, content in members:
            add_member(file, path, content)
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o644
            member.uname = member.gname = "c2srt"
            tar.addfile(member, io.BytesIO(content))
        end_tar(file)
    assert (tmp_path / "tar").read_bytes() == twin.getvalue()


def test_a_folder_of_an_earlier_version_is_used_and_not_added_to(tmp_path, monkeypatch):
    config, out = prepared(tmp_path, [{"id": name(number)} for number in range(4)])
    write_folder(tmp_path / "raw", "train", {name(number): jpeg(number) for number in range(4)})
    with monkeypatch.context() as earlier:
        earlier.setattr(Config, "settings", deciding)
        make_shards(config, open_local)
    before = digests(out)
    make_shards(config, open_local)
    assert digests(out) == before
    (out / "train-000000.parquet").unlink()
    with pytest.raises(UserError, match="begun by an earlier version .*choose another out="):
        make_shards(config, open_local)
    untouched = dataclasses.replace(config, resize=None, out=str(tmp_path / "untouched"))
    assert "conversion" in config.settings() and "conversion" not in untouched.settings()


def test_pack_source_is_small_to_send():
    """Tasks travel to workers: no image or table inside."""
    import pickle

    assert (
        len(
            pickle.dumps(
                PackSource(
                    {"train": tuple(f"/data/train_{digit}.tar.gz" for digit in "0123456789abcdef")}
                )
            )
        )
        < 2000
    )
