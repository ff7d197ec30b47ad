"""Downloads that finish: passes, refusals and second visits of `c2srt shard data.images=urls`,
against a server that counts what it is asked.
"""

import csv
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from c2srt.download_config import PassesConfig
from c2srt.errors import UserError
from c2srt.executor import open_local
from c2srt.shard_reader import ShardReader
from c2srt.sharding.arrivals import report
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.job import make_shards
from c2srt.shards import load_index
from tests.raw_images import digests, jpeg, md5, name, write_csvs, write_folder
from tests.strict_server import Running, most_in, strict_server

ROOT = Path(__file__).parents[1]
FAST = {"backoff": 0.05, "backoff_max": 0.5, "patience": 5.0, "pause": 0.0, "attempts": 2}


@pytest.fixture
def server():
    with strict_server() as running:
        yield running


def raw(root: Path, server: Running, count: int) -> Path:
    """A tree whose images are the server's."""
    files = {number: jpeg(number) for number in range(count)}
    rows = [
        {
            "id": name(number),
            "url": f"{server.url}/{number}.jpg",
            "size": len(data),
            "md5": md5(data),
        }
        for number, data in files.items()
    ]
    write_csvs(root, {"train": rows})
    return root


def config(root: Path, out: Path, workers: int = 1, retry: tuple = (), size: int = 5, **download):
    return Config(
        data=DataConfig(root=str(root)),
        out=str(out),
        splits=["train"],
        images_per_shard=size,
        resize=48,
        workers=workers,
        retry=list(retry),
        download=PassesConfig(**FAST | download),
    )


def shard(*arguments, **options) -> None:
    make_shards(config(*arguments, **options), open_local)


def statuses(out: Path) -> Counter:
    shards = load_index(out).split("train")
    rows = [pl.read_parquet(out / f"{each.name}.parquet", columns=["status"]) for each in shards]
    return Counter(pl.concat(rows)["status"])


def asked(server: Running, since: int = 0) -> Counter:
    return Counter(int(path.strip("/").split(".")[0]) for _, path, _ in server.log()[since:])


def rows_of_report(out: Path) -> list[dict]:
    with (out / "downloads.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_server_with_a_limit_that_dies_for_a_while_gives_all_and_the_same_bytes(tmp_path):
    with strict_server(rate=60, dies_after=40, dies_for=1.5) as server:
        root = raw(tmp_path / "raw", server, 120)
        shard(root, tmp_path / "out", workers=2, size=30, rate=50)
        first = server.log()
        assert {int(path[1:-4]) for _, path, status in first if status == 200} == set(range(120))
        assert most_in(first, 3) < 3 * 60
        shard(root, tmp_path / "out", workers=2, size=30, rate=50)
        assert len(server.log()) == len(first)
        server.now("rate=0")
        shard(root, tmp_path / "undisturbed", size=30)
    assert statuses(tmp_path / "out") == {"ok": 120}
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")


def test_one_that_blocks_for_good_is_refused_with_a_report_and_nothing_is_lost(server, tmp_path):
    root, out = raw(tmp_path / "raw", server, 12), tmp_path / "out"
    server.now("lacks=[1,2]")
    server.now("blocks=0")
    with pytest.raises(UserError, match=r"2 of 12 images are unreachable.*HTTP 503.*retry=\["):
        shard(root, out, passes=2)
    host = server.url.removeprefix("http://")
    found = {"host": host, "status": "unreachable", "reason": "HTTP 503", "images": "2"}
    assert rows_of_report(out) == [found] and not (out / "index.json").exists()
    server.now("blocks=1")
    before = len(server.log())
    with pytest.raises(UserError, match="2 of 12 images are unreachable.*HTTP 429: nothing for"):
        shard(root, out, passes=2, patience=0.3)
    assert set(asked(server, before)) <= {1, 2} and len(server.log()) < before + 12
    server.now("blocks=0")
    server.now("lacks=[]")
    before = len(server.log())
    shard(root, out)
    assert asked(server, before) == {1: 1, 2: 1} and statuses(out) == {"ok": 12}
    shard(root, tmp_path / "undisturbed")
    assert digests(out) == digests(tmp_path / "undisturbed") and not (out / "staging").exists()


def test_a_pass_brings_what_the_one_before_did_not(server, tmp_path, monkeypatch):
    root = raw(tmp_path / "raw", server, 12)
    server.now("lacks=[0,7]")
    monkeypatch.setattr("c2srt.sharding.passes.time.sleep", lambda _: server.now("lacks=[]"))
    shard(root, tmp_path / "out", attempts=1)
    assert asked(server) == dict.fromkeys(range(12), 1) | {0: 2, 7: 2}
    assert statuses(tmp_path / "out") == {"ok": 12} and rows_of_report(tmp_path / "out") == []


@pytest.mark.parametrize("arrived, passes", [(1.0, 3), (0.8, 1)])
def test_passes_end_when_enough_arrived(server, tmp_path, arrived, passes):
    root = raw(tmp_path / "raw", server, 12)
    server.now("lacks=[3,4]")
    shard(root, tmp_path / "out", attempts=1, arrived=arrived, most_unreachable=0.2)
    assert asked(server)[3] == passes and statuses(tmp_path / "out")["unreachable"] == 2


def test_days_later_only_what_was_unreachable_is_asked_for(server, tmp_path):
    """A finished folder keeps its index until the new shards may be written."""
    root, out = raw(tmp_path / "raw", server, 12), tmp_path / "out"
    server.now("lacks=[3,4,5]")
    shard(root, out, passes=1, attempts=1, most_unreachable=0.3)
    assert statuses(out) == {"ok": 9, "unreachable": 3}
    index, before = (out / "index.json").read_bytes(), len(server.log())
    with pytest.raises(UserError, match="3 of 12 images are unreachable"):
        shard(root, out)
    assert len(server.log()) == before
    server.now("lacks=[4]")
    with pytest.raises(UserError, match="1 of 12 images are unreachable"):
        shard(root, out, retry=["unreachable"], passes=1, attempts=1)
    assert asked(server, before) == {3: 1, 4: 1, 5: 1}
    assert (out / "index.json").read_bytes() == index and statuses(out)["ok"] == 9
    server.now("lacks=[]")
    before = len(server.log())
    shard(root, out)  # what is being asked for again goes on
    assert asked(server, before) == {4: 1}
    shard(root, tmp_path / "undisturbed")
    assert digests(out) == digests(tmp_path / "undisturbed")


def test_a_shard_that_was_replaced_without_its_sidecar_is_made_from_its_stages(
    server, tmp_path, monkeypatch
):
    """A run that ends between the two, as by a kill."""
    root, out = raw(tmp_path / "raw", server, 5), tmp_path / "out"
    server.now("lacks=[3]")
    shard(root, out, passes=1, attempts=1, most_unreachable=1.0)
    server.now("lacks=[]")
    with monkeypatch.context() as patch:
        patch.setattr("c2srt.sharding.pack.write_table", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            shard(root, out, retry=["unreachable"])
    before = len(server.log())
    shard(root, out)
    assert len(server.log()) == before and statuses(out) == {"ok": 5}


@pytest.mark.slow
def test_a_second_visit_that_ends_at_any_rename_is_finished_by_the_next(
    server, tmp_path, monkeypatch
):
    """Two shards, of which both gain an image."""
    root, out = raw(tmp_path / "raw", server, 8), tmp_path / "out"
    server.now("lacks=[3,7]")
    shard(root, tmp_path / "before", passes=1, attempts=1, most_unreachable=1.0)
    server.now("lacks=[]")
    shard(root, tmp_path / "undisturbed")
    whole, rename, ends = digests(tmp_path / "undisturbed"), os.replace, 0
    while True:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "before", out)
        left = ends

        def until(*places: Path) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            rename(*places)

        try:
            with monkeypatch.context() as patch:
                patch.setattr("c2srt.files.os.replace", until)
                shard(root, out, retry=["unreachable"])
            break
        except KeyboardInterrupt:
            if (out / "index.json").exists():  # then all that it names is there
                found = load_index(out)
                assert all(ShardReader(out, each).json(0) for each in found.split("train"))
        shard(root, out, retry=["unreachable"])
        assert digests(out) == whole, ends
        ends += 1
    assert ends > 8 and digests(out) == whole


def test_hosts_that_are_not_there_keep_no_other_waiting(server, tmp_path):
    """Every second image is at a port where nothing listens."""
    rows = [
        {"id": name(number), "url": f"http://127.0.0.1:{port}/{number}.jpg"}
        for number in range(60)
        for port in [1 if number % 2 else server.url.rpartition(":")[2]]
    ]
    write_csvs(tmp_path / "raw", {"train": rows})
    shard(tmp_path / "raw", tmp_path / "out", size=60, passes=1, most_unreachable=0.5, patience=600)
    assert statuses(tmp_path / "out") == {"ok": 30, "unreachable": 30}
    (found,) = {row["host"] for row in rows_of_report(tmp_path / "out")}
    assert found == "127.0.0.1:1" and set(asked(server).values()) == {1}


def test_a_host_that_drips_is_given_up(server, tmp_path):
    root = raw(tmp_path / "raw", server, 40)
    server.now("drips=1")
    start = time.monotonic()
    with pytest.raises(UserError, match="40 of 40 images are unreachable.*no end after 0.4 s"):
        shard(root, tmp_path / "out", passes=1, total_timeout=0.4, concurrency=4)
    assert time.monotonic() - start < 40 and len(server.log()) < 40


def test_other_statuses_can_be_asked_for_again_and_odd_ones_are_refused(server, tmp_path):
    with pytest.raises(UserError, match="retry: lost is none of unreachable, refused"):
        config(tmp_path, tmp_path, retry=["lost"])
    write_csvs(tmp_path / "raw", {"train": [{"id": name(0)}]})
    write_folder(tmp_path / "raw", "train", {name(0): jpeg(0)})
    with pytest.raises(UserError, match="retry=.'missing'. asks URLs again, .* from folders"):
        shard(tmp_path / "raw", tmp_path / "out", retry=["missing"])


def test_the_report_counts_by_host_and_reason(tmp_path):
    urls = {
        "a": "http://user:***@c1.example.org/1.jpg",
        "b": "http://C1.example.org:80/2.jpg",
        "c": "http://c1.example.org/3.jpg",
        "d": "not a url",
        "e": "https://=evil/4.jpg",
        "f": "http://c1.example.org/5.jpg",
    }
    inputs = tmp_path / "train.parquet"
    pl.DataFrame({"id": list(urls), "url": list(urls.values())}).write_parquet(inputs)
    found = [
        ("a", "unreachable", "HTTP 503"),
        ("b", "ok", ""),
        ("c", "unreachable", "HTTP 503"),
        ("d", "refused", "not a url"),
        ("e", "refused", "https://=evil/4.jpg: InvalidURL: no host"),
        ("f", "corrupt", "cut after 17 bytes"),
    ]
    rows = pl.LazyFrame(found, schema=["id", "status", "reason"], orient="row")
    assert report(rows, [inputs]).rows() == [
        ("c1.example.org", "unreachable", "HTTP 503", 2),
        ("", "refused", "not a url", 1),
        ("=evil", "refused", "InvalidURL: no host", 1),
        ("c1.example.org", "corrupt", "", 1),
    ]


@pytest.mark.slow
def test_a_run_that_is_killed_asks_for_little_again(server, tmp_path):
    """SIGKILL while the second pass waits: the third run, with the same command, asks for what did
    not arrive only.
    """
    root, out = raw(tmp_path / "raw", server, 12), tmp_path / "out"
    server.now("lacks=[3]")
    process = command(root, out, "download.attempts=1", "download.pause=600")
    while not any((out / "staging").glob("*/000000/stage.json")):
        assert process.poll() is None
        time.sleep(0.05)
    while asked(server)[3] < 1 or len(server.log()) < 12:
        time.sleep(0.05)
    time.sleep(0.5)
    process.kill()
    process.wait()
    server.now("lacks=[]")
    before = len(server.log())
    assert command(root, out).wait() == 0
    assert len(server.log()) - before <= 5 and statuses(out) == {"ok": 12}


def command(root: Path, out: Path, *overrides: str, log=subprocess.DEVNULL, **keys):
    """`c2srt shard` as a process of its own."""
    given = {"images_per_shard": 5, "resize": 48, "workers": 1} | keys
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "c2srt.cluster.shard", "data=openimages"),
            *(f"data.root={root}", f"out={out}", "data.vocabulary=files", "splits=[train]"),
            *(f"{key}={value}" for key, value in given.items()),
            *overrides,
        ],
        cwd=out.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=log,
        stderr=log,
    )


LIMIT = ("download.rate=50",)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_whole_bar(tmp_path):
    """50 requests a second are allowed, 429 beyond, and two minutes of death; 2,000 images by four
    workers, killed twice on the way.
    """
    size = {"images_per_shard": 500, "workers": 4}
    with strict_server(rate=50, dies_after=700, dies_for=120) as server:
        root, out = raw(tmp_path / "raw", server, 2000), tmp_path / "out"
        start = time.monotonic()
        assert command(root, out, *LIMIT, **size).wait() == 0
        took, log = time.monotonic() - start, server.log()
        assert statuses(out) == {"ok": 2000}
        print(f"{len(log):,} requests, at most {most_in(log, 1)} in a second, {took:.0f} s")
        assert most_in(log, 1) <= 55
        assert command(root, out, *LIMIT, **size).wait() == 0 and len(server.log()) == len(log)
        server.now("rate=0")
        assert command(root, tmp_path / "undisturbed", **size).wait() == 0
        assert digests(out) == digests(tmp_path / "undisturbed")
        killed(server, root, tmp_path / "killed", size)
        assert digests(tmp_path / "killed") == digests(out)


def killed(server: Running, root: Path, out: Path, size: dict[str, int]) -> None:
    moments, before = random.Random(0), len(server.log())
    for _ in range(4):
        process = command(root, out, "download.rate=150", **size)
        target = len(server.log()) + moments.randint(50, 700)
        while len(server.log()) < target and process.poll() is None:
            time.sleep(0.1)
        process.kill()
        process.wait()
    assert command(root, out, **size).wait() == 0
    again = len(server.log()) - before - 2000
    assert again <= 4 * 4 * 2 * 256
    print(f"four kills: {again:,} of 2,000 images asked for again")
    shutil.rmtree(out / "staging", ignore_errors=True)
