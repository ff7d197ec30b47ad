"""Shards in a bucket and on a web server, as the loader's forked processes read them."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.loader import LoaderConfig, evaluation_batches
from c2srt.scratch import Place, path_of
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.storage.remote import RemoteFile
from c2srt.vocabulary import load_vocabulary
from tests.s3_server import SECRET
from tests.shard_folder import make_shards, make_vocabulary
from tests.store_case import forget, fresh_store
from tests.tiny import tiny_clip_config


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk") / "shards"
    make_shards(folder, {"train": 24, "test": 8}, 8, make_vocabulary())
    return folder


@pytest.fixture
def bucket(tmp_path, monkeypatch, local):
    with fresh_store(monkeypatch, tmp_path / "kept") as bucket:
        for file in local.iterdir():
            bucket.objects[f"w/shards/{file.name}"] = file.read_bytes()
        yield bucket


def batches(folder: Path, workers: int) -> list[tuple[list[str], np.ndarray, np.ndarray]]:
    index, vocabulary = load_index(folder), load_vocabulary(folder)
    config = LoaderConfig(32, workers=workers)
    return [
        (batch.ids, batch.images.numpy(), batch.labels.numpy())
        for batch in evaluation_batches(config, index, vocabulary, "train", 0, 1, 5)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_out_of_a_bucket_are_those_of_a_disk(workers, bucket, local):
    """Two processes, forked from one that has spoken to the store already."""
    remote = path_of(Place("s3", "tests", "w/shards"))
    found, wanted = batches(remote, workers), batches(local, 0)
    assert len(found) == len(wanted) == 5
    for (ids, images, labels), (their_ids, their_images, their_labels) in zip(
        found, wanted, strict=True
    ):
        assert ids == their_ids
        assert np.array_equal(images, their_images) and np.array_equal(labels, their_labels)
    assert not list(remote.glob("*.tar"))


def test_a_shard_that_is_cut_short_or_changes_is_a_sentence(bucket):
    remote = path_of(Place("s3", "tests", "w/shards"))
    index = load_index(remote)
    reader = ShardReader(remote, index.splits["train"][0])
    key, whole = "w/shards/train-000000.tar", bucket.objects["w/shards/train-000000.tar"]
    bucket.objects[key] = whole[:-512]
    with pytest.raises(UserError, match=rf"s3://tests/{key} was changed while it was read"):
        reader.jpeg(0)
    with pytest.raises(UserError, match=rf"s3://tests/{key} is not the shard of the index"):
        ShardReader(remote, index.splits["train"][0])
    del bucket.objects[key]
    with pytest.raises(UserError, match=rf"s3://tests/{key} is in the index but not on disk"):
        ShardReader(remote, index.splits["train"][0])


def test_a_verb_makes_in_a_bucket_what_it_makes_on_a_disk(bucket, local, tmp_path, monkeypatch):
    """And no folder that is called like an address."""
    monkeypatch.chdir(tmp_path)
    clip = tiny_clip_config(tmp_path)
    keys = [f"clip.name={clip.name}", "clip.pretrained=random", "templates=['a {}.']"]
    assert main(["text", f"shards={local}", f"out={tmp_path}/text", *keys]) == 0
    assert main(["text", "work=s3://tests/w", *keys]) == 0
    for name in ("text.safetensors", "text.json"):
        assert bucket.objects[f"w/text/{name}"] == (tmp_path / "text" / name).read_bytes()
    assert set(bucket.objects) - {f"w/shards/{file.name}" for file in local.iterdir()} == {
        "w/text/text.safetensors",
        "w/text/text.json",
    }
    assert not list(tmp_path.glob("s3*"))


@pytest.mark.parametrize(
    "fault, said",
    [
        ("NoSuchBucket", "the bucket tests does not exist at 127.0.0.1"),
        ("ExpiredToken", "the credentials have expired; renew them"),
        ("AccessDenied", "s3://tests/w/text may not be"),
    ],
)
def test_a_verb_says_what_the_store_refuses(fault, said, bucket, capsys, tmp_path):
    clip = tiny_clip_config(tmp_path)
    bucket.faults = lambda method, key: None if "shards" in key and method != "PUT" else fault
    keys = [f"clip.name={clip.name}", "clip.pretrained=random", "templates=['a {}.']"]
    assert main(["text", "work=s3://tests/w", *keys]) == 2
    told = capsys.readouterr().err
    assert told.startswith("c2srt text: ") and len(told.splitlines()) == 1 and SECRET not in told
    assert said.partition("/text")[0] in told
    assert not [key for key in bucket.objects if "text" in key]


class Ranged(SimpleHTTPRequestHandler):
    """A folder, with ranges, which Python's own server has not."""

    def do_GET(self) -> None:
        path, wanted = Path(self.translate_path(self.path)), self.headers.get("range")
        if not path.is_file() or not wanted:
            return super().do_GET()
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        part = path.read_bytes()[first : last + 1]
        self.send_response(206)
        size = path.stat().st_size
        self.send_header("content-range", f"bytes {first}-{first + len(part) - 1}/{size}")
        self.send_header("content-length", str(len(part)))
        self.end_headers()
        return self.wfile.write(part)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def test_shards_are_read_from_a_web_server(local, tmp_path, monkeypatch):
    monkeypatch.setenv("C2SRT_STORE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    forget()
    handler = partial(Ranged, directory=str(local.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        remote = path_of(Place("http", f"127.0.0.1:{server.server_port}", "shards"))
        shard = load_index(remote).splits["train"][1]
        ours, theirs = ShardReader(remote, shard), ShardReader(local, shard)
        assert isinstance(ours.source, RemoteFile)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ours.jpeg, range(8))) == list(map(theirs.jpeg, range(8)))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        forget()
