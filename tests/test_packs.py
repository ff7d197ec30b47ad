"""CVDF's packs → one shard, without Ray: the images of folders, damage, what is refused."""

import gzip
import os
import tarfile
from pathlib import Path

import polars as pl

from c2srt.shard_reader import ShardReader
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.folders import FolderSource
from c2srt.sharding.pack import finished, pack_shard
from c2srt.sharding.packs import PackReport, find_packs, pack_tasks, stage_of, stage_pack
from tests.packed import prepared, sidecar, tasks_of
from tests.raw_images import jpeg, name, write_folder, write_pack


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
