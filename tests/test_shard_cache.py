"""The node's cache of shards: what comes out of it is what was in the originals, whatever happens
to it.
"""

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from c2srt import shard_cache
from c2srt.errors import UserError
from c2srt.loader import LoaderConfig, train_batches
from c2srt.order import Order
from c2srt.shard_cache import GB, CachedFile, ShardCache
from c2srt.shards import load_index
from c2srt.storage import local
from tests.shard_folder import make_shards, make_vocabulary
from tests.train_case import make_case
from tests.train_command import command, ended, launch, wait_until

VOCABULARY = make_vocabulary()
CONFIG = LoaderConfig(size=32, batch=12, micro_batch=4, window=3, workers=0)


@pytest.fixture
def index(tmp_path):
    make_shards(tmp_path / "shards", {"train": 40}, 8, VOCABULARY)
    return load_index(tmp_path / "shards")


def cache_of(index, folder: Path, shards: int = 5) -> ShardCache:
    """With room for so many shards."""
    every = index.split("train")
    largest = max(shard.bytes for shard in every)
    return ShardCache(folder / "cache", shards * largest, index.folder, every)


def filled(cache: ShardCache, *wanted: int) -> list[str]:
    """The names in the cache after those shards were wanted."""
    while cache.fill_one(lambda: iter(wanted)):
        pass
    found = {path.name for path in cache.folder.glob("*.*")}
    return [shard.name for shard in cache.shards if f"{shard.sha256}.tar" in found]


def same(batches, others) -> bool:
    pairs = zip(batches, others, strict=True)
    return all(one.ids == two.ids and torch.equal(one.images, two.images) for one, two in pairs)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_fills_it_and_reads_it(index, tmp_path, workers):
    expected = list(train_batches(CONFIG, index, VOCABULARY, stop_step=8))
    cached = replace(CONFIG, cache=str(tmp_path / "cache"), cache_gb=1, workers=workers)
    batches = train_batches(cached, index, VOCABULARY)
    begun = [next(batches)]
    wait_until(lambda: len([*(tmp_path / "cache").glob("*.tar")]) == 5, "all shards in the cache")
    assert same([*begun, *(next(batches) for _ in range(23))], expected)
    batches.close()
    for path in index.folder.glob("*.tar"):
        path.unlink()
    assert same(train_batches(cached, index, VOCABULARY, stop_step=8), expected)


def test_copies_are_the_originals_in_the_order_of_need(index, tmp_path):
    cache = cache_of(index, tmp_path)
    assert cache.fill_one(lambda: iter([3, 1, 3]))
    assert [path.name for path in cache.folder.glob("*.tar")] == [f"{cache.shards[3].sha256}.tar"]
    assert filled(cache, 3, 1, 3) == ["train-000001", "train-000003"]
    for number in (1, 3):
        path = index.folder / f"{cache.shards[number].name}.tar"
        assert cache.place(cache.shards[number]).read_bytes() == path.read_bytes()
        assert cache.opens(path).path == cache.place(cache.shards[number])
    other = index.folder / "train-000000.tar"
    assert cache.opens(other).path == other
    assert cache.opens(index.folder / "index.json").path == index.folder / "index.json"


def test_what_nobody_claims_makes_room(index, tmp_path, monkeypatch):
    cache = cache_of(index, tmp_path, 2)
    (cache.folder / "notes.tar").write_bytes(bytes(10**6))  # of somebody else
    assert filled(cache, 0, 1, 2) == ["train-000000", "train-000001"]
    assert filled(cache, 2) == ["train-000000", "train-000001"]  # perhaps another process needs it
    os.utime(cache.place(cache.shards[0]), (1000, 1000))
    assert filled(cache, 2) == ["train-000001", "train-000002"]
    monkeypatch.setattr(shard_cache, "CLAIM_S", -1)
    os.utime(cache.place(cache.shards[2]), (1000, 1000))
    assert filled(cache, 1, 2) == ["train-000001", "train-000002"]  # claimed: the same stay
    assert filled(cache, 1, 3) == ["train-000001", "train-000003"]
    assert (cache.folder / "notes.tar").exists()


def test_a_damaged_original_is_not_copied(index, tmp_path, caplog):
    path = index.folder / "train-000001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    (index.folder / "train-000002.tar").write_bytes(content[:2000])
    (index.folder / "train-000003.tar").unlink()
    cache = cache_of(index, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert filled(cache, 1, 2, 3, 4) == ["train-000004"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and all("c2srt audit" in line for line in said)
    assert "train-000001.tar is not the shard of the index (its SHA-256 is another)" in said[0]
    assert "train-000002.tar ends at byte 2,000" in said[1] and "No such file" in said[2]
    assert not [*cache.folder.glob("*.part")]


def test_a_copy_cut_short_is_not_used_and_is_made_again(index, tmp_path):
    cache = cache_of(index, tmp_path)
    filled(cache, 0)
    place, original = cache.place(cache.shards[0]), index.folder / "train-000000.tar"
    os.truncate(place, 100)
    assert cache.opens(original).path == original
    filled(cache, 0)
    assert place.read_bytes() == original.read_bytes()


def test_a_copy_that_cannot_be_read_is_replaced_by_the_original(index, tmp_path, monkeypatch):
    cache = cache_of(index, tmp_path)
    filled(cache, 0)
    place, original = cache.place(cache.shards[0]), index.folder / "train-000000.tar"
    source = cache.opens(original)
    assert isinstance(source, CachedFile)
    real = local.exactly

    def failing(file, path, offset, size):
        if path == place:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(file, path, offset, size)

    monkeypatch.setattr(local, "WAITS", (0.001,))
    monkeypatch.setattr(local, "exactly", failing)
    assert source.read(3, 700) == original.read_bytes()[3:703]
    assert source.now(3, 700) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_ends_the_copying_alone(index, tmp_path, monkeypatch, caplog, number):
    def failing(file, offset, size):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", failing)
    cache = cache_of(index, tmp_path)
    with caplog.at_level(logging.WARNING):
        cache.fill(lambda: iter([0]), threading.Event())  # returns
    (said,) = [record.getMessage() for record in caplog.records]
    assert "takes no more shards" in said and "the training goes on" in said
    assert [path.name for path in cache.folder.iterdir()] == ["lock"]


def test_a_cache_that_cannot_be_is_refused(index, tmp_path):
    (tmp_path / "file").write_text("")
    shards = index.split("train")
    with pytest.raises(UserError, match="loader.cache=.* cannot be written .*leave loader.cache"):
        ShardCache(tmp_path / "file" / "cache", GB, index.folder, shards)
    with pytest.raises(UserError, match="loader.cache_gb=1e-06 is less than the largest shard"):
        ShardCache(tmp_path / "cache", 1000, index.folder, shards)


COPYING = """
import sys, time; from pathlib import Path
from c2srt import shard_cache; from c2srt.shards import load_index
real = shard_cache.write_at
def slow(*arguments):
    real(*arguments)
    print("writing", flush=True)
    time.sleep(float(sys.argv[3]))
shard_cache.write_at = slow
index = load_index(Path(sys.argv[1]))
cache = shard_cache.ShardCache(Path(sys.argv[2]), 10**9, index.folder, index.split("train"))
while cache.fill_one(lambda: iter(range(5))): pass
"""


def copying(index, folder: Path, seconds: float) -> subprocess.Popen:
    """A process that fills the cache and waits so long after each block."""
    command = [sys.executable, "-c", COPYING, str(index.folder), str(folder), str(seconds)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    )


def test_two_processes_share_it_and_a_killed_one_leaves_nothing(index, tmp_path):
    cache = cache_of(index, tmp_path)
    killed = copying(index, cache.folder, 1000)
    assert killed.stdout.readline() == "writing\n"
    (part,) = cache.folder.glob("*.part")
    assert len(filled(cache, *range(5))) == 4  # the one that is being copied is left to the other
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert part.exists() and cache.holds(cache.shards[1])
    assert len(filled(cache, *range(5))) == 5 and not part.exists()
    for shard in cache.shards:
        original = index.folder / f"{shard.name}.tar"
        assert cache.place(shard).read_bytes() == original.read_bytes()


def test_what_a_killed_process_left_makes_room(index, tmp_path):
    cache = cache_of(index, tmp_path, 1)
    left = cache.folder / f"{'0' * 64}.part"
    left.write_bytes(bytes(cache.limit))
    assert filled(cache, 2) == ["train-000002"] and not left.exists()


@pytest.mark.parametrize("streams", [0, 1, 4, 12])
@pytest.mark.parametrize("world", [1, 3])
def test_the_shards_that_come_are_those_that_are_read(streams, world):
    order = Order((37, 25, 0, 39, 24, 38, 26, 33), 12, 2, 5, streams)
    for rank in range(world):
        begin, end = (12 * part // world for part in (rank, rank + 1))
        for step in range(2 * order.steps_per_epoch):
            coming = list(order.coming(step, rank / world, (rank + 1) / world))
            last = (order.epoch_of(step) + 2) * order.steps_per_epoch
            read = [real_shards(order, at, begin, end) for at in range(step, last)]
            assert set().union(*read) <= set(coming)
            soon = list(dict.fromkeys(coming))[: order.open_shards(1 / world)]
            assert read[0] <= set(soon)


def real_shards(order: Order, step: int, begin: int, end: int) -> set[int]:
    """Those of the samples at some positions of a step, without padding."""
    positions = order.positions(step, begin, end)
    return set(positions.shard[positions.weight > 0].tolist())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_training_that_fills_it_ends_with_the_same_weights(tmp_path):
    """By the command: two workers, each with a loader process, with the cache and without."""
    case, cache = make_case(tmp_path), tmp_path / "nvme"
    for name, more in (("plain", ()), ("cached", (f"loader.cache={cache}",))):
        keys = ("workers=2", "epochs=2", *more)
        log = tmp_path / f"{name}.log"
        said = ended(launch(command(case, name, *keys), log), 0, log)
        assert "finished" in said and "cannot be copied" not in said
    plain, cached = (
        (tmp_path / name / "model/model.safetensors").read_bytes() for name in ("plain", "cached")
    )
    assert plain == cached
    shards = load_index(Path(case.shards)).split("train")
    assert {path.name for path in cache.glob("*.*")} == {f"{each.sha256}.tar" for each in shards}
    for each in shards:
        original = Path(case.shards, f"{each.name}.tar")
        assert (cache / f"{each.sha256}.tar").read_bytes() == original.read_bytes()
