"""The loader on real shard folders: exactly once, resumable on another world size, deterministic,
never hanging.
"""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
import torch

from c2srt.errors import LoaderFailed, UserError
from c2srt.loader import (
    Batch,
    LoaderConfig,
    evaluation_batches,
    iterate,
    train_batches,
    training_order,
)
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.storage import local
from c2srt.view_config import ViewConfig
from c2srt.views import centre_pixels, decode, view_pixels
from tests.shard_folder import make_shards, make_vocabulary
from tests.train_command import wait_until

VOCABULARY = make_vocabulary()
CONFIG = LoaderConfig(size=32, batch=12, micro_batch=2, window=3, workers=0)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, {"train": 53, "test": 23}, 8, VOCABULARY)
    return load_index(folder)


@pytest.fixture(scope="module")
def truth(index):
    """id -> (decoded image, metadata), read straight from the tars."""
    readers = [
        ShardReader(index.folder, shard) for shards in index.splits.values() for shard in shards
    ]
    return {
        reader.ids[n]: (decode(reader.jpeg(n)), json.loads(reader.json(n)))
        for reader in readers
        for n in range(len(reader))
    }


def labels_of(metadata: dict, categories: int) -> list[int]:
    columns = VOCABULARY.mids[:categories]
    return [
        1 if mid in metadata["positive"] else -1 if mid in metadata["negative"] else 0
        for mid in columns
    ]


def same(one: Batch, other: Batch) -> bool:
    tensors = [(one.images, other.images), (one.labels, other.labels), (one.weights, other.weights)]
    return (
        one.ids == other.ids
        and one.step == other.step
        and all(torch.equal(*pair) for pair in tensors)
    )


def real_ids(batches) -> list[str]:
    return [
        image_id
        for batch in batches
        for image_id, weight in zip(batch.ids, batch.weights, strict=True)
        if weight > 0
    ]


@pytest.mark.parametrize("workers, streams", [(0, 0), (2, 0), (2, 5)])
def test_an_epoch_holds_every_image_once_with_its_own_pixels_and_labels(
    index, truth, workers, streams
):
    config = replace(CONFIG, workers=workers, streams=streams)
    steps = training_order(config, index).steps_per_epoch
    batches = list(train_batches(config, index, VOCABULARY, start_step=steps, stop_step=2 * steps))
    assert sorted(real_ids(batches)) == sorted(
        image_id for image_id in truth if image_id.startswith("00")
    )
    places = [(steps + step, part) for step in range(steps) for part in range(6)]
    assert [(batch.step, batch.accumulation) for batch in batches] == places
    for batch in batches:
        assert (
            batch.images.dtype == torch.uint8
            and batch.labels.dtype == torch.int8
            and batch.weights.dtype == torch.float32
        )
        assert batch.epoch == 1 and batch.teacher is None
        for image_id, pixels, labels in zip(batch.ids, batch.images, batch.labels, strict=True):
            image, metadata = truth[image_id]
            assert torch.equal(
                pixels, view_pixels(image, config.views, config.seed, image_id, 1, 32)
            )  # epoch 1: view 1
            assert labels.tolist() == labels_of(metadata, VOCABULARY.seen_count)


@pytest.mark.parametrize("world, micro_batch", [(1, 12), (2, 3), (3, 2), (4, 1)])
def test_ranks_together_see_the_batches_of_one_rank(index, world, micro_batch):
    one = list(train_batches(replace(CONFIG, micro_batch=12), index, VOCABULARY, stop_step=6))
    ranks = [
        list(
            train_batches(
                replace(CONFIG, micro_batch=micro_batch),
                index,
                VOCABULARY,
                rank,
                world,
                stop_step=6,
            )
        )
        for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1  # no rank waits for another's batch
    for batch in one:
        parts = [part for batches in ranks for part in batches if part.step == batch.step]
        assert [image_id for part in parts for image_id in part.ids] == batch.ids
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)


@pytest.mark.parametrize("world, micro_batch", [(1, 5), (2, 4), (5, 2), (5, 1), (7, 12), (12, 1)])
def test_padding_deals_any_batch_to_any_ranks(index, world, micro_batch):
    """The same real samples in the same order, ranks of equal work, and the mean over real
    samples.
    """
    one = list(train_batches(replace(CONFIG, micro_batch=12), index, VOCABULARY, stop_step=6))
    ranks = [
        list(
            train_batches(
                replace(CONFIG, micro_batch=micro_batch),
                index,
                VOCABULARY,
                rank,
                world,
                stop_step=6,
            )
        )
        for rank in range(world)
    ]
    assert (
        len({len(batches) for batches in ranks})
        == len({len(part.ids) for batches in ranks for part in batches})
        == 1
    )
    for batch in one:
        parts = [part for batches in ranks for part in batches if part.step == batch.step]
        assert real_ids(parts) == real_ids([batch])
        weights = torch.cat([part.weights for part in parts])
        real = len(real_ids([batch]))
        torch.testing.assert_close(weights[weights > 0], torch.full((real,), len(weights) / real))


@pytest.mark.parametrize("workers", [0, 3])
def test_two_runs_and_any_resume_give_equal_bytes(index, workers):
    whole = list(train_batches(CONFIG, index, VOCABULARY, stop_step=7))
    for start in (0, 3, 5):
        tail = list(
            train_batches(
                replace(CONFIG, workers=workers), index, VOCABULARY, start_step=start, stop_step=7
            )
        )
        assert all(same(one, other) for one, other in zip(whole[6 * start :], tail, strict=True))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_fails_now_and_then_costs_no_restart(index, workers, number, monkeypatch):
    """Every third read of a file, none of which is in the page cache; forked processes inherit
    the disk.
    """
    expected = list(train_batches(CONFIG, index, VOCABULARY, stop_step=6))
    real, calls = os.pread, count()

    def pread(file: int, size: int, offset: int) -> bytes:
        if next(calls) % 3 == 0:
            raise OSError(number, os.strerror(number))
        return real(file, size, offset)

    monkeypatch.setattr(local.LocalFile, "now", lambda self, offset, size: None)
    monkeypatch.setattr(local, "WAITS", (0.001,) * 20)
    monkeypatch.setattr(os, "pread", pread)
    config = replace(CONFIG, workers=workers)
    found = list(train_batches(config, index, VOCABULARY, stop_step=6))
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


def test_a_disk_that_stays_broken_is_a_failure_of_the_loader(index, monkeypatch):
    """After which a training starts again."""

    def pread(file: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(local.LocalFile, "now", lambda self, offset, size: None)
    monkeypatch.setattr(local, "WAITS", (0.001,) * 3)
    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(
        LoaderFailed, match=r"train-\d+\.tar cannot be read \(.*run the same command"
    ):
        next(train_batches(replace(CONFIG, workers=1), index, VOCABULARY))


def test_one_shard_serves_many_ranks_and_processes(tmp_path):
    make_shards(tmp_path, {"train": 3}, 8, VOCABULARY)
    few = load_index(tmp_path)
    config = replace(CONFIG, batch=16, micro_batch=1, workers=2)
    ids = [
        real_ids(train_batches(config, few, VOCABULARY, rank, 8, stop_step=1)) for rank in range(8)
    ]
    assert sorted(sum(ids, [])) == [f"00{number:014x}" for number in range(3)]


def test_without_views_the_images_are_centre_views(index, truth):
    config = replace(CONFIG, views=ViewConfig(count=0))
    for batch in train_batches(config, index, VOCABULARY, start_step=4, stop_step=6):
        expected = torch.stack([centre_pixels(truth[image_id][0], 32) for image_id in batch.ids])
        assert torch.equal(batch.images, expected)


@pytest.mark.parametrize("world, workers", [(1, 0), (3, 0), (40, 0), (1, 2), (3, 2)])
def test_evaluation_sees_every_image_once_in_index_order(index, truth, world, workers):
    config = replace(CONFIG, workers=workers)
    batches = [
        batch
        for rank in range(world)
        for batch in evaluation_batches(config, index, VOCABULARY, "test", rank, world, 4)
    ]
    assert real_ids(batches) == sorted(image_id for image_id in truth if image_id.startswith("02"))
    for batch in batches:
        for image_id, pixels, labels in zip(batch.ids, batch.images, batch.labels, strict=True):
            assert torch.equal(pixels, centre_pixels(truth[image_id][0], 32))
            assert labels.tolist() == labels_of(truth[image_id][1], len(VOCABULARY))


def test_the_global_random_state_is_left_alone(index):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(train_batches(replace(CONFIG, workers=1), index, VOCABULARY, stop_step=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_forked_workers_survive_a_parent_that_used_thread_pools(index):
    """polars, pyarrow and torch all keep threads; a worker that relied on their copies would
    hang.
    """
    pl.DataFrame({"a": range(10_000)}).group_by(pl.col("a") % 7).len()
    pl.read_parquet(index.folder / "train-000000.parquet")
    torch.randn(300, 300) @ torch.randn(300, 300)
    assert (
        len(list(train_batches(replace(CONFIG, workers=2), index, VOCABULARY, stop_step=2))) == 12
    )


def test_a_dead_worker_is_an_error_not_a_hang(index):
    batches = train_batches(replace(CONFIG, workers=1, prefetch=1), index, VOCABULARY)
    next(batches)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(
        LoaderFailed,
        match=r"a loader process died \(SIGKILL: killed from outside, or for want of memory\)",
    ):
        for _ in range(10_000):  # more of these small batches than its pipe holds
            next(batches)


def test_a_stopped_worker_is_an_error_not_a_hang(index):
    others = set(multiprocessing.active_children())  # of tests before
    batches = train_batches(replace(CONFIG, workers=2, patience=15), index, VOCABULARY)
    next(batches)
    stopped, _ = set(multiprocessing.active_children()) - others
    os.kill(stopped.pid, signal.SIGSTOP)
    state = psutil.Process(stopped.pid)
    wait_until(lambda: state.status() == psutil.STATUS_STOPPED, "the stop")
    with pytest.raises(
        LoaderFailed,
        match=rf"a loader process \(pid {stopped.pid}\) sent no batch for 15 s: it was stopped",
    ):
        for _ in range(10_000):  # more of these small batches than its pipe holds
            next(batches)
    wait_until(
        lambda: stopped not in multiprocessing.active_children(),
        "the end of the stopped one, which was killed",
    )


def test_a_fault_of_the_code_in_a_worker_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="in a loader process:(?s:.*)ZeroDivisionError"):
        list(iterate(lambda position: 1 // position, range(1), replace(CONFIG, workers=1)))


def test_batches_larger_than_a_pipe_arrive_whole_and_may_be_written_to():
    def large(position: int) -> Batch:
        images = torch.full((5, 3, 400, 400), position, dtype=torch.uint8)
        return Batch(
            images,
            torch.zeros(5, 2, dtype=torch.int8),
            None,
            torch.ones(5),
            list("abcde"),
            position,
        )

    for position, batch in enumerate(iterate(large, range(7), replace(CONFIG, workers=3))):
        assert (
            batch.step == position
            and batch.ids == list("abcde")
            and batch.images.shape == (5, 3, 400, 400)
        )
        assert batch.images.eq(position).all() and batch.images.add_(1).eq(position + 1).all()


WITHOUT_SHARED_MEMORY = """
import sys; from pathlib import Path; from c2srt.loader import *
from c2srt.shards import load_index
from tests.shard_folder import make_vocabulary
from tests.train_command import wait_until
config, index = LoaderConfig(32, 8, 4, workers=2), load_index(Path(sys.argv[1]))
print(sum(len(batch.ids) for batch in train_batches(config, index, make_vocabulary(), stop_step=5)))
batches = evaluation_batches(config, index, make_vocabulary(), "test", batch=4)
print(sum(len(batch.ids) for batch in batches))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a /dev/shm of one's own takes root")
def test_a_full_shared_memory_is_none_of_its_concern(index):
    """Docker and Kubernetes give a container 64 MB of /dev/shm; here it holds not one byte."""
    full = (
        "mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 4096 /dev/zero > /dev/shm/full && exec"
        ' "$@"'
    )
    command = [
        "unshare",
        "--mount",
        "bash",
        "-c",
        full,
        "-",
        sys.executable,
        "-c",
        WITHOUT_SHARED_MEMORY,
        str(index.folder),
    ]
    found = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=250
    )
    if "Operation not permitted" in found.stderr or "permission denied" in found.stderr:
        pytest.skip("no right to mount a file system here")
    assert found.stdout.split() == ["40", "23"], found.stderr


def test_workers_end_with_a_killed_parent(index):
    program = (
        "import sys, multiprocessing, time; from pathlib import Path; from c2srt.loader import"
        " *;from c2srt.shards import load_index;from tests.shard_folder import"
        " make_vocabulary;batches = train_batches(LoaderConfig(32, 8, 4, workers=2),"
        " load_index(Path(sys.argv[1])), make_vocabulary());next(batches); print(*[child.pid for"
        " child in multiprocessing.active_children()], flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(index.folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    while any(map(living, workers)):  # for ever is a failure: pytest ends it
        time.sleep(0.05)


def living(process: psutil.Process) -> bool:
    """Not ended, and not a zombie that nobody reads: in a container there may be no init that
    does.
    """
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_left_iterator_takes_its_workers_along(index):
    before = set(multiprocessing.active_children())  # those of tests before may end meanwhile
    batches = train_batches(replace(CONFIG, workers=2), index, VOCABULARY)
    next(batches)
    own = set(multiprocessing.active_children()) - before
    assert len(own) == 2
    batches.close()
    del batches
    for process in own:
        process.join(60)  # a killed process takes its time on a busy machine
    assert not any(process.is_alive() for process in own)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(tmp_path, workers):
    make_shards(tmp_path, {"train": 4}, 4, VOCABULARY)
    index = load_index(tmp_path)
    tar = tmp_path / "train-000000.tar"
    offset = pl.read_parquet(tmp_path / "train-000000.parquet").filter(pl.col("member") == 2)[
        "jpg_offset"
    ][0]
    content = bytearray(tar.read_bytes())
    content[offset : offset + 200] = bytes(200)
    tar.write_bytes(content)
    with pytest.raises(
        UserError, match=r"train-000000.tar: sample 000{13}2 is damaged .*c2srt audit"
    ):
        list(train_batches(replace(CONFIG, workers=workers), index, VOCABULARY, stop_step=1))


def test_a_missing_short_or_emptied_shard_is_named(tmp_path):
    make_shards(tmp_path, {"train": 4}, 4, VOCABULARY)
    index, tar = load_index(tmp_path), tmp_path / "train-000000.tar"
    content = tar.read_bytes()
    for broken, message in (
        (content[:-512], "not the shard of the index"),
        (b"", "not the shard of the index"),
        (None, "not on disk"),
    ):
        tar.unlink() if broken is None else tar.write_bytes(broken)
        with pytest.raises(UserError, match=message):
            next(train_batches(CONFIG, index, VOCABULARY))


def test_a_batch_that_cannot_be_dealt_is_refused_at_the_call(index):
    with pytest.raises(UserError, match="batch=12 is less than one image for each of 13 workers"):
        train_batches(CONFIG, index, VOCABULARY, 0, 13)
    with pytest.raises(UserError, match="no images of split 'validation'"):
        train_batches(replace(CONFIG, split="validation"), index, VOCABULARY)
    with pytest.raises(UserError, match="prefetch=0 must be at least 1"):
        LoaderConfig(32, prefetch=0)


def test_a_batch_moves_whole():
    batch = Batch(
        torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        torch.zeros(2, 5, dtype=torch.int8),
        torch.ones(2, 6).half(),
        torch.ones(2),
        ["a", "b"],
        step=3,
    )
    moved = batch.to("meta")
    assert (
        moved.images.is_meta
        and moved.labels.is_meta
        and moved.teacher.is_meta
        and moved.weights.is_meta
        and moved.step == 3
    )
    assert replace(batch, teacher=None).to("cpu").teacher is None
    assert np.array_equal(batch.images, batch.to("cpu").images)
