"""CVDF's packs → one shard, without Ray: the images of folders, damage, what is refused, parts,
what a killed run leaves.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import polars as pl
import pytest

from c2srt.errors import UserError
from c2srt.shard_reader import ShardReader
from c2srt.sharding import pack_members, packs, staging
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.folders import FolderSource
from c2srt.sharding.outcome import Outcome
from c2srt.sharding.pack import finished, pack_shard
from c2srt.sharding.pack_members import PackReport
from c2srt.sharding.packs import find_packs, folder_of, pack_tasks, stage_pack
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
    stage = folder_of(task, str(pack.resolve())) / f"{0:015}" / f"{0:06}"
    before = os.stat(stage).st_ino
    assert stage_pack(passes[0]) == first and os.stat(stage).st_ino == before
    write_pack(pack, [(f"train_0/{name(0)}.jpg", jpeg(1, 120, 100))])  # a new download
    assert (
        stage_pack(pack_tasks(task.source, [task])[0])
        == PackReport("train_0.tar.gz", members=1, images=1, ended=True)
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


def test_an_unpacked_pack_comes_before_the_gzipped_one(tmp_path):
    for pack in ("train_0.tar.gz", "train_0.tar", "train_1.tar.gz", "train_0.tar.part"):
        write_pack(tmp_path / pack, [])
    (found,) = find_packs([tmp_path], ["train"]).values()
    assert [Path(path).name for path in found] == ["train_0.tar", "train_1.tar.gz"]


def twins(tmp_path: Path, count: int):
    """(config, out) of the same pack gzipped and plain."""
    ids = [name(number) for number in range(count)]
    order = ids[::2] + ids[1::2]
    members = [(f"train_0/{each}.jpg", jpeg(ids.index(each))) for each in order]
    for kind in ("gz", "plain"):
        yield prepared(tmp_path / kind, [{"id": each} for each in ids], images_per_shard=5)
        write_pack(tmp_path / kind / "raw/train_0.tar.gz", members)
    gz = tmp_path / "plain/raw/train_0.tar.gz"
    gz.with_suffix("").write_bytes(gzip.decompress(gz.read_bytes()))
    gz.unlink()


def made(config: Config, out: Path):
    """(its pack's tasks, their reports, digests of the shards)"""
    tasks = tasks_of(config, out)
    parts = pack_tasks(tasks[0].source, tasks)
    reports = [stage_pack(part) for part in reversed(parts)][::-1]
    return parts, reports, [pack_shard(task).sha256 for task in tasks]


def test_a_plain_tar_is_read_by_several_tasks_and_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_members, "PART_MEMBERS", 3)
    (gz, plain) = twins(tmp_path, 11)
    (whole,), (report,), shards = made(*gz)
    parts, reports, same = made(*plain)
    assert len(parts) == 4 and same == shards
    assert [each.images for each in reports] == [3, 3, 3, 2] and report.images == 11
    assert not any(each.lines() for each in reports) and all(each.ended for each in reports)
    size = (tmp_path / "plain/raw/train_0.tar").stat().st_size
    assert parts[0].part.start == 0 and parts[-1].part.stop == size
    path = Path(parts[1].stages)
    shutil.rmtree(path)
    with pytest.raises(UserError, match="is damaged or gone: remove .*train_0.tar"):
        pack_shard(tasks_of(*plain)[0])


def test_a_broken_header_of_a_plain_tar_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_members, "PART_MEMBERS", 3)
    _, (config, out) = twins(tmp_path, 11)
    pack = tmp_path / "plain/raw/train_0.tar"
    content = bytearray(pack.read_bytes())
    place = content.index(f"train_0/{name(8)}.jpg".encode())  # the fifth member
    content[place + 148 : place + 156] = b"garbage!"
    pack.write_bytes(content)
    _, reports, _ = made(config, out)
    assert [each.images for each in reports] == [3, 1] and "header" in reports[1].damaged
    assert "train_0.tar, from byte" in reports[1].lines()[0]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", ["gz", "plain"])
def test_a_killed_pass_converts_again_what_was_not_staged_yet(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(packs, "STAGE_IMAGES", 4)
    undisturbed, disturbed = (
        dict(zip(("gz", "plain"), twins(tmp_path / each, 13), strict=True))[kind]
        for each in ("whole", "killed")
    )
    _, (report,), shards = made(*undisturbed)
    converted, convert = [], packs.attempts

    def until_killed(images):
        for each in images:
            if len(converted) == 10:
                raise Killed
            converted.append(each)
            yield each

    monkeypatch.setattr(
        packs, "attempts", lambda images, config: convert(until_killed(images), config)
    )
    tasks = tasks_of(*disturbed)
    (part,) = pack_tasks(tasks[0].source, tasks)
    with pytest.raises(Killed):
        stage_pack(part)
    converted[:] = []
    assert stage_pack(part) == report and len(converted) == 13 - 8
    assert [pack_shard(task).sha256 for task in tasks] == shards


def test_files_of_stages_are_opened_once(tmp_path, monkeypatch):
    ids = sorted(name(number) for number in range(6))
    stages = [tmp_path / f"{number}" for number in range(3)]
    for number, stage in enumerate(stages):
        some = ((each, Outcome("ok", "", each.encode())) for each in ids[number::3])
        staging.write_stage(stage, some, {}, {})
    opened = []
    first = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *more: opened.append(path.name) or first(path, *more)
    )
    for most, times in ((3, 3), (2, 6)):
        monkeypatch.setattr(staging.Opened, "MOST", most)
        opened[:] = []
        found = list(staging.in_order(stages, ids, Outcome("missing")))
        assert [each.jpeg for each in found] == [each.encode() for each in ids]
        assert opened.count("images.bin") == times


def test_reading_a_stage_loads_no_library_that_it_does_not_need(tmp_path):
    """Each of them takes a worker as long as dozens of images."""
    outcomes = [(f"{number:02}", Outcome("ok", "", b"jpeg", 4, 3)) for number in range(20)]
    staging.write_stage(tmp_path / "stage", outcomes, {"rows": 20}, {})
    code = f"""
import sys
from pathlib import Path
from c2srt.sharding import staging
from c2srt.sharding.outcome import Outcome

stage, absent = Path({str(tmp_path / "stage")!r}), Outcome("missing")
assert staging.about_stage(stage)["about"] == {{"rows": 20}}
found = list(staging.in_order([stage], ["03", "07", "7"], absent))
assert [each.jpeg for each in found] == [b"jpeg", b"jpeg", b""]
assert list(staging.in_order([stage], ["8", "9"], absent)) == [absent] * 2
needless = {{"pandas", "pyarrow.compute", "pydantic", "torch"}}
assert not needless & sys.modules.keys(), needless & sys.modules.keys()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
