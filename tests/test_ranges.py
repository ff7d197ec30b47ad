"""Positional reads: the bytes of a plain read, many at a time, and what passes costs no more than a
wait. Failures and waits are put into `os.pread`; files, threads and system calls are real.
"""

import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from c2srt.errors import LoaderFailed, UserError
from c2srt.storage import local, ranges
from c2srt.storage.ranges import KeptOpen, joined, open_ranges, start

SIZE = 3 * ranges.LONGEST + 77


@pytest.fixture(scope="module")
def content():
    return np.random.default_rng(0).bytes(SIZE)


@pytest.fixture
def file(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    return path


@pytest.fixture
def uncached(monkeypatch):
    """No page of any file is in the cache, so every read is one of a thread's."""
    monkeypatch.setattr(local.LocalFile, "now", lambda self, offset, size: None)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(local, "WAITS", (0.001,) * 3)


def failing(monkeypatch, number: int, times: int) -> list[int]:
    """The first `times` calls of `os.pread` fail with an error of this number; the list counts."""
    calls: list[int] = []
    real, lock = os.pread, threading.Lock()

    def pread(file: int, size: int, offset: int) -> bytes:
        with lock:
            calls.append(file)
            failed = len(calls) <= times
        if failed:
            raise OSError(number, os.strerror(number))
        return real(file, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    return calls


def some_spans(count: int) -> list[tuple[int, int]]:
    """Overlapping, adjacent, near and far pieces, and an empty one."""
    random = np.random.default_rng(1)
    offsets = random.integers(0, SIZE - 5000, count)
    far = [(int(offset), int(random.integers(1, 5000))) for offset in offsets]
    return [(0, 10), (10, 20), (40, 7), (30, 5), (SIZE - 3, 3), (9, 0), *far, (0, SIZE)]


@pytest.mark.parametrize("cached", [True, False])
def test_the_bytes_are_those_of_a_plain_read(file, content, request, cached):
    if not cached:
        request.getfixturevalue("uncached")
    source = open_ranges(file)
    reads = start([(source, *span) for span in some_spans(100)])
    found = reads.wait()
    assert source.size == SIZE
    assert [bytes(each) for each in found] == [content[at : at + n] for at, n in some_spans(100)]
    assert [bytes(each) for each in reads.wait()] == [bytes(each) for each in found]


def test_what_is_cached_needs_no_thread(file, content, monkeypatch):
    file.read_bytes()
    source = open_ranges(file)
    if source.now(0, SIZE) is None:
        pytest.skip("this file system has no reads of the page cache alone")
    monkeypatch.setattr(ranges.POOL, "submit", None)
    assert [bytes(found) for found in start([(source, 5, 9)]).wait()] == [content[5:14]]


def test_pieces_that_follow_each_other_are_one_read(file):
    one, other = open_ranges(file), open_ranges(file)
    runs, places = joined([(one, 0, 10), (one, 10, 5), (one, 16, 5), (other, 21, 5), (one, 0, 1)])
    assert [run[1:] for run in runs] == [(0, 21), (21, 26), (0, 1)]
    assert places == [(0, 0, 10), (0, 10, 5), (0, 16, 5), (1, 0, 5), (2, 0, 1)]
    assert len(joined([(one, 0, 10), (one, 11 + ranges.GAP, 5)])[0]) == 2
    assert len(joined([(one, 0, ranges.LONGEST), (one, ranges.LONGEST, 1)])[0]) == 2


def test_reads_wait_beside_each_other(file, uncached, monkeypatch):
    """No read ends before IN_FLIGHT of them are under way: one after the other would wait for
    ever.
    """
    together, real = threading.Barrier(ranges.IN_FLIGHT, timeout=60), os.pread

    def pread(file: int, size: int, offset: int) -> bytes:
        together.wait()
        return real(file, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    source = open_ranges(file)
    spans = [(source, 5000 * number, 10) for number in range(2 * ranges.IN_FLIGHT)]
    assert len(start(spans).wait()) == len(spans)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_failure_that_passes_costs_a_wait(file, content, uncached, quick, monkeypatch, number):
    source = open_ranges(file)
    calls = failing(monkeypatch, number, 3)
    assert bytes(start([(source, 7, 100)]).wait()[0]) == content[7:107]
    assert len(calls) == 4


def test_a_file_is_opened_again_by_its_path(file, content, uncached, quick, monkeypatch):
    """As behind a stale handle: the server has put a copy in the file's place."""
    source = open_ranges(file)
    copy = file.with_name("copy")
    copy.write_bytes(content)
    copy.replace(file)
    failing(monkeypatch, errno.ESTALE, 1)
    start([(source, 0, 1)]).wait()
    assert os.path.samestat(os.fstat(source.file.fileno()), file.stat())


def test_a_failure_that_stays_is_a_sentence(file, uncached, quick, monkeypatch):
    source = open_ranges(file)
    calls = failing(monkeypatch, errno.EIO, 100)
    with pytest.raises(LoaderFailed, match=r"x\.tar cannot be read \(.*, 4 times in .*dmesg"):
        start([(source, 0, 10)]).wait()
    assert len(calls) == 4


def test_a_failure_of_another_kind_is_not_tried_again(file, uncached, quick, monkeypatch):
    source = open_ranges(file)
    calls = failing(monkeypatch, errno.EACCES, 100)
    with pytest.raises(UserError, match=r"x\.tar cannot be read: Permission denied"):
        start([(source, 0, 10)]).wait()
    assert len(calls) == 1


def test_a_file_cut_short_or_replaced_meanwhile_is_named(file, uncached, quick, monkeypatch):
    source = open_ranges(file)
    os.truncate(file, 100)
    with pytest.raises(UserError, match=r"x\.tar ends at byte 100, where its index says that 120"):
        start([(source, 0, 10), (source, 80, 40)]).wait()
    failing(monkeypatch, errno.ESTALE, 1)
    with pytest.raises(UserError, match=r"x\.tar has 100 bytes now and had 3,145,805"):
        start([(source, 0, 10)]).wait()
    file.unlink()
    failing(monkeypatch, errno.ESTALE, 1)
    with pytest.raises(UserError, match=r"x\.tar cannot be read: No such file"):
        start([(source, 0, 10)]).wait()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_not_waited_for(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=r"x cannot be read: it is not a file"):
        open_ranges(tmp_path / "x")


def test_a_forked_process_has_threads_of_its_own(file, content, uncached):
    source = open_ranges(file)
    start([(source, 0, 10)]).wait()
    pid = os.fork()
    if not pid:
        found = bytes(start([(source, 10, 10)]).wait()[0])
        os._exit(0 if found == content[10:20] else 1)
    ended = [0, 0]
    until = time.monotonic() + 60  # for ever is a failure
    while not ended[0] and time.monotonic() < until:
        ended = list(os.waitpid(pid, os.WNOHANG))
        time.sleep(0.01)
    assert ended == [pid, 0]


def test_the_last_wanted_stay_open_and_each_is_opened_once():
    opened: list[int] = []
    kept = KeptOpen(lambda key: opened.append(key) or -key, 2)
    kept.begin([1, 2, 1])
    assert [kept.get(key) for key in (1, 2, 1)] == [-1, -2, -1]
    assert sorted(opened) == [1, 2]
    kept.begin([3])  # lets go of 2, which was wanted before 1
    assert [kept.get(key) for key in (1, 3, 2)] == [-1, -3, -2]
    assert sorted(opened) == [1, 2, 2, 3]


def test_what_could_not_be_opened_fails_again_and_is_not_waited_for():
    def refuse(key: int) -> None:
        raise UserError(f"{key} is damaged")

    kept = KeptOpen(refuse, 2)
    kept.begin([1])
    for _ in range(2):
        with pytest.raises(UserError, match="1 is damaged"):
            kept.get(1)
