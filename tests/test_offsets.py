"""The table of a split's offsets says what the sidecars say, or is not used."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from c2srt.errors import UserError
from c2srt.offsets import open_offsets, path_of, write_offsets
from c2srt.samples import Samples
from c2srt.shard_reader import ShardReader, sidecar_places
from c2srt.shards import load_index
from tests.shard_folder import make_shards, make_vocabulary

VOCABULARY = make_vocabulary()


@pytest.fixture
def index(tmp_path):
    make_shards(tmp_path, {"train": 11, "test": 3}, 4, VOCABULARY)
    index = load_index(tmp_path)
    write_offsets(tmp_path, "train", index.split("train"))
    return index


def samples_of(index) -> Samples:
    return Samples(index.folder, index.split("train"), VOCABULARY, len(VOCABULARY), 4)


def test_it_says_what_the_sidecars_say(index):
    shards = index.split("train")
    table = open_offsets(index.folder, shards)
    for number, shard in enumerate(shards):
        places = sidecar_places(index.folder / f"{shard.name}.parquet", shard)
        found = table.places(number)
        assert list(found.ids) == places.ids and np.array_equal(found.spans, places.spans)
        assert found.ids.index(places.ids[-1]) == len(found.ids) - 1
        assert list(found.ids[1:]) == places.ids[1:]


def test_samples_need_no_sidecar_then(index):
    expected = [samples_of(index).read(2, sample) for sample in range(3)]
    for path in index.folder.glob("*.parquet"):
        path.unlink()
    for sample, one in enumerate(expected):
        other = samples_of(index).read(2, sample)
        assert one.id == other.id and np.array_equal(one.image, other.image)
    with pytest.raises(UserError, match="train-000002.parquet does not exist"):
        ShardReader(index.folder, index.split("train")[2])


def test_a_folder_without_it_or_with_another_is_read_by_its_sidecars(index):
    shards, path = index.split("train"), path_of(index.folder, "train")
    others = (shards[:2], (*shards[:2], dataclasses.replace(shards[2], sha256="0")))
    assert [open_offsets(index.folder, each) for each in others] == [None, None]
    for content in (
        b"",
        b"[]\n",
        b"{}\n",
        b"\xff" * 9000,
        path.read_bytes().replace(b"1", b"2", 1),
    ):
        path.write_bytes(content)
        assert open_offsets(index.folder, shards) is None and samples_of(index).read(0, 0).id
    path.unlink()
    assert open_offsets(index.folder, shards) is None and samples_of(index).offsets is None


def test_damage_is_named_and_mended(index):
    shards, path = index.split("train"), path_of(index.folder, "train")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match="offsets-train.bin is not as long as its shards need"):
        open_offsets(index.folder, shards)
    damaged = bytearray(content)
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="is damaged in the rows of train-000002: .*c2srt shard"):
        samples_of(index).read(2, 0)
    assert samples_of(index).read(1, 0).id
    write_offsets(index.folder, "train", shards)
    assert path.read_bytes() == content


def test_a_sound_one_is_left_as_it_is(index):
    before = path_of(index.folder, "train").stat()
    write_offsets(index.folder, "train", index.split("train"))
    assert path_of(index.folder, "train").stat().st_mtime_ns == before.st_mtime_ns


def test_a_layout_that_it_cannot_hold_makes_none(index):
    """webdataset's own writers may put the JSON first."""
    path = index.folder / "test-000000.parquet"
    rows = pl.read_parquet(path)
    swapped = {"jpg_offset": pl.col("json_offset"), "json_offset": pl.col("jpg_offset")}
    rows.with_columns(**swapped).write_parquet(path)
    write_offsets(index.folder, "test", index.split("test"))
    assert not path_of(index.folder, "test").exists()
