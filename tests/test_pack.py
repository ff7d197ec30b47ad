"""Folders and CVDF packs → one shard, without Ray: formats, statuses, damage, unwritable places."""

import dataclasses
import gzip
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import polars as pl
import pytest
import webdataset
from PIL import Image

from c2srt.errors import UserError
from c2srt.shards import Shard, ShardReader
from sharding.config import Config, DataConfig
from sharding.folders import FolderSource, find_folders
from sharding.inputs import inputs_path, prepare_inputs
from sharding.openimages import OpenImages
from sharding.pack import finished, pack_shard
from sharding.packs import PackReport, PackSource, find_packs, pack_tasks, stage_of, stage_pack
from sharding.plan import choose_source, plan_split, status_counts
from sharding.raw_files import find_root
from tests.raw_images import jpeg, name, write_csvs, write_folder, write_pack


def prepared(tmp_path: Path, images: list[dict], **options):
    """CSVs of split train for `images`, and (config, out) to shard them."""
    root, out = tmp_path / "raw", tmp_path / "out"
    write_csvs(root, {"train": images})
    config = Config(
        data=DataConfig(root=str(root)), out=str(out), splits=["train"], **{"resize": 32} | options
    )
    prepare_inputs(OpenImages(find_root(root), config.data), "train", out)
    return config, out


def tasks_of(config: Config, out: Path, settings: str = "settings"):
    source = choose_source(config, find_root(Path(config.data.root)))
    return plan_split(out, "train", settings, source, config)


def sidecar(out: Path, shard: Shard) -> dict[str, dict]:
    return {
        row["id"]: row
        for row in pl.read_parquet(out / f"{shard.name}.parquet", glob=False).iter_rows(named=True)
    }


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
        tasks = plan_split(out, "train", "settings", source, config)
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


def staged_packs(tmp_path: Path, images: list[dict], packs: dict[str, list], extra=(), **options):
    """Writes the packs, reads them, packs the shards: (out, shards, reports)."""
    config, out = prepared(tmp_path, images, **options)
    for pack, members in packs.items():
        write_pack(tmp_path / "raw" / pack, members, extra)
    tasks = tasks_of(config, out)
    assert tasks[0].source.kind == "packs"
    reports = [stage_pack(task) for task in pack_tasks(tasks[0].source, tasks)]
    return out, [pack_shard(task) for task in tasks], reports


def test_packs_give_the_same_images_as_folders(tmp_path):
    ids = [name(number) for number in range(20)]
    images = [{"id": each, "rotation": 180.0 if each == ids[3] else ""} for each in ids]
    members = [(f"train_0/{each}.jpg", jpeg(number)) for number, each in enumerate(ids)]
    out, shards, reports = staged_packs(
        tmp_path / "packs",
        images,
        {"train_0.tar.gz": members[:9], "train_a.tar.gz": members[9:]},
        images_per_shard=6,
    )
    assert [report.images for report in reports] == [9, 11] and not any(
        report.lines() for report in reports
    )
    config, other = prepared(tmp_path / "folders", images, images_per_shard=6)
    write_folder(
        tmp_path / "folders/raw", "train", {each: jpeg(number) for number, each in enumerate(ids)}
    )
    for shard, task in zip(shards, tasks_of(config, other), strict=True):
        pack_shard(task)
        first, second = (
            ShardReader(out, shard),
            ShardReader(other, finished(other, shard.name, "settings")),
        )
        assert first.ids == second.ids and len(first) == shard.count > 0
        assert [first.jpeg(k) for k in range(len(first))] == [
            second.jpeg(k) for k in range(len(second))
        ]


def test_a_damaged_gzip_gives_what_it_has_and_names_the_rest(tmp_path):
    ids = [name(number) for number in range(60)]
    members = [(f"train_0/{each}.jpg", jpeg(number, 200, 150)) for number, each in enumerate(ids)]
    write_pack(tmp_path / "whole.tar.gz", members)
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    middle = len(whole) // 2
    for kind, data in {
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes(200) + whole[middle + 200 :],
        "sum": whole[:-8] + bytes(8),
    }.items():
        config, out = prepared(tmp_path / kind, [{"id": each} for each in ids])
        (tmp_path / kind / "raw/train_0.tar.gz").write_bytes(data)
        (task,) = tasks_of(config, out)
        (report,) = [stage_pack(each) for each in pack_tasks(task.source, [task])]
        assert report.damaged and "train_0.tar.gz is damaged" in report.lines()[0]
        shard = pack_shard(task)
        rows = sidecar(out, shard)
        assert 20 <= shard.count < 40 or kind == "sum" and shard.count == 60, kind
        statuses = [rows[each]["status"] for each in ids]
        assert statuses[: shard.count] == ["ok"] * shard.count
        rest = statuses[
            shard.count + 1 :
        ]  # the image at the damage itself may have come, garbled: corrupt
        assert rest == ["missing"] * len(rest) and (
            shard.count == 60 or statuses[shard.count] in ("corrupt", "missing")
        )
        assert all(
            "train_0.tar.gz could not be read to the end" in rows[each]["reason"]
            for each in ids
            if rows[each]["status"] == "missing"
        )


def test_a_broken_tar_header_is_noticed(tmp_path):
    """tarfile itself stops there in silence, as if the pack ended."""
    ids = [name(number) for number in range(4)]
    write_pack(
        tmp_path / "whole.tar.gz",
        [(f"train_0/{each}.jpg", jpeg(number)) for number, each in enumerate(ids)],
    )
    content = bytearray(gzip.decompress((tmp_path / "whole.tar.gz").read_bytes()))
    place = content.index(f"train_0/{ids[2]}.jpg".encode())
    content[place + 148 : place + 156] = b"garbage!"
    config, out = prepared(tmp_path, [{"id": each} for each in ids])
    (tmp_path / "raw/train_0.tar.gz").write_bytes(gzip.compress(content))
    (task,) = tasks_of(config, out)
    (report,) = [stage_pack(each) for each in pack_tasks(task.source, [task])]
    assert report.images == 2 and "header" in report.damaged
    assert pack_shard(task).count == 2


def test_unsafe_members_are_refused_and_odd_ones_left_alone(tmp_path):
    good, large = name(0), name(1)
    link, device = (
        tarfile.TarInfo(f"train_0/{name(2)}.jpg"),
        tarfile.TarInfo(f"train_0/{name(3)}.jpg"),
    )
    link.type, link.linkname, device.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE
    folder = tarfile.TarInfo("train_0")
    folder.type = tarfile.DIRTYPE
    members = [
        (f"../../{name(4)}.jpg", jpeg(4)),
        (f"/tmp/{name(5)}.jpg", jpeg(5)),
        ("train_0/readme.txt", b"hello"),
        (f"train_0/{good}.jpg", jpeg(0)),
        (f"train_0/{good}.jpg", jpeg(9)),
        (f"train_0/{large}.jpg", jpeg(1) + bytes(20_000)),
        (f"train_0/{name(77)}.jpg", jpeg(7)),
    ]
    out, (shard,), (report,) = staged_packs(
        tmp_path,
        [{"id": name(number)} for number in range(6)],
        {"train_0.tar.gz": members},
        extra=[folder, link, device],
        max_bytes=15_000,
    )
    rows = sidecar(out, shard)
    assert [rows[name(number)]["status"] for number in range(6)] == [
        "ok",
        "too_large",
        *["missing"] * 4,
    ]
    assert (report.refused, report.repeated) == (4, 1) and report.refused_example == link.name
    assert (
        "leave the folder" in report.lines()[0]
        and not (tmp_path.parent / f"{name(4)}.jpg").exists()
        and not Path(f"/tmp/{name(5)}.jpg").exists()
    )
    other = out / "other"
    other.mkdir()
    write_folder(other, "train", {good: jpeg(0)})
    assert (
        ShardReader(out, shard).jpeg(0)
        == next(
            FolderSource({"train": str(other / "images/train")}).outcomes(
                pl.DataFrame({"id": [good], "rotation": [None]}),
                tasks_of(
                    Config(
                        data=DataConfig(root=str(tmp_path / "raw")), splits=["train"], resize=32
                    ),
                    out,
                )[0],
            )
        ).jpeg
    )


def test_a_pack_that_was_staged_is_not_read_again(tmp_path):
    config, out = prepared(tmp_path, [{"id": name(0)}])
    pack = tmp_path / "raw/train_0.tar.gz"
    write_pack(pack, [(f"train_0/{name(0)}.jpg", jpeg(0))])
    (task,) = tasks_of(config, out)
    passes = pack_tasks(task.source, [task])
    first = stage_pack(passes[0])
    stage = stage_of(task, str(pack.resolve()))
    before = os.stat(stage).st_ino
    assert stage_pack(passes[0]) == first and os.stat(stage).st_ino == before
    write_pack(pack, [(f"train_0/{name(0)}.jpg", jpeg(1, 120, 100))])  # a new download
    assert (
        stage_pack(passes[0]) == PackReport("train_0.tar.gz", images=1)
        and os.stat(stage).st_ino != before
    )


def test_packs_are_found_by_split_and_in_order(tmp_path):
    for pack in (
        "train_a.tar.gz",
        "train_0.tar.gz",
        "validation.tar.gz",
        "train.csv.tar.gz",
        "challenge.tar.gz",
    ):
        write_pack(tmp_path / "tar" / pack, [])
    found = find_packs([tmp_path], ["train", "validation", "test"])
    assert {split: [Path(path).name for path in paths] for split, paths in found.items()} == {
        "train": ["train_0.tar.gz", "train_a.tar.gz"],
        "validation": ["validation.tar.gz"],
    }


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
