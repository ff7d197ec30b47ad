"""From shards to the device: the real loader on synthetic shards in shared memory, with the copy to
the GPU.
"""

import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from c2srt.check.case import Case
from c2srt.files import sha256_of_file
from c2srt.loader import LoaderConfig, train_batches
from c2srt.plan.harness import picture
from c2srt.plan.sizes import Sizes
from c2srt.profiling import synchronise
from c2srt.shards import Shard, ShardIndex
from c2srt.surroundings import cores
from c2srt.vocabulary import Vocabulary

SHARDS, IMAGES, BYTES, SIDE = 4, 256, 21_000, 256
BATCHES = 24


def feed(case: Case) -> Iterator[dict]:
    """Images a second with more and more loader processes, up to the cores."""
    own = cores()
    shared = Path("/dev/shm")
    folder = Path(
        tempfile.mkdtemp(
            prefix="c2srt-check-", dir=shared if shared.is_dir() and case.cuda else None
        )
    )
    try:
        vocabulary = Vocabulary(
            tuple(f"/m/{number}" for number in range(case.sizes.categories)),
            tuple(f"category {number}" for number in range(case.sizes.categories)),
            case.sizes.categories,
        )
        index = make_shards(folder, vocabulary, IMAGES if case.cuda else 16)
        for workers in sorted({1, own // 4, own - 1} - {0}):
            yield {"what": f"{workers} loader processes", **fed(case, index, vocabulary, workers)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fed(case: Case, index: ShardIndex, vocabulary: Vocabulary, workers: int) -> dict:
    """Batches until the device holds them; the first ones, for which the processes start, do not
    count.
    """
    size, batch = 224 if case.cuda else 32, case.sizes.batches[0]
    config = LoaderConfig(size=size, batch=batch, micro_batch=batch, workers=workers)
    batches, count = train_batches(config, index, vocabulary), BATCHES if case.cuda else 4
    for one in islice(batches, workers):
        one.to(case.device)
    synchronise(case.device)
    started = time.perf_counter()
    for one in islice(batches, count):
        one.to(case.device)
    synchronise(case.device)
    rate = count * batch / (time.perf_counter() - started)
    batches.close()
    return {"images/s": rate, "images/s a process": rate / workers}


def make_shards(folder: Path, vocabulary: Vocabulary, images: int) -> ShardIndex:
    """A shard folder of synthetic pictures, as c2srt/shards.py specifies it."""
    pictures = [picture(Sizes(packed_bytes=BYTES, short_side=SIDE), seed) for seed in range(8)]
    shards = tuple(
        make_shard(
            folder,
            f"train-{number:06}",
            [f"{number:08x}{image:08x}" for image in range(images)],
            pictures,
            vocabulary,
        )
        for number in range(SHARDS)
    )
    return ShardIndex(folder, "synthetic", "synthetic", {"train": shards})


def make_shard(
    folder: Path, name: str, ids: list[str], pictures: list[bytes], vocabulary: Vocabulary
) -> Shard:
    rows = []
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for member, image in enumerate(ids):
            labels = {
                "id": image,
                "positive": [vocabulary.mids[member % len(vocabulary)]],
                "negative": [],
            }
            spans = [
                add(tar, f"{image}.{kind}", content)
                for kind, content in (
                    ("jpg", pictures[member % len(pictures)]),
                    ("json", json.dumps(labels).encode()),
                )
            ]
            rows.append(
                {
                    "id": image,
                    "split": "train",
                    "status": "ok",
                    "reason": "",
                    "width": SIDE,
                    "height": SIDE,
                    "member": member,
                    "jpg_offset": spans[0][0],
                    "jpg_bytes": spans[0][1],
                    "json_offset": spans[1][0],
                    "json_bytes": spans[1][1],
                }
            )
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    path = folder / f"{name}.tar"
    return Shard(
        name, path.stat().st_size, sha256_of_file(path), len(ids), len(ids), ids[0], ids[-1]
    )


def add(tar: tarfile.TarFile, name: str, content: bytes) -> tuple[int, int]:
    """Writes a member; where its content lies, and how many bytes it has."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    start = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(entry, BytesIO(content))
    return start, len(content)
