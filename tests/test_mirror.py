"""What lies in a store as files of this machine: fetched once, sent whole, records last."""

import os
import subprocess
import sys
import threading

import pytest

from c2srt import artefact
from c2srt.errors import UserError
from c2srt.files import sha256_of_file, whole_file, whole_folder, write_json, write_text
from c2srt.lock import only_writer
from c2srt.opened import read_json
from c2srt.scratch import Place, note_of, path_of
from c2srt.storage import claim, mirror
from c2srt.storage.stores import S3
from tests.s3_server import SECRET
from tests.store_case import forget, fresh_store


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    with fresh_store(monkeypatch, tmp_path / "kept") as bucket:
        yield bucket


@pytest.fixture
def folder(bucket):
    return path_of(Place("s3", "tests", "w"))


def test_a_file_is_in_the_store_before_it_is_here(bucket, folder):
    with whole_file(folder / "a.txt") as temporary:
        temporary.write_text("hello")
        assert not bucket.objects
    assert bucket.texts() == {"w/a.txt": "hello"} and (folder / "a.txt").read_text() == "hello"
    bucket.faults = lambda method, key: "AccessDenied" if method == "PUT" else None
    with pytest.raises(UserError, match=r"s3://tests/w/a\.txt may not be written"):
        write_text(folder / "a.txt", "another")
    assert bucket.texts() == {"w/a.txt": "hello"} and (folder / "a.txt").read_text() == "hello"
    assert [path.name for path in folder.iterdir()] == ["a.txt"]


def test_shards_do_not_stay_here(bucket, folder):
    with whole_file(folder / "train-000000.tar") as temporary:
        temporary.write_bytes(b"tar")
    assert not (folder / "train-000000.tar").exists() and not list(folder.iterdir())
    assert mirror.there(folder / "train-000000.tar")
    assert mirror.size_of(folder / "train-000000.tar") == 3
    assert mirror.names_in(folder, ".tar") == ["train-000000.tar"]
    assert not mirror.there(folder / "train-000001.tar")
    assert sha256_of_file(folder / "train-000000.tar")  # fetched whole
    mirror.let_go(folder / "train-000000.tar")
    assert not (folder / "train-000000.tar").exists()


def test_large_objects_go_and_come_in_parts(bucket, folder, monkeypatch):
    monkeypatch.setattr(S3, "PART", 1000)
    monkeypatch.setattr(mirror, "PIECE", 700)
    content = os.urandom(10_500)
    with whole_file(folder / "x.bin") as temporary:
        temporary.write_bytes(content)
    assert bucket.objects["w/x.bin"] == content and not bucket.uploads
    (folder / "x.bin").unlink()
    mirror.fetched(folder / "x.bin")
    assert (folder / "x.bin").read_bytes() == content
    bucket.faults = lambda method, key: "AccessDenied" if ("PUT", key) == (method, "w/y") else None
    with pytest.raises(UserError), whole_file(folder / "y") as temporary:
        temporary.write_bytes(content)
    assert not bucket.uploads and set(bucket.objects) == {"w/x.bin"}


def test_a_folder_s_records_come_last_and_go_first(bucket, folder):
    for text in ("old", "new"):
        bucket.asked.clear()
        with whole_folder(folder / "m", lambda path: True) as temporary:
            write_json(temporary / "config.json", {"it": text})
            (temporary / "model.bin").write_text(text)
            (temporary / f"{text}.txt").write_text(text)
        assert [key for method, key in bucket.asked if method == "PUT"] == [
            "w/m/model.bin",
            f"w/m/{text}.txt",
            "w/m/config.json",
        ]
    assert set(bucket.objects) == {"w/m/config.json", "w/m/model.bin", "w/m/new.txt"}
    bucket.faults = lambda method, key: "AccessDenied" if key == "w/m/model.bin" else None
    with pytest.raises(UserError), whole_folder(folder / "m", lambda path: True) as temporary:
        write_json(temporary / "config.json", {"it": "third"})
        (temporary / "model.bin").write_text("third")
    assert "w/m/config.json" not in bucket.objects  # nothing vouches for what is left


def test_records_are_withdrawn_and_vouch_in_the_store(bucket, folder):
    write_text(folder / "a.txt", "hello")
    artefact.vouch(folder / "r.json", {"made_from": {}}, ["a.txt"])
    forget()
    assert artefact.is_current(folder / "r.json", {}, ["a.txt"])
    artefact.withdraw(folder / "r.json")
    assert set(bucket.objects) == {"w/a.txt"} and not (folder / "r.json").exists()


def test_a_folder_is_pulled_once_and_follows_its_store(bucket, folder):
    bucket.objects |= {"w/a.json": b"{}", "w/b/c.txt": b"1", "wx/other": b"", "w/d/": b""}
    bucket.objects |= {"w/train-000000.tar": b"tar", "w/m/model.safetensors": b"weights"}
    mirror.pull(folder)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"a.json", "b/c.txt"}
    bucket.asked.clear()
    mirror.pull(folder)
    assert {method for method, key in bucket.asked if key} == set()  # it was only listed
    bucket.objects["w/a.json"] = b'{"a": 1}'
    del bucket.objects["w/b/c.txt"]
    (folder / "log").write_text("not sent yet")
    mirror.pull(folder)
    assert read_json(folder / "a.json", "") == {"a": 1}
    assert not (folder / "b/c.txt").exists() and not note_of(folder / "b/c.txt").exists()
    assert (folder / "log").exists()


def test_another_process_fetches_what_it_opens_and_sees_a_new_version(bucket, folder):
    bucket.objects["w/a.json"] = b'{"a": 1}'
    assert read_json(folder / "a.json", "") == {"a": 1}
    bucket.objects["w/a.json"] = b'{"a": 2}'
    assert read_json(folder / "a.json", "") == {"a": 1}  # one command, one version
    forget()
    assert read_json(folder / "a.json", "") == {"a": 2}
    del bucket.objects["w/a.json"]
    forget()
    with pytest.raises(UserError, match=r"s3://tests/w/a\.json does not exist: make it"):
        read_json(folder / "a.json", "make it")


def test_a_raw_root_s_images_stay_in_the_store(bucket, folder):
    images = {f"w/images/train/{number}.jpg": b"jpg" for number in range(9)}
    bucket.objects |= images | {"w/2018_04/a.csv": b"1", "w/zebra.csv": b"2", "w/x.jpg": b""}
    bucket.objects["w/images/train.txt"] = b"3"
    mirror.pull(folder, lambda key: key.endswith(".jpg"))
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"2018_04/a.csv", "zebra.csv", "images/train.txt"}
    assert mirror.content_of(folder / "images/train/3.jpg", 10) == (3, b"jpg")
    assert mirror.content_of(folder / "images/train/3.jpg", 2) == (3, b"")


def test_no_key_leads_out_of_the_folder(bucket, folder, tmp_path):
    bucket.objects |= {"w/../../../out": b"1", "w//b": b"1", "w/./c": b"1", "w/a": b"1"}
    mirror.pull(folder)
    found = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".note"]
    assert found == [folder / "a"]


def test_logs_are_sent_as_far_as_they_have_grown(bucket, folder):
    folder.mkdir(parents=True)
    (folder / "log").write_text("one\n")
    mirror.send_changed(folder / "log", folder / "none")
    mirror.send_changed(folder / "log")
    (folder / "log").write_text("one\ntwo\n")
    mirror.send_changed(folder / "log")
    assert bucket.texts() == {"w/log": "one\ntwo\n"}
    assert [method for method, _ in bucket.asked] == ["PUT", "PUT"]


def test_a_folder_that_keeps_nothing_is_named(bucket, monkeypatch):
    bucket.objects["w/a.json"] = b"{}"
    monkeypatch.setenv("C2SRT_STORE", "/dev/null")
    with pytest.raises(UserError, match="cannot be written .*another folder by C2SRT_STORE="):
        mirror.pull(path_of(Place("s3", "tests", "w")))
    with pytest.raises(UserError, match="/dev/null cannot be written .*folder by C2SRT_STORE="):
        mirror.fetched(path_of(Place("s3", "tests", "w/a.json")))
    with pytest.raises(UserError, match="/dev/null cannot be written .*folder by C2SRT_STORE="):
        write_text(path_of(Place("s3", "tests", "w/b.txt")), "hello")
    assert set(bucket.objects) == {"w/a.json"}


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from c2srt.errors import UserError
from c2srt.scratch import Place, path_of
from c2srt.storage import mirror
path = path_of(Place("s3", "tests", "w/a.json"))
try:
    mirror.fetched(path)
except UserError as error:
    print(error, *path.parent.iterdir(), sep="|")
"""


def test_a_full_disk_leaves_nothing_half_written(bucket, tmp_path):
    """A process that may write no file of more than 1,000 bytes."""
    bucket.objects["w/a.json"], scratch = b"x" * 5000, tmp_path / "kept"
    said = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=True)
    assert f"{scratch} cannot be written (File too large), where what stores hold" in said.stdout
    assert said.stdout.count("|") == 0


# --- claims


def test_one_command_writes_a_place(bucket, folder, monkeypatch):
    monkeypatch.setattr(claim, "BEAT_S", 0.05)
    monkeypatch.setattr(claim, "LEASE_S", 60)
    with only_writer(folder / "lock"):
        assert set(bucket.objects) == {"w/lock"}
        refused = []

        def other() -> None:
            another = claim.Claim(Place("s3", "tests", "w"))
            another.holder_is_dead = lambda: False  # as on another machine
            try:
                another.take()
            except UserError as error:
                refused.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert (
            f"another command is writing s3://tests/w (host and process {os.uname()[1]}"
            in (refused[0])
        )
    assert not bucket.objects and not folder.exists()


def test_the_lock_of_a_command_that_was_killed_is_taken_over(bucket, folder, monkeypatch):
    dead = subprocess.Popen(["true"])
    dead.wait()
    bucket.objects["w/lock"] = f"{os.uname()[1]} {dead.pid} 1\n".encode()  # of this machine
    with only_writer(folder / "lock"):
        assert bucket.objects["w/lock"].split()[1] == str(os.getpid()).encode()
    monkeypatch.setattr(claim, "LEASE_S", 0.3)
    monkeypatch.setattr(claim, "BEAT_S", 0.1)
    bucket.objects["w/lock"] = b"another-machine 1 1\n"  # never written anew
    with only_writer(folder / "lock"):
        pass
    assert not bucket.objects


def test_a_write_of_the_lock_whose_answer_was_lost_is_no_other_command_s(bucket, folder):
    held = claim.Claim(Place("s3", "tests", "w"))
    held.take()
    before, held.tag = held.tag, held.store.put(held.key, held.text())
    assert held.still_ours() == held.tag != before
    bucket.objects["w/lock"] = b"another-machine 1 1\n"
    assert held.still_ours() is None


def test_a_store_without_conditional_writes_is_told_of(bucket, folder, caplog):
    bucket.faults = lambda method, key: "NotImplemented" if key == "w/lock" else None
    with claim.claimed(folder):
        pass
    assert "has no conditional writes and so no locks" in caplog.text


def test_a_store_that_may_not_be_written_is_refused_before_anything(bucket, folder):
    bucket.faults = lambda method, key: "AccessDenied" if method == "PUT" else None
    refused = pytest.raises(UserError, match="s3://tests/w/lock may not be written")
    with refused, only_writer(folder / "lock"):
        pytest.fail("it began")
    assert SECRET not in str(list(folder.rglob("*")))
