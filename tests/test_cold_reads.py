"""What a training pulls from the disk: little more than the bytes that it wants."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from c2srt.bench.mapped import MappedReader
from c2srt.offsets import write_offsets
from c2srt.samples import Samples
from c2srt.shards import BLOCK, Shard
from c2srt.vocabulary import Vocabulary

COUNT, JPEG_BYTES, PART = 2048, 32_000, 64
VOCABULARY = Vocabulary(("/m/0",), ("thing",), 1)


def make_shard(folder: Path) -> Shard:
    """A shard of 64 MB in which every image is noise of one length: nothing here decodes it."""
    rows, random = [], np.random.default_rng(0)
    text = json.dumps({"positive": ["/m/0"], "negative": []}).encode()
    with tarfile.open(folder / "train-000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in range(COUNT):
            row = {"id": f"{member:016x}", "split": "train", "status": "ok", "reason": ""}
            row |= {"member": member, "width": 1, "height": 1}
            for suffix, content in (("jpg", random.bytes(JPEG_BYTES)), ("json", text)):
                row |= {f"{suffix}_offset": tar.offset + BLOCK, f"{suffix}_bytes": len(content)}
                header = tarfile.TarInfo(f"{row['id']}.{suffix}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
            rows.append(row)
    pl.DataFrame(rows).write_parquet(folder / "train-000000.parquet")
    size = (folder / "train-000000.tar").stat().st_size
    return Shard("train-000000", size, "0", COUNT, COUNT, rows[0]["id"], rows[-1]["id"])


def forget(folder: Path) -> None:
    """Takes the folder's files out of the page cache."""
    for path in folder.iterdir():
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def from_disk() -> int:
    """Bytes that this process has made the disk deliver."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel does not count")
def test_a_64th_of_a_shard_pulls_little_more_than_it_wants(tmp_path):
    """The table of offsets included, and the headers, and what fills up pages; the mapped reader
    beside it pulls a multiple, here and on any disk that reads ahead.
    """
    shard = make_shard(tmp_path)
    write_offsets(tmp_path, "train", (shard,))
    chosen = sorted(np.random.default_rng(1).permutation(COUNT)[: COUNT // PART].tolist())
    wanted = len(chosen) * (JPEG_BYTES + 40)

    forget(tmp_path)
    before = from_disk()
    (tmp_path / "train-000000.tar").read_bytes()
    if from_disk() - before < shard.bytes // 2:
        pytest.skip("this file system lies in memory, or its disk is not counted")

    forget(tmp_path)
    before = from_disk()
    samples = Samples(tmp_path, (shard,), VOCABULARY, 1, 1)
    samples.start([(0, sample) for sample in chosen]).reads.wait()
    pulled = from_disk() - before
    assert wanted < pulled <= 1.3 * wanted

    forget(tmp_path)
    before = from_disk()
    mapped = MappedReader(tmp_path, shard, 0.0)
    for sample in chosen:
        mapped.jpeg(sample)
    assert from_disk() - before > pulled
