"""The road with everything in a bucket of moto's server, the training killed twice and gone on from
as on other machines: what it makes is what it makes on a disk, and no credentials are anywhere.
"""

import json
import sys
from pathlib import Path

import pytest

from c2srt.demo.raw import write_raw
from c2srt.scratch import OBJECTS
from c2srt.storage.stores import S3
from tests.moto_server import BUCKET, command, moto
from tests.s3_server import KEY, SECRET, environment
from tests.store_case import forget
from tests.tiny import tiny_clip_config
from tests.train_command import end, ended, launch, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(command() is None, reason="moto is not installed: .ci/run has how"),
    pytest.mark.timeout(1800),
]
CLIP = ["clip.name=tiny.json", "clip.pretrained=random"]
TRAIN = [
    *("views.count=2", "loader.workers=1", "schedule.batch=8", "schedule.micro_batch=2"),
    *("schedule.steps=30", "checkpoints.every=6", "checkpoints.keep=2", "validation.every=0"),
    *("model.layers=1", "model.heads=2", "tracking.model=false", "tracking.every=2"),
]
ROAD = [
    ["shard", "images_per_shard=16", "workers=2"],
    ["audit", *CLIP, "workers=2"],
    ["text", *CLIP, "templates=['a {}.']"],
    ["relations", "graph=llm", "neighbours=8"],
    ["teacher", *CLIP, "views.count=2", "workers=1"],
]
EVALUATE = ["evaluate", *CLIP, "workers=1", "batch=8", "topk=[2,3]", "bootstrap=40"]
SAME = (".tar", ".npy", ".safetensors", ".parquet", ".csv", ".png", "metrics.jsonl", "audit.jsonl")
"""Files that are the same byte by byte; records name places and times."""
RECORDS = {
    *("shards/index.json", "shards/vocabulary.json", "shards/settings.json", "text/text.json"),
    *("shards/acceptance.json", "teacher/teacher.json", "train/model/config.json"),
}
TIMED = ("images_per_s", "data_wait_share", "peak_rss_mib", "peak_gpu_mib")


class Walk:
    """Commands in one folder, with a folder or bucket to work in, and a scratch folder that stands
    for a machine.
    """

    def __init__(self, folder: Path, place: str, address: str) -> None:
        self.folder, self.address, self.machine = folder, address, "machine-1"
        self.keys = ["data=miniature", f"data.root={place}raw", f"work={place}w"]
        self.log = folder / f"{'bucket' if place else 'disk'}.log"

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.address, self.folder / self.machine)

    def starts(self, verb: str, *keys: str):
        arguments = [sys.executable, "-m", "c2srt.cluster.cli", verb, *self.keys, *keys]
        here = {"PYTHONPATH": str(Path(__file__).parent.parent), "PWD": str(self.folder)}
        return launch(
            ["env", "-C", str(self.folder), *arguments], self.log, **self.environment | here
        )

    def does(self, verb: str, *keys: str) -> str:
        return ended(self.starts(verb, *keys), 0, self.log)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """(the folder with w/ on a disk, the store, what all commands said)"""
    folder = tmp_path_factory.mktemp("road")
    write_raw(folder / "raw", 0, {"train": 48, "validation": 12, "test": 24}, 1)
    tiny_clip_config(folder)
    patch = pytest.MonkeyPatch()
    with moto(folder / "moto.log") as address:
        for name, value in environment(address, folder / "tests").items():
            patch.setenv(name, value)
        forget()
        store = S3(BUCKET)
        for file in (folder / "raw").rglob("*"):
            if file.is_file():
                store.put(file.relative_to(folder).as_posix(), file.read_bytes())
        disk, bucket = Walk(folder, "", address), Walk(folder, f"s3://{BUCKET}/", address)
        for words in ROAD:
            disk.does(*words)
            bucket.does(*words)
        disk.does("train", *CLIP, *TRAIN, "workers=2")
        train_with_kills(bucket, store)
        for walk in (disk, bucket):
            walk.does(*EVALUATE)
        yield folder, store
    patch.undo()
    forget()


def train_with_kills(walk: Walk, store: S3) -> None:
    """SIGKILL for the command and all its processes after the checkpoints of steps 6 and 18."""
    for machine, step in ((1, 6), (2, 18), (2, None), (3, None)):
        walk.machine = f"machine-{machine}"
        process = walk.starts("train", *CLIP, *TRAIN, "workers=2")
        if step is None:
            ended(process, 0, walk.log)
            continue
        mark = f"w/train/checkpoints/step-{step:08}/complete.json"
        wait_until(lambda mark=mark: store.meta(mark), mark, process)
        end(process)


def objects(store: S3) -> dict[str, bytes]:
    return {
        key.removeprefix("w/"): store.read(key, 0, meta.size, meta)
        for key, meta in store.listing("w/")
    }


def on_disk(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder / "w").as_posix(): file.read_bytes()
        for file in (folder / "w").rglob("*")
        if file.is_file() and not {"ray", "mlartifacts"} & {*file.relative_to(folder).parts}
    }


def test_what_is_made_in_a_bucket_is_what_is_made_on_a_disk(walked):
    there, here = objects(walked[1]), on_disk(walked[0])
    local = {"mlflow.db", "train/lock"}
    assert set(here) - set(there) == local
    assert set(there) - set(here) <= {"train/failures.jsonl"}
    different = [
        name
        for name in here.keys() & there.keys()
        if (name.endswith(SAME) or name in RECORDS)
        and not name.endswith(("metrics.jsonl", "loss.png"))
        and here[name] != there[name]
    ]
    assert not different
    assert len([name for name in here if name.endswith(SAME)]) > 20


def test_the_metrics_of_every_step_are_those_of_the_undisturbed_run(walked):
    def lines(text: bytes) -> list[dict]:
        found = [json.loads(line) for line in text.splitlines()]
        return [{k: v for k, v in line.items() if k not in TIMED} for line in found]

    there, here = objects(walked[1]), on_disk(walked[0])
    assert lines(there["train/metrics.jsonl"]) == lines(here["train/metrics.jsonl"])
    there, here = (json.loads(files["evaluation/results.json"]) for files in (there, here))
    assert there["made_from"]["subject"] == here["made_from"]["subject"]
    assert (there["zsl"], there["gzsl"]) == (here["zsl"], here["gzsl"])
    assert there["checkpoint"] == f"s3://{BUCKET}/w/train/model"


def test_nothing_is_left_over_and_no_folder_is_called_like_an_address(walked):
    folder, store = walked
    assert not [key for key, _ in store.listing("") if ".tmp-" in key or key.endswith("/lock")]
    assert not store.ask("GET", query={"uploads": ""}).body.count(b"<Upload>")
    assert not [path for path in folder.iterdir() if path.name.startswith("s3")]
    kept = folder / "machine-3" / OBJECTS
    assert not [path for path in kept.rglob("*") if path.suffix == ".tar" or ".tmp-" in path.name]


def test_no_credentials_are_written_down_or_said(walked):
    folder, store = walked
    said = [path for path in folder.rglob("*") if path.is_file() and path.name != "moto.log"]
    assert not [path for path in said if seen_in(path.read_bytes())]
    assert len(said) > 100
    assert not any(seen_in(body) for body in objects(store).values())


def seen_in(content: bytes) -> set[bytes]:
    return {word for word in (KEY.encode(), SECRET.encode()) if word in content}
