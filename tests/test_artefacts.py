"""The artefact layer: records, one writer at a time, leftovers, and folders of someone else."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from c2srt import artefact
from c2srt.errors import UserError
from c2srt.export.files import CONFIG_FILE, MODEL_FILE, is_only_export
from c2srt.files import (
    raise_if_storage,
    remove_leftovers,
    sha256_of_file,
    whole_folder,
    write_json,
)
from c2srt.hints import Command
from c2srt.lock import LOCK
from c2srt.versions import versions

GONE = (1 << 22) + 1
"""A process number that Linux gives to none."""


@pytest.fixture
def pair(tmp_path) -> Path:
    """A record and its two files."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    artefact.vouch(tmp_path / "record.json", {"made_from": {"key": 1}}, ["a", "b"])
    return tmp_path / "record.json"


# --- records


def test_files_are_current_only_all_together(pair):
    assert artefact.vouched(pair)["made_from"] == {"key": 1}
    for change in (
        lambda: (pair.parent / "b").write_text("of another run"),
        lambda: (pair.parent / "b").unlink(),
    ):
        change()
        assert artefact.vouched(pair) is None
    (pair.parent / "b").write_text("b")
    assert artefact.vouched(pair) is not None
    artefact.withdraw(pair)
    assert artefact.vouched(pair) is None


def test_other_versions_make_nothing_anew(pair):
    content = json.loads(pair.read_text())
    assert content["versions"] == versions()
    before = {name: content[name] for name in ("made_from", "files")}
    without = artefact.hash_of_record(pair)
    for record in (before, before | {"versions": {"torch": "2.11.0"}}):
        write_json(pair, record)
        assert artefact.is_current(pair, content["made_from"], ["a", "b"])
        assert artefact.hash_of_record(pair) == without


def test_a_records_hash_is_its_files_where_it_names_no_versions(pair):
    content = json.loads(pair.read_text())
    for text in (json.dumps({"files": content["files"]}), "no JSON", "[1]", '{"versions": "odd'):
        pair.write_text(text)
        assert artefact.hash_of_record(pair) == sha256_of_file(pair)


@pytest.mark.parametrize(
    "files",
    (
        {"../victim": "0"},
        {"/etc/passwd": "0"},
        {"": "0"},
        {"..": "0"},
        {"a": 1},
        {"a": None},
        [],
        {},
        "a",
        {"a\0": "0"},
    ),
)
def test_a_record_that_names_no_file_of_its_folder_vouches_for_nothing(pair, files):
    write_json(pair, {"files": files})
    assert artefact.vouched(pair) is None


@pytest.mark.parametrize("content", ("", "[1]", "[" * 100_000, '{"files": ', "\udcff"))
def test_a_broken_record_vouches_for_nothing(pair, content):
    pair.write_bytes(content.encode(errors="surrogateescape"))
    assert artefact.vouched(pair) is None


# --- one writer, and what killed ones left

HOLDER = "import sys, time; from pathlib import Path; from c2srt.artefact import *\n"


@contextmanager
def other(code: str):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER + code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_writer_is_refused_and_touches_nothing_of_the_first(tmp_path):
    hold = f"with writing(Path('{tmp_path}')): print('held', flush=True); time.sleep(600)"
    with other(hold) as first:
        ours = tmp_path / f"table.tmp-{first.pid}"
        ours.write_text("half")
        with (
            pytest.raises(UserError, match=f"another command is writing {tmp_path} .*{first.pid}"),
            artefact.writing(tmp_path),
        ):
            pass
        artefact.tidy(tmp_path, "pieces")
        assert ours.exists()
        first.kill()
        first.wait()
        with artefact.writing(tmp_path):
            assert not ours.exists() and (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_removed_is_no_lock(tmp_path):
    """Whoever waited for it holds a file that has no name any more: the next one would not see
    that.
    """
    with artefact.writing(tmp_path / "out"):
        (tmp_path / "out" / LOCK).unlink()
        with other(
            f"with writing(Path('{tmp_path}/out')): print('held', flush=True); time.sleep(600)"
        ):
            pass
    assert not (tmp_path / "out").exists(), "a folder that was made for nothing"


def test_leftovers_are_ours_of_processes_that_are_gone(tmp_path):
    kept = [
        "thesis.tmp-backup",
        "notes.tmp-",
        f"data.tmp-{os.getppid()}",
        ".tmp",
        f"tmp-{GONE}",
        "pieces-of-advice",
        "pieces-0123",
    ]
    for name in (f"table.tmp-{GONE}", *kept):
        (tmp_path / name).mkdir() if name.startswith("pieces") else (tmp_path / name).write_text(
            name
        )
    (tmp_path / "pieces-0123456789abcdef").mkdir()
    (tmp_path / f"linked.tmp-{GONE}").symlink_to(tmp_path / "pieces-0123")
    artefact.tidy(tmp_path, "pieces")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_of_what_is_kept_to_go_on_from_only_other_keys_go(tmp_path):
    for key in ("0" * 16, "1" * 16):
        (tmp_path / f"pieces-{key}").mkdir()
    assert (
        artefact.unfinished(tmp_path, "pieces", "1" * 16).exists()
        and not (tmp_path / f"pieces-{'0' * 16}").exists()
    )


# --- folders of someone else


@pytest.mark.parametrize(
    "there",
    (
        {"thesis.tex": "years"},
        {MODEL_FILE: "x", CONFIG_FILE: '{"model_type": "clip"}'},
        {MODEL_FILE: "x"},
        {CONFIG_FILE: '{"format": 1, "model": {}, "clip": {}, "vocabulary": {}}', "notes": "mine"},
        {CONFIG_FILE: "not JSON", MODEL_FILE: "x"},
    ),
    ids=range(5),
)
def test_a_folder_that_is_no_export_of_ours_is_never_replaced(tmp_path, there):
    for name, text in there.items():
        (tmp_path / name).write_text(text)
    with (
        pytest.raises(UserError, match="nothing in it was touched"),
        whole_folder(tmp_path, is_only_export),
    ):
        raise AssertionError("nothing may be written")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == there


def test_an_empty_folder_and_an_earlier_export_are_replaced_also_behind_a_link(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    for text in ("first", "second"):
        with whole_folder(link, is_only_export) as folder:
            write_json(
                folder / CONFIG_FILE, {"format": 1, "model": {}, "clip": {}, "vocabulary": {}}
            )
            (folder / MODEL_FILE).write_text(text)
        assert (real / MODEL_FILE).read_text() == text and link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_file_that_comes_while_a_folder_is_made_is_safe_too(tmp_path):
    with (
        pytest.raises(UserError, match="nothing in it was touched"),
        whole_folder(tmp_path / "out", is_only_export) as folder,
    ):
        write_json(folder / CONFIG_FILE, {})
        (tmp_path / "out").mkdir()
        (tmp_path / "out/thesis.tex").write_text("years")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (
        tmp_path / "out/thesis.tex"
    ).exists()


# --- storage that fails, also where a library hides it

WRITERS = {
    "numpy": "np.save(temporary.open('wb'), np.ones(100_000))",
    "polars": "pl.DataFrame({'a': list(range(100_000))}).write_parquet(temporary)",
    "polars CSV": "pl.DataFrame({'a': list(range(100_000))}).write_csv(temporary)",
    "safetensors": "save_file({'a': torch.ones(100_000)}, temporary)",
}
LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, polars as pl, torch
from safetensors.torch import save_file
from c2srt.errors import UserError
from c2srt.files import whole_file
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    with whole_file(Path(sys.argv[1]) / "file") as temporary:
        {write}
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_that_does_not_fit_is_one_sentence_whoever_writes_it(tmp_path, write):
    said = subprocess.run(
        [sys.executable, "-c", LIMITED.format(write=write), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    words = (
        "the disk is full while writing {}"
        if "np.save" in write
        else "{} is larger than its file system, or a limit of this"
    )
    assert words.format(tmp_path / "file") in said.stdout, said.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "number, words",
    (
        (28, "the disk is full"),
        (30, "the file system is read-only"),
        (16, "it is a mount point"),
        (5, "the disk fails"),
    ),
)
def test_every_storage_failure_has_its_remedy(number, words):
    with pytest.raises(UserError, match=words):
        raise_if_storage(OSError(number, os.strerror(number)), Path("/out/table"))


def test_a_folder_that_a_killed_run_moved_aside_comes_back(tmp_path):
    (tmp_path / f"k.tmp-old-{GONE}").mkdir()
    (tmp_path / f"other.tmp-{GONE}").mkdir()
    remove_leftovers(tmp_path, "k")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k", f"other.tmp-{GONE}"]


def test_records_are_written_last(tmp_path, monkeypatch):
    """What is killed between the files and their record leaves files that nobody vouches for."""
    monkeypatch.setattr(
        artefact, "write_json", lambda path, value: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    (tmp_path / "a").write_text("new")
    with pytest.raises(KeyboardInterrupt):
        artefact.vouch(tmp_path / "record.json", {}, ["a"])
    assert artefact.vouched(tmp_path / "record.json") is None


# --- one file with a record of its own, and marks


def test_a_single_file_is_kept_while_its_record_and_its_content_are_what_was_written(tmp_path):
    file, record = tmp_path / "table", {"made_from": {"a": 1}, "bytes": 4, "report": []}
    file.write_bytes(b"abcd")
    record["sha256"] = sha256_of_file(file)

    def kept(made_from, hashed=True, **changed):
        return artefact.kept(file, lambda: {**record, **changed}, {"made_from": made_from}, hashed)

    assert kept({"a": 1}) == record and kept({"a": 1}, hashed=False) == record
    assert kept({"a": 2}) is None and kept({"a": 1}, bytes=5) is None
    file.write_bytes(b"abce")
    assert kept({"a": 1}) is None and kept({"a": 1}, hashed=False) == record
    file.unlink()
    assert kept({"a": 1}, hashed=False) is None

    def damaged():
        raise UserError("damaged")

    file.write_bytes(b"abcd")
    assert artefact.kept(file, damaged, {}, False) is None


def test_a_mark_may_stand_in_a_larger_record(tmp_path):
    write_json(tmp_path / "config.json", {"made_from": {"tuned": {"key": "k"}}, "key": "other"})
    marked = partial(artefact.is_marked, tmp_path / "config.json", again=Command("tune"))
    assert marked("other") and not marked("k")
    is_tuned = partial(artefact.is_marked, tmp_path / "config.json", "k", Command("tune"))
    assert is_tuned("made_from", "tuned") and not is_tuned("made_from", "none")
    assert not artefact.is_marked(tmp_path / "none.json", "k", Command("tune"))


def test_two_threads_of_one_process_do_not_write_into_one_folder(tmp_path):
    """The operating system would let them, and one's end would take the lock from the other."""
    with artefact.writing(tmp_path):
        for _ in range(2):
            with pytest.raises(UserError, match=f"another command is .*{os.getpid()}"):
                artefact.writing(tmp_path).__enter__()
        with (
            pytest.raises(AssertionError),  # it is refused, and says nothing of holding it
            other(f"with writing(Path('{tmp_path}')): print('held', flush=True)"),
        ):
            pass
    with artefact.writing(tmp_path):
        pass
