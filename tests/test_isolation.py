"""c2srt/isolation.py: one picture costs one row, whatever a native decoder does."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import polars as pl
import psutil
import pytest

from c2srt.errors import UserError
from c2srt.isolation import Isolated
from c2srt.pictures import Rejected
from c2srt.sharding import outcome
from c2srt.sharding.config import Config
from c2srt.sharding.folders import FolderSource, asked_for
from c2srt.sharding.outcome import Outcome, attempts
from c2srt.sharding.pack import ShardTask, pack_shard
from c2srt.sharding.packs import PackSource, pack_tasks, stage_pack
from tests.dying import DEATHS
from tests.raw_images import digests, jpeg, name, write_csvs, write_folder, write_pack

ROOT = Path(__file__).parents[1]
FATAL = {2: b"SEGV", 3: b"ABRT"}


@pytest.fixture
def echo():
    isolated = Isolated("tests.dying:echo", 1)
    yield isolated
    isolated.end()


@pytest.mark.parametrize("death", DEATHS)
def test_a_death_is_the_picture_s_own(echo, death):
    assert echo(b"before") == b"before"
    with pytest.raises(Rejected, match="crashed: the decoder died of it, 3 times"):
        echo(death)
    assert echo(b"after" * 1_000_000) == b"after" * 1_000_000


def test_a_decoder_without_an_end_is_stopped(echo):
    with pytest.raises(Rejected, match="too_large: decoding takes more than 1 s of CPU time"):
        echo(b"LOOP")
    assert echo(b"after") == b"after"


def test_a_bug_is_no_row(echo):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        echo(b"BUG")


def test_a_process_that_was_killed_between_two_pictures_is_not_missed():
    isolated = Isolated("tests.dying:process")
    first = isolated()
    psutil.Process(first).kill()
    assert isolated() != first
    isolated.end()


def test_threads_take_turns_and_a_fork_has_a_process_of_its_own():
    isolated, found = Isolated("tests.dying:process"), []
    threads = [threading.Thread(target=lambda: found.append(isolated())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ours, theirs = multiprocessing.get_context("fork").Pipe(False)
    forked = multiprocessing.get_context("fork").Process(target=lambda: theirs.send(isolated()))
    forked.start()
    assert set(found) == {isolated()} and ours.recv() not in found
    forked.join()
    isolated.end()


def statuses(answers) -> list:
    """A death is in its place, and nothing else."""
    return [each.status if isinstance(each, Rejected) else each for each in answers]


@pytest.mark.parametrize(
    "calls",
    [
        [],
        [b"ABRT"],
        [b"SEGV", b"a", b"b"],
        [b"a", b"SEGV", b"ABRT", b"b", b"c", b"KILL"],
        [b"a", b"LOOP", b"b", b"KILL", b"LOOP"],
        [b"a" * 5_000_000, b"SEGV", b"b" * 5_000_000, b"ABRT"],
    ],
)
def test_of_many_each_has_its_own_answer_in_order(echo, calls):
    deaths = dict.fromkeys(DEATHS, "crashed") | {b"LOOP": "too_large"}
    expected = [deaths.get(call, call) for call in calls]
    assert statuses(echo.all((call,) for call in calls)) == expected
    assert echo(b"after") == b"after"


def test_the_next_is_done_before_an_answer_is_taken_and_no_other(tmp_path):
    isolated = Isolated("tests.dying:touch")
    paths = [tmp_path / str(number) for number in range(5)]
    answers = isolated.all((str(path),) for path in paths)
    first = next(answers)
    deadline = time.monotonic() + 60
    while not paths[1].exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [path.exists() for path in paths] == [True, True, False, False, False]
    assert [first, *answers] == [first] * 5
    isolated.end()


def test_neither_waits_for_the_other_where_no_pipe_holds_what_they_say(echo):
    calls = [bytes([number]) * 5_000_000 for number in range(6)]
    assert list(echo.all((call,) for call in calls)) == calls


@pytest.mark.parametrize("taken", [1, 2])
def test_a_kill_from_outside_costs_no_answer(tmp_path, taken):
    isolated = Isolated("tests.dying:touch")
    answers = isolated.all((str(tmp_path / str(number)),) for number in range(6))
    found = [next(answers) for _ in range(taken)]
    psutil.Process(isolated.process.pid).kill()
    found += answers
    assert len(found) == 6 and len(set(found)) == 2
    isolated.end()


def test_whoever_takes_no_more_answers_leaves_nothing_behind(echo):
    """Ctrl-C: an answer that was never taken is not the next call's."""
    answers = echo.all((bytes([number]),) for number in range(9))
    assert next(answers) == bytes([0])
    answers.close()
    assert echo.process is None and echo(b"after") == b"after"


def test_what_cannot_be_had_ends_all_and_nothing_is_left_behind(echo):
    def calls():
        yield (b"a",)
        yield (b"b",)
        raise OSError("a disk")

    answers = echo.all(calls())
    assert next(answers) == b"a"
    with pytest.raises(OSError, match="a disk"):
        next(answers)
    assert echo(b"after") == b"after"


def test_a_bug_ends_all(echo):
    answers = echo.all([(b"a",), (b"BUG",), (b"b",)])
    assert next(answers) == b"a"
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        next(answers)
    assert echo(b"after") == b"after"


def test_it_ends_with_its_parent():
    code = "from c2srt.isolation import Isolated; print(Isolated('tests.dying:process')())"
    command = [sys.executable, "-c", code]
    child = int(
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    )
    with suppress(psutil.NoSuchProcess):
        psutil.Process(child).wait(60)


def test_nothing_to_run_is_a_sentence():
    with pytest.raises(UserError, match="no process can be started for decoding pictures"):
        Isolated("tests.dying:nothing")()


# --- in `c2srt shard`


def test_what_is_known_keeps_its_place_among_what_is_converted():
    missing = [Outcome("missing", f"{number}") for number in range(5)]
    images = [*missing[:2], jpeg(0), missing[2], jpeg(1), jpeg(2), *missing[3:]]
    found = list(attempts([(each, None) for each in images], Config()))
    assert [each.status for each in found] == [
        "ok" if isinstance(each, bytes) else "missing" for each in images
    ]
    assert [each for each in found if each.status != "ok"] == missing
    assert list(attempts([(each, None) for each in missing], Config())) == missing
    alone = [next(attempts([(jpeg(number), None)], Config())) for number in range(3)]
    assert [each for each in found if each.status == "ok"] == alone


def test_a_file_is_read_apart_and_what_is_wrong_with_it_is_a_row(tmp_path):
    most = len(jpeg(0))
    config = Config(max_bytes=most)
    (tmp_path / "sound.jpg").write_bytes(jpeg(0))
    (tmp_path / "large.jpg").write_bytes(jpeg(0) + b"0")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    names = ("sound", "large", "empty", "folder", "absent")
    paths = [str(tmp_path / f"{each}.jpg") for each in names]
    assert list(asked_for(paths)) == paths
    sound, *others = attempts([(path, None) for path in paths], config)
    assert [sound] == list(attempts([(jpeg(0), None)], config)) and sound.status == "ok"
    assert [(each.status, each.reason) for each in others] == [
        ("too_large", f"{most + 1:,} bytes, more than max_bytes={most:,}"),
        ("empty", "the file has 0 bytes"),
        ("unreadable", "folder.jpg: Is a directory"),
        ("missing", "there is no file absent.jpg"),
    ]


def files() -> dict[str, bytes]:
    return {name(number): jpeg(number) + FATAL.get(number, b"") for number in range(8)}


def shard(tmp_path: Path, out: str, source: str) -> pl.DataFrame:
    """The sidecar of one shard of eight images, made without Ray."""
    rows = pl.DataFrame(
        [
            {
                "id": image_id,
                "url": "",
                "rotation": None,
                "positive": ["/m/01"],
                "negative": [],
                "author": "",
                "license": "",
                "landing_url": "",
                "title": "",
            }
            for image_id in sorted(files())
        ],
        schema_overrides={"rotation": pl.Int32, "negative": pl.List(pl.String)},
    )
    (tmp_path / out).mkdir()
    rows.write_parquet(tmp_path / out / "inputs.parquet")
    task = ShardTask(
        "train-000000",
        "train",
        str(tmp_path / out / "inputs.parquet"),
        0,
        8,
        str(tmp_path / out),
        "s",
        FolderSource({"train": str(tmp_path / "images/train")}),
        Config(),
    )
    if source == "packs":
        packs = PackSource({"train": (str(tmp_path / "train.tar.gz"),)})
        task = ShardTask(
            *(
                getattr(task, field)
                for field in ("name", "split", "inputs", "start", "length", "out", "settings")
            ),
            packs,
            Config(),
        )
        for pack in pack_tasks(packs, [task]):
            stage_pack(pack)
    pack_shard(task)
    return pl.read_parquet(tmp_path / out / "train-000000.parquet")


@pytest.mark.parametrize("source", ["folders", "packs"])
def test_several_images_of_a_shard_each_cost_their_row_and_nothing_else(
    tmp_path, monkeypatch, source
):
    write_folder(tmp_path, "train", files())
    write_pack(
        tmp_path / "train.tar.gz",
        [(f"train/{image_id}.jpg", data) for image_id, data in files().items()],
    )
    sound = shard(tmp_path, "sound", source)
    assert set(sound["status"]) == {"ok"}
    monkeypatch.setattr(outcome, "ISOLATED", Isolated("tests.dying:convert_sent"))
    found = shard(tmp_path, "out", source)
    crashed = {name(number) for number in FATAL}
    assert set(found.filter(pl.col("status") == "crashed")["id"]) == crashed
    assert set(found.filter(pl.col("status") == "crashed")["reason"]) == {
        "the decoder died of it, 3 times"
    }
    kept = ["id", "width", "height", "jpg_bytes"]
    assert found.filter(pl.col("status") == "ok")[kept].equals(
        sound.filter(~pl.col("id").is_in(list(crashed)))[kept]
    )
    if source == "folders":
        shard(tmp_path, "again", source)
        assert digests(tmp_path / "out") == digests(tmp_path / "again")
    outcome.ISOLATED.end()


SUICIDE = """
import os, simplejpeg
real = simplejpeg.decode_jpeg

def decode_jpeg(data, *arguments, **options):
    if data[-4:] == b"SEGV":
        os.kill(os.getpid(), 11)
    return real(data, *arguments, **options)

simplejpeg.decode_jpeg = decode_jpeg
"""
"""What every Python that starts with this as its sitecustomize.py does first."""


@pytest.mark.slow
def test_the_whole_job_ends_well_with_a_decoder_that_kills_itself(tmp_path):
    """By the real command, with a Ray of its own: the decoding library in its environment is one
    that dies.
    """
    library, raw = tmp_path / "library", tmp_path / "raw"
    library.mkdir()
    (library / "sitecustomize.py").write_text(SUICIDE)
    images = {
        name(number): jpeg(number) + (b"SEGV" if number in (2, 3) else b"") for number in range(8)
    }
    write_csvs(raw, {"train": [{"id": image_id} for image_id in images]})
    write_folder(raw, "train", images)
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = f"{library}:{ROOT}"
    for workers in (1, 2):
        command = [
            sys.executable,
            "-m",
            "c2srt.cluster.shard",
            f"data.root={raw}",
            f"out={tmp_path / str(workers)}",
            "splits=[train]",
            "data.vocabulary=files",
            "images_per_shard=4",
            f"workers={workers}",
        ]
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert (
            ended.returncode == 0 and "crashed" in ended.stdout and "Traceback" not in ended.stderr
        ), ended.stderr
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    rows = pl.concat([pl.read_parquet(path) for path in sorted((tmp_path / "1").glob("*.parquet"))])
    assert dict(rows.select("id", "status").iter_rows()) == {
        image_id: "crashed" if number in (2, 3) else "ok" for number, image_id in enumerate(images)
    }
