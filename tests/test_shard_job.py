"""`c2srt shard` under a real Ray: same bytes for any number of workers, kills, resumption,
refusals.
"""

import http.server
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from c2srt.artefact import writing
from c2srt.cluster.cli import main
from c2srt.cluster.session import connect
from c2srt.cluster.shard import run
from c2srt.errors import UserError
from c2srt.opened import read_json
from c2srt.shard_reader import ShardReader
from c2srt.sharding.config import Config, DataConfig
from c2srt.shards import load_index
from c2srt.vocabulary import load_vocabulary
from tests.raw_images import digests, jpeg, md5, name, write_csvs, write_folder, write_pack

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared/data"
SPLITS = {"train": range(0, 40), "validation": range(40, 46), "test": range(46, 60)}


@pytest.fixture(scope="module")
def cluster(shared_ray):
    connect(3)


def tree(root: Path, source: str = "folders", size: tuple[int, int] = (96, 64)) -> Path:
    """Sixty images in three splits; one is missing, one corrupt, one has no labels, one is listed
    twice, one is not listed.
    """
    splits = {
        split: [{"id": name(number)} for number in numbers] for split, numbers in SPLITS.items()
    }
    splits["train"][4]["labels"] = []
    splits["train"][5]["listed"] = False
    splits["train"].append(dict(splits["train"][6]))
    splits["test"][0]["labels"] = [("/g/03", 1), ("/m/01", 0)]
    write_csvs(root, splits)
    for split, numbers in SPLITS.items():
        files = {name(number): jpeg(number, *size) for number in numbers if number != 7}
        if split == "train":
            files[name(8)] = files[name(8)][:400]
        if source == "folders":
            write_folder(root, split, files)
        else:
            members = [(f"{split}/{image_id}.jpg", data) for image_id, data in files.items()]
            half = len(members) // 2
            packs = (
                {f"{split}_0": members[:half], f"{split}_1": members[half:]}
                if split == "train"
                else {split: members}
            )
            for pack, content in packs.items():
                write_pack(root / f"{pack}.tar.gz", content)
    return root


def config(root: Path, out: Path, **options) -> Config:
    return Config(
        data=DataConfig(root=str(root)),
        out=str(out),
        **{"images_per_shard": 9, "resize": 48} | options,
    )


@pytest.fixture(scope="module", params=["folders", "packs"])
def finished_run(request, cluster, tmp_path_factory):
    """(source, raw folder, shard folder made by one worker)"""
    root = tree(tmp_path_factory.mktemp("raw"), request.param)
    out = tmp_path_factory.mktemp("runs") / "one"
    run(config(root, out, workers=1))
    return request.param, root, out


def test_the_folder_is_whole(finished_run):
    source, _, out = finished_run
    index = load_index(out)
    assert {
        split: [shard.count for shard in shards] for split, shards in index.splits.items()
    }.keys() == SPLITS.keys()
    assert [sum(shard.inputs for shard in index.split(split)) for split in SPLITS] == [40, 6, 14]
    assert [sum(shard.count for shard in index.split(split)) for split in SPLITS] == [37, 6, 14]
    assert load_vocabulary(out).hash == index.vocabulary and load_vocabulary(out).mids == (
        "/m/01",
        "/m/02",
        "/g/03",
    )
    rows = pl.concat(
        [
            pl.read_parquet(out / f"{shard.name}.parquet")
            for shards in index.splits.values()
            for shard in shards
        ]
    )
    assert sorted(rows["id"]) == sorted(name(number) for number in range(60))
    statuses = dict(rows.select("id", "status").iter_rows())
    assert {number: statuses[name(number)] for number in range(10)} == dict.fromkeys(
        range(10), "ok"
    ) | {
        4: "no_labels",
        7: "missing",
        8: "corrupt",
    }
    for shard in index.split("train"):
        assert all(
            ShardReader(out, shard).jpeg(sample).startswith(b"\xff\xd8")
            for sample in range(shard.count)
        )
    packed = {
        count["what"]: count["value"] for count in read_json(out / "acceptance.json", "")["counts"]
    }
    assert packed["train: images packed"] == 37
    assert (
        not (out / "staging").exists()
        and not list(out.rglob("*.tmp-*"))
        and read_json(out / "settings.json", "")["settings"]["images"] == source
    )


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_writes_the_same_bytes(finished_run, tmp_path, workers):
    _, root, out = finished_run
    run(config(root, tmp_path / "out", workers=workers))
    assert digests(tmp_path / "out") == digests(out)


def test_a_second_run_does_nothing_and_a_lost_shard_is_made_again(finished_run, tmp_path, capsys):
    _, root, out = finished_run
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.glob("*.tar")}
    run(config(root, copy))
    assert "8 shards are done, 0 are to be made" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in copy.glob("*.tar")} == before
    (copy / "train-000001.parquet").unlink()
    (copy / "train-000002.tar").write_bytes(b"cut")
    run(config(root, copy))
    assert "2 are to be made" in capsys.readouterr().out and digests(copy) == digests(out)
    assert sum(path.stat().st_mtime_ns != time_ns for path, time_ns in before.items()) == 2


def test_shards_of_other_settings_or_csvs_are_never_overwritten(finished_run, tmp_path):
    source, root, out = finished_run
    copy, raw = tmp_path / "out", tmp_path / "raw"
    shutil.copytree(out, copy)
    with pytest.raises(UserError, match="made otherwise .*resize 48 → 32.*another out="):
        run(config(root, copy, resize=32))
    assert digests(copy) == digests(out)
    tree(raw, source)
    labels = raw / "2018_04/train/train-annotations-human-imagelabels.csv"
    labels.write_text(labels.read_text().replace("/m/02,0", "/m/02,1", 1))
    with pytest.raises(UserError, match="the CSVs of train"):
        run(config(raw, copy))


def test_splits_can_be_added_later(cluster, tmp_path):
    root = tree(tmp_path / "raw")
    run(config(root, tmp_path / "out", splits=["test"]))
    assert list(load_index(tmp_path / "out").splits) == ["test"]
    run(config(root, tmp_path / "out", splits=["train", "validation"]))
    assert sorted(load_index(tmp_path / "out").splits) == ["test", "train", "validation"]


def test_a_folder_that_another_run_writes_is_refused(cluster, tmp_path):
    root = tree(tmp_path / "raw")
    with writing(tmp_path / "out"), pytest.raises(UserError, match="another command is writing"):
        run(config(root, tmp_path / "out"))


def test_a_file_in_the_way_is_one_sentence(tmp_path, capsys):
    root = tree(tmp_path / "raw")
    (tmp_path / "file").write_text("")
    assert main(["shard", f"data.root={root}", f"out={tmp_path}/file/shards"]) == 2
    error = capsys.readouterr().err
    assert (
        "cannot write" in error and "choose another with out=" in error and "Traceback" not in error
    )


@pytest.mark.parametrize("kib", [4, 40, 100, 140])
def test_a_full_disk_is_one_sentence_from_any_stage_and_the_next_run_finishes(
    cluster, tmp_path, kib
):
    root, out = tree(tmp_path / "raw"), tmp_path / "out"
    out.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", out], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with pytest.raises(UserError, match="the disk is full while writing"):
            run(config(root, out))
        assert not (out / "index.json").exists() and not list(out.glob("*.tmp-*"))
        subprocess.run(["mount", "-o", "remount,size=10m", out], check=True)
        run(config(root, out))
        run(config(root, tmp_path / "undisturbed"))
        assert digests(out) == digests(tmp_path / "undisturbed")
    finally:
        subprocess.run(["umount", out], check=True)


def test_urls_go_through_the_whole_job(cluster, tmp_path):
    """Two workers download from a real server: six good images, one removed (404), one that is not
    the CSV's.
    """
    files = {name(number): jpeg(number) for number in range(8)}
    served, raw = tmp_path / "served", tmp_path / "raw"
    served.mkdir()
    for number, (image_id, data) in enumerate(files.items()):
        if number != 3:
            (served / f"{image_id}.jpg").write_bytes(data)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(served))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        write_csvs(
            raw,
            {
                "train": [
                    {
                        "id": image_id,
                        "url": f"http://127.0.0.1:{server.server_port}/{image_id}.jpg",
                        "size": len(data),
                        "md5": md5(data) if number != 5 else md5(b"another"),
                    }
                    for number, (image_id, data) in enumerate(files.items())
                ]
            },
        )
        for out, workers in (("two", 2), ("one", 1)):
            run(config(raw, tmp_path / out, splits=["train"], images_per_shard=3, workers=workers))
        server.shutdown()
    shards = load_index(tmp_path / "two").split("train")
    rows = pl.concat(
        [pl.read_parquet(tmp_path / "two" / f"{shard.name}.parquet") for shard in shards]
    )
    statuses = dict(rows.select("id", "status").iter_rows())
    assert [statuses[image_id] for image_id in files] == [
        "ok",
        "ok",
        "ok",
        "missing",
        "ok",
        "md5_mismatch",
        "ok",
        "ok",
    ]
    assert (
        digests(tmp_path / "two") == digests(tmp_path / "one")
        and not (tmp_path / "two/staging").exists()
    )


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_no_images_at_all_is_refused(cluster, tmp_path):
    write_csvs(tmp_path / "raw", {"train": [{"id": name(0)}]})
    with pytest.raises(UserError, match="no images of train .*gives no URLs"):
        run(config(tmp_path / "raw", tmp_path / "out", splits=["train"]))


def test_the_command_line(cluster, tmp_path, capsys):
    root = tree(tmp_path / "raw")
    assert (
        main(
            [
                "shard",
                f"data.root={root}",
                f"out={tmp_path}/out",
                "data.vocabulary=files",
                "splits=[test]",
                "resize=none",
                "download.attempts=2",
            ]
        )
        == 0
    )
    reader = ShardReader(tmp_path / "out", load_index(tmp_path / "out").split("test")[0])
    assert reader.jpeg(0) == (root / f"images/test/{reader.ids[0]}.jpg").read_bytes()
    assert main(["shard", f"data.root={root}", f"out={tmp_path}/other", "resizee=3"]) == 2
    assert "resize" in capsys.readouterr().err
    assert main(["shard", f"data.root={tmp_path}/nowhere", f"out={tmp_path}/other"]) == 2


def killed_and_repeated(root: Path, tmp_path: Path, kills: int, own_ray: bool) -> None:
    """Runs the real command, SIGKILLs it `kills` times at random points of its progress, and lets
    it finish.

    Progress is the number of files in its folder, so the points do not depend on how fast the
    machine is. With `own_ray` each command starts one, else it joins the shared one.
    """
    command = [
        sys.executable,
        "-m",
        "c2srt.cluster.shard",
        f"data.root={root}",
        "data.vocabulary=files",
        "resize=200",
        "images_per_shard=7",
        "workers=2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if own_ray:
        environment.pop("RAY_ADDRESS", None)
    quiet = {
        "cwd": tmp_path,
        "env": environment,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    subprocess.run([*command, f"out={tmp_path}/undisturbed"], check=True, **quiet)
    total, moments, interrupted = files_in(tmp_path / "undisturbed"), random.Random(0), 0
    for _ in range(kills):
        now = files_in(tmp_path / "killed")
        target = now + moments.randint(0, max(1, (total - now) // 3))
        process = subprocess.Popen([*command, f"out={tmp_path}/killed"], **quiet)
        while files_in(tmp_path / "killed") < target and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        interrupted += process.poll() is None
        process.kill()
        process.wait()
    assert interrupted
    subprocess.run([*command, f"out={tmp_path}/killed"], check=True, **quiet)
    assert digests(tmp_path / "killed") == digests(tmp_path / "undisturbed")


def files_in(out: Path) -> int:
    return sum(
        len(files) for _, _, files in os.walk(out)
    )  # unlike rglob it does not mind folders that vanish meanwhile


def test_killed_twice_and_repeated_gives_the_same_bytes(cluster, tmp_path):
    killed_and_repeated(tree(tmp_path / "raw", "packs", (1200, 900)), tmp_path, 2, own_ray=False)


@pytest.mark.long  # CI kills it twice: above
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("source", ["folders", "packs"])
def test_killed_ten_times_and_repeated_gives_the_same_bytes(tmp_path, source):
    killed_and_repeated(tree(tmp_path / "raw", source, (3000, 2000)), tmp_path, 10, own_ray=True)


def test_the_real_photographs(cluster, tmp_path):
    if not (SHARED / "photos").is_dir():
        pytest.skip("needs shared/data/photos")
    run(
        Config(
            data=DataConfig(root=str(SHARED / "photos")),
            out=str(tmp_path / "out"),
            images_per_shard=100,
        )
    )
    index = load_index(tmp_path / "out")
    assert {split: sum(shard.count for shard in index.split(split)) for split in index.splits} == {
        "train": 266,
        "validation": 30,
        "test": 93,
    }
    assert (
        load_vocabulary(tmp_path / "out").seen_count,
        len(load_vocabulary(tmp_path / "out")),
    ) == (7186, 7586)


def test_hostile_images_go_through_the_whole_job(cluster, tmp_path):
    """All 47 as `<id>.jpg`, whatever they are."""
    folder = SHARED / "hostile_images"
    if not folder.is_dir():
        pytest.skip("needs shared/data/hostile_images")
    files = {
        name(number): path.read_bytes() for number, path in enumerate(sorted(folder.iterdir()))
    }
    write_csvs(tmp_path / "raw", {"train": [{"id": image_id} for image_id in files]})
    write_folder(tmp_path / "raw", "train", files)
    run(config(tmp_path / "raw", tmp_path / "out", splits=["train"], images_per_shard=20))
    shards = load_index(tmp_path / "out").split("train")
    rows = pl.concat(
        [pl.read_parquet(tmp_path / "out" / f"{shard.name}.parquet") for shard in shards]
    )
    assert len(rows) == 47 and (rows["status"] == "ok").sum() == 32
    assert (rows.filter(pl.col("status") != "ok")["reason"] != "").all()
