"""The vocabulary, and the whole-file writes that every artefact goes through."""

import errno
import json
import os
from pathlib import Path

import pytest

from c2srt.errors import UserError
from c2srt.files import raise_if_storage, remove_leftovers, whole_file, whole_folder, write_json
from c2srt.opened import read_json
from c2srt.vocabulary import Vocabulary, check_same_vocabulary, load_vocabulary, open_images_v4

SHARED = Path(__file__).resolve().parents[2] / "shared/data"
THREE = Vocabulary(("/m/1", "/m/2", "/g/3"), ("Cat", "Spring", "Spring"), 2)


def test_saved_vocabulary_comes_back_equal(tmp_path):
    THREE.save(tmp_path)
    assert load_vocabulary(tmp_path) == THREE
    assert load_vocabulary(tmp_path).hash == THREE.hash
    assert (THREE.index["/g/3"], THREE.unseen_count, len(THREE)) == (2, 1, 3)


@pytest.mark.parametrize(
    "other",
    [
        Vocabulary(("/m/1", "/m/2", "/g/4"), THREE.names, 2),
        Vocabulary(THREE.mids, ("Cat", "Spring", "Autumn"), 2),
        Vocabulary(("/m/2", "/m/1", "/g/3"), THREE.names, 2),
        Vocabulary(THREE.mids, THREE.names, 1),
    ],
)
def test_hash_changes_with_mids_names_order_and_split(other):
    assert other.hash != THREE.hash
    with pytest.raises(UserError, match="rebuild it with `c2srt text`"):
        check_same_vocabulary(THREE, other.hash, "text.json", "c2srt text")


def test_bad_vocabularies_are_refused(tmp_path):
    with pytest.raises(UserError, match="/m/1 is in the vocabulary twice"):
        Vocabulary(("/m/1", "/m/2", "/m/1"), ("a", "b", "c"), 2)
    with pytest.raises(UserError, match="2 MIDs but 1 names"):
        Vocabulary(("/m/1", "/m/2"), ("a",), 1)
    with pytest.raises(UserError, match="seen_count 4"):
        Vocabulary(THREE.mids, THREE.names, 4)
    with pytest.raises(UserError, match="make it with `c2srt shard`"):
        load_vocabulary(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [{"names": ["Dog", "Spring", "Spring"]}, {"hash": None}, {"mids": 3}, {"seen_count": "two"}],
)
def test_an_edited_vocabulary_file_is_refused(tmp_path, change):
    THREE.save(tmp_path)
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="make it again with `c2srt shard`"):
        load_vocabulary(tmp_path)


@pytest.mark.parametrize("text", ["", '{"mids": [', "[1, 2]", "{}"])
def test_a_broken_vocabulary_file_is_refused(tmp_path, text):
    (tmp_path / "vocabulary.json").write_text(text)
    with pytest.raises(UserError, match="make it again"):
        load_vocabulary(tmp_path)


def test_shipped_lists_are_those_of_lesa():
    vocabulary = open_images_v4()
    assert (vocabulary.seen_count, vocabulary.unseen_count) == (7186, 400)
    if not SHARED.is_dir():
        pytest.skip("needs shared/data to compare with the published lists")
    assert (
        list(vocabulary.mids[:7186])
        == (SHARED / "openimages/classes-trainable.txt").read_text().split()
    )
    candidates = (SHARED / "openimages/unseen_labels_2594.txt").read_text().split()
    chosen = (SHARED / "openimages/top_400_unseen.csv").read_text(encoding="utf-8-sig").split()
    assert list(vocabulary.mids[7186:]) == [candidates[int(row)] for row in chosen]
    for split, names in (
        ("seen_7186", vocabulary.names[:7186]),
        ("unseen_400", vocabulary.names[7186:]),
    ):
        lines = (SHARED / f"openimages/openimages_v4_{split}.tsv").read_text().splitlines()
        assert list(names) == [line.split("\t")[-1] for line in lines]


def test_whole_file_keeps_the_old_one_when_writing_fails(tmp_path):
    path = tmp_path / "folder/artefact"
    with whole_file(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as temporary:
        temporary.write_text("half of the new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["artefact"]


def test_whole_folder_replaces_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    with whole_folder(path) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), whole_folder(path, lambda folder: True) as temporary:
        (temporary / "b").write_text("2")
        raise ZeroDivisionError
    assert os.listdir(path) == ["a"]
    with whole_folder(path, lambda folder: os.listdir(folder) == ["a"]) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep/c").write_text("3")
    assert os.listdir(path) == ["deep"]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("write", [whole_file, whole_folder])
def test_a_full_disk_is_one_sentence_and_keeps_the_old_artefact(tmp_path, write):
    path = tmp_path / "artefact"
    path.mkdir() if write is whole_folder else path.write_text("old")
    with (
        pytest.raises(UserError, match="the disk is full while writing .*artefact"),
        write(path) as temporary,
    ):
        if write is whole_file:
            temporary.write_text("half of the new")
        with open("/dev/full", "wb", buffering=0) as full:  # the kernel's own ENOSPC
            full.write(b"x")
    assert os.listdir(tmp_path) == ["artefact"]
    assert path.is_dir() or path.read_text() == "old"


def test_a_file_where_a_folder_is_needed_and_the_reverse(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        write_json(tmp_path / "file/index.json", {})
    with pytest.raises(UserError, match="a folder stands where the file should go"):
        write_json(tmp_path, {})


def test_an_unwritable_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="not writable"):
        raise_if_storage(
            PermissionError(errno.EACCES, "Permission denied", str(tmp_path)),
            tmp_path / "out/index.json",
        )
    if os.geteuid() == 0:
        return  # root may write everywhere
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="not writable"):
        write_json(tmp_path / "out/index.json", {})


def test_an_unreadable_input_is_not_blamed_on_the_output(tmp_path):
    raise_if_storage(
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input.csv"),
        tmp_path / "index.json",
    )


def test_leftovers_of_killed_runs_go_and_a_displaced_folder_comes_back(tmp_path):
    (tmp_path / "index.json.tmp-4194305").write_text("half")
    (tmp_path / "best.tmp-4194306").mkdir()
    (tmp_path / "best.tmp-old-4194306").mkdir()
    (tmp_path / "best.tmp-old-4194306/model").write_text("the only whole one")
    (tmp_path / "last").mkdir()
    (tmp_path / "last.tmp-old-4194307").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best", "last"]
    assert (tmp_path / "best/model").read_text() == "the only whole one"


def test_json_is_written_the_same_way_every_time(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    write_json(tmp_path / "b.json", {"a": "é", "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json", "c2srt x") == {"a": "é", "b": 1}
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path, "c2srt x")


def test_names_that_several_categories_bear_are_told_apart():
    vocabulary = Vocabulary(("/m/1", "/m/2", "/m/3"), ("Jaguar", "Tree", "Jaguar"), 2)
    assert vocabulary.titles == ("Jaguar (/m/1)", "Tree", "Jaguar (/m/3)")
    shipped = open_images_v4()
    assert len(set(shipped.titles)) == len(shipped) > len(set(shipped.names))
