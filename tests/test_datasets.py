"""A data set of one's own: a reader, its line in the registry, a YAML file, and nothing else."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from c2srt import datasets
from c2srt.cluster.cli import main
from c2srt.datasets import data_set, data_set_of, data_sets, published_of
from c2srt.errors import UserError
from c2srt.files import whole_file
from c2srt.sharding.annotations import SCHEMA
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.counts import Acceptance, Count
from c2srt.sharding.folders import FolderSource
from c2srt.sharding.layouts import MODULES
from c2srt.shards import load_index
from c2srt.tables.rows import Row
from c2srt.vocabulary import Vocabulary, load_vocabulary, open_images_v4
from tests.raw_images import jpeg
from tests.tiny import tiny_clip_config
from tests.verbs import compose_verb

YAML = """# Holiday photos in folders, tagged in one file.
data:
  name: album
  layout: album
  root: ???
  splits: [train, test]
clip:
  name: ViT-B-16
  pretrained: openai
topk: [1, 2]
prompts:
  ensemble: ["{}", "a {} at the sea"]
"""
SEEN, UNSEEN = ("boat", "dog", "sand"), ("dogs", "gull")
TAGS = {
    "train": {f"{n:04}": [SEEN[n % 3]] for n in range(12)},
    "test": {f"{n:04}": [SEEN[n % 3], UNSEEN[n % 2]] for n in range(20, 26)},
}


# --- the reader: what a module of sharding would hold


@dataclass
class TagReport:
    images: int

    def lines(self) -> list[str]:
        return [f"{self.images} tagged photos"]


@dataclass(frozen=True)
class Album:
    """<root>/tags.json: split → photo → tags; <root>/<split>/<photo>.jpg."""

    root: Path
    report = TagReport
    vocabulary_splits = ()

    def made_from(self, split: str) -> dict[str, Any]:
        return {"tags": (self.root / "tags.json").stat().st_mtime_ns}

    def write_inputs(self, split: str, out: Path) -> TagReport:
        tags = json.loads((self.root / "tags.json").read_text())[split]
        rows = [
            {"id": photo, "listed": True, "positive": sorted(of)}
            | {"negative": sorted({*SEEN, *(UNSEEN if split == "test" else ())} - set(of))}
            for photo, of in sorted(tags.items())
        ]
        with whole_file(out) as temporary:
            pa.parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
        return TagReport(len(rows))

    def vocabulary(self, inputs: dict[str, Path]) -> Vocabulary:
        return Vocabulary((*SEEN, *UNSEEN), (*SEEN, *UNSEEN), len(SEEN))

    def source(self, config: Config) -> FolderSource:
        return FolderSource({split: str(self.root / split) for split in config.splits})

    def acceptance(
        self, vocabulary: Vocabulary, inputs: dict[str, Path], packed: dict[str, int]
    ) -> Acceptance:
        return Acceptance(vocabulary.hash, (Count("photos", sum(packed.values())),))


def find(data: DataConfig) -> Album:
    if not (Path(data.root) / "tags.json").is_file():
        raise UserError(f"{data.root} has no tags.json")
    return Album(Path(data.root))


# --- the tests


@pytest.fixture
def album(tmp_path, monkeypatch) -> list[str]:
    """The overrides that choose the data set, which lies in tmp_path/raw."""
    module = ModuleType("album_reader")
    module.find = find
    monkeypatch.setitem(sys.modules, "album_reader", module)
    monkeypatch.setitem(MODULES, "album", "album_reader")
    shutil.copytree(str(datasets.FOLDER), tmp_path / "datasets")
    (tmp_path / "datasets/album.yaml").write_text(YAML)
    monkeypatch.setattr(datasets, "FOLDER", tmp_path / "datasets")
    data_sets.cache_clear()
    for split, photos in TAGS.items():
        (tmp_path / "raw" / split).mkdir(parents=True)
        for photo in photos:
            (tmp_path / "raw" / split / f"{photo}.jpg").write_bytes(jpeg(int(photo)))
    (tmp_path / "raw/tags.json").write_text(json.dumps(TAGS))
    yield ["data=album", f"data.root={tmp_path}/raw", f"work={tmp_path}/work"]
    data_sets.cache_clear()


def test_a_new_data_set_is_sharded_described_and_evaluated(album, tmp_path, shared_ray, capsys):
    work, clip = tmp_path / "work", tiny_clip_config(tmp_path)
    of_clip = [f"clip.name={clip.name}", f"clip.pretrained={clip.pretrained}"]
    assert main(["shard", *album, "images_per_shard=5", "resize=32"]) == 0
    assert "12 tagged photos" in capsys.readouterr().out
    index = load_index(work / "shards")
    assert {split: sum(s.count for s in shards) for split, shards in index.splits.items()} == {
        "train": 12,
        "test": 6,
    }
    assert load_vocabulary(work / "shards").names == (*SEEN, *UNSEEN)
    assert main(["audit", *album]) == 0
    assert main(["text", *album, *of_clip]) == 0
    assert json.loads((work / "text/text.json").read_text())["made_from"]["templates"] == [
        "{}",
        "a {} at the sea",
    ]
    assert main(["evaluate", *album, *of_clip, "checkpoint=clip", "bootstrap=0"]) == 0
    found = json.loads((work / "evaluation/results.json").read_text())
    assert found["images"] == 6 and found["published"] is None
    assert found["given_away"] == ["dogs/dog"] and {"F1@1", "F1@2"} <= found["zsl"].keys()


def test_without_prompts_it_takes_those_of_open_images_and_without_a_schedule_the_defaults(album):
    train, plan = (compose_verb(verb, album) for verb in ("train", "plan"))
    schedule = train.schedule
    assert (schedule.epochs, schedule.batch, train.optimizer.lr) == (8, 64, 1e-3)
    assert plan.schedule.epochs == schedule.epochs
    (datasets.FOLDER / "album.yaml").write_text(YAML.partition("prompts:")[0])
    found, like = (
        compose_verb("text", [f"data={name}", "data.root=/x"]) for name in ("album", "openimages")
    )
    assert found.prompts == like.prompts and len(like.prompts.ensemble) == 8
    with pytest.raises(UserError, match=f"choose one of {', '.join(sorted(data_sets()))}"):
        compose_verb("text", ["data=photos"])


def test_a_layout_without_a_reader_is_refused_with_those_that_there_are(album):
    with pytest.raises(UserError, match="xml is none of openimages, nuswide, .*, album"):
        DataConfig(layout="xml")


def batches(*overrides: str) -> tuple[int, int]:
    """(epochs, batch) that a training has."""
    schedule = compose_verb("train", ["data.root=x", *overrides]).schedule
    return schedule.epochs, schedule.batch


def test_the_paper_s_schedule_is_that_of_the_data_set_in_use():
    """Open Images trains with larger batches where nothing is said, as it always did."""
    large = compose_verb("train", ["data=openimages", "data.root=x"])
    for name in ("openimages", "openimages_large"):
        assert (
            compose_verb("train", ["data=openimages", "data.root=x", f"schedule={name}"]) == large
        )
    assert batches("data=openimages") == (8, 512)
    assert batches("data=openimages", "schedule=paper") == (8, 64)
    assert batches("schedule=paper", "data=openimages", "batch=32") == (8, 32)
    assert batches("data=nuswide") == batches("data=nuswide", "schedule=paper") == (20, 64)
    assert compose_verb("plan", ["schedule=paper"]).schedule.batch == 64
    other = {"schedule=paper": {"batch": 64}, "schedule=openimages_large": {"batch": 512}}
    for typed, expected in other.items():
        composed = compose_verb("train", ["data=openimages", "data.root=x", typed])
        assert {**composed.schedule} == {**large.schedule, **expected}
        assert {k: v for k, v in composed.items() if k != "schedule"} == {
            k: v for k, v in large.items() if k != "schedule"
        }


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        (["schedule=paper"], "the paper has none for data=miniature, only for nuswide and open"),
        (
            ["schedule=papr"],
            "choose one of csv, miniature, nuswide, openimages, openimages_large, openimages_v7, p",
        ),
    ],
)
def test_a_schedule_that_is_none_gets_a_sentence(overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        compose_verb("train", overrides)


def test_rows_of_papers_may_be_those_of_a_data_set_that_says_what_is_published(album):
    six = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    with pytest.raises(UserError, match="six numbers for nuswide or openimages"):
        Row("a", run="a", published={"album": six})
    known = datasets.FOLDER / "album.yaml"
    known.write_text(
        YAML
        + "known:\n  published: {vocabulary: abc, zsl: 1.2, gzsl: 3.4, digits: [1, 1],"
        + " every_image: true}\n"
    )
    data_sets.cache_clear()
    assert Row("a", run="a", published={"album": six}).published
    assert published_of("album").agrees("zsl", 1.2345) and data_set("album").topk == (1, 2)


def test_what_is_known_of_the_shipped_ones():
    assert published_of("openimages").vocabulary == open_images_v4().hash
    assert data_set("miniature").oracle and data_set("miniature").compared_with == "nuswide"
    assert data_set("photos") == data_set_of({})
