"""The readers of our own artefacts and of raw lists, each with a small world of its own."""

import contextlib
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from c2srt.artefact import vouch
from c2srt.backbone.clip import load_clip
from c2srt.backbone.config import ClipConfig
from c2srt.errors import UserError
from c2srt.evaluation.arrays import evaluate_arrays
from c2srt.evaluation.describe import describe
from c2srt.evaluation.metric_state import load_state, measure
from c2srt.evaluation.results import Task, evaluate_state, flat, read_results, write_results
from c2srt.evaluation.score_table import read_scores
from c2srt.export.read import load_export
from c2srt.figures.ap_change import read_table
from c2srt.files import sha256_of_file, write_json
from c2srt.relations import aggregate, batch, ledger
from c2srt.relations.answers import read_answers
from c2srt.relations.budget import Prices
from c2srt.relations.completion import ApiError, Malformed
from c2srt.relations.config import WordsConfig
from c2srt.relations.endpoint import Endpoint, Refused, RequestError
from c2srt.relations.neighbours import no_neighbours
from c2srt.relations.prompt import make_labels
from c2srt.relations.questions import Questions, read_list
from c2srt.relations.table import load_relations, save as save_relations
from c2srt.relations.validation import reply_event
from c2srt.relations.words import NewWords
from c2srt.shard_reader import ShardReader
from c2srt.sharding.annotations import write_inputs
from c2srt.sharding.categories import build_vocabulary
from c2srt.sharding.nuswide_files import read_bits, read_images, read_names
from c2srt.sharding.outcome import Outcome
from c2srt.sharding.pack import finished
from c2srt.sharding.pack_members import PackReport, members, parts_of
from c2srt.sharding.packs import PackAbout, PackStage, StageReport
from c2srt.sharding.raw_files import find_root
from c2srt.sharding.staging import about_stage, in_order, write_stage
from c2srt.sharding.tasks import check_settings
from c2srt.shards import load_index
from c2srt.tables.collect import of_groups, read_groups
from c2srt.teacher.cache import TeacherCache
from c2srt.text import load_text
from c2srt.train import checkpoints
from c2srt.vocabulary import Vocabulary, load_vocabulary
from tests.coco_files import write_coco
from tests.csv_lists import A, B, image_row, write_root
from tests.damage import Reader
from tests.raw_images import jpeg
from tests.set_files import write_vg, write_voc
from tests.shard_folder import make_shards, make_vocabulary
from tests.standard_sets import set_reader, tables
from tests.tiny import tiny_clip_config, tiny_export

VOCABULARY = make_vocabulary(6, 2)
NAMES = ("Dog", "Cat", "Tree", "Car", "Cloud", "Boat", "Zebra", "House")
ANSWER = {
    "related": [
        {
            "category": VOCABULARY.names[0],
            "type": "Is-a/Hypernym",
            "strength": "High",
            "explanation": "x",
        }
    ]
}
COMPLETION = {
    "id": "1",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": json.dumps(ANSWER)},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 900, "completion_tokens": 9},
}


def make_shard_folder(folder: Path) -> list[Path]:
    make_shards(folder, {"test": 6}, 6, VOCABULARY)
    return [folder / "index.json", folder / "vocabulary.json", folder / "test-000000.parquet"]


def read_shard_folder(folder: Path) -> None:
    load_vocabulary(folder)
    index = load_index(folder)
    for reader in (ShardReader(folder, shard) for shard in index.split("test")):
        for sample in range(len(reader)):
            reader.jpeg(sample), reader.labels(sample)


def make_sidecar_note(folder: Path) -> list[Path]:
    make_shards(folder, {"test": 6}, 6, VOCABULARY)
    path, tar = folder / "test-000000.parquet", folder / "test-000000.tar"
    done = {"settings": "s", "bytes": tar.stat().st_size, "sha256": "x", "first": "a", "last": "b"}
    pl.read_parquet(path, glob=False).write_parquet(path, metadata={"c2srt": json.dumps(done)})
    return [path]


def make_text(folder: Path) -> list[Path]:
    save_file({"features": torch.eye(8)}, folder / "text.safetensors")
    vouch(
        folder / "text.json",
        {"made_from": {"vocabulary": VOCABULARY.hash, "clip": "c"}},
        ["text.safetensors"],
    )
    return [folder / "text.json", folder / "text.safetensors"]


def make_relations(folder: Path) -> list[Path]:
    save_relations(
        folder,
        no_neighbours(len(VOCABULARY), 3),
        VOCABULARY,
        {"kind": "none", "neighbours": 3, "vocabulary": VOCABULARY.hash},
        {},
    )
    return [folder / "relations.json", folder / "neighbours.npy"]


def rehashed(folder: Path) -> None:
    """Reads a graph whose digest fits whatever its table has become."""
    vouch(
        folder / "relations.json",
        json.loads((folder / "relations.json").read_text()),
        ["neighbours.npy", "edges.parquet"],
    )
    load_relations(folder, VOCABULARY, 2)


def make_answers(folder: Path) -> list[Path]:
    lines = [
        {"provenance": {"model": "m"}},
        *(
            {
                "mid": mid,
                "name": name,
                "split": "seen",
                "related": [
                    {"mid": VOCABULARY.mids[0], "name": "x", "type": "is-a", "strength": 1.5},
                    {"mid": VOCABULARY.mids[1], "strength": "high"},
                ],
            }
            for mid, name in zip(VOCABULARY.mids, VOCABULARY.names, strict=True)
        ),
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (folder / "a.jsonl").write_bytes(content)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(content))
    return [folder / "a.jsonl", folder / "a.jsonl.gz"]


def small_part():
    generator = np.random.default_rng(0)
    scores, labels = (
        generator.random((9, 8), np.float32),
        generator.integers(-1, 2, (9, 8)).astype(np.int8),
    )
    return scores, labels, np.arange(8) < 6


def make_results(folder: Path) -> list[Path]:
    scores, labels, seen = small_part()
    values, table = evaluate_state(
        measure(scores, labels, seen, (1, 2)),
        Task(seen, (1, 2), ("per_class", "lesa"), 40, 0),
        None,
        None,
    )
    table = table.with_columns(mid=pl.Series(VOCABULARY.mids), name=pl.Series(VOCABULARY.names))
    extra = {
        "made_from": {"key": "k"},
        "given_away": ["a/b"],
        "published": {"zsl": 1.0, "gzsl": 2.0, "over": "all"},
    }
    write_results(folder, values | extra, table)
    (folder / "groups.csv").write_text(
        "".join(["mid,group\n", *(f"{mid},g\n" for mid in VOCABULARY.mids)])
    )
    return [folder / "results.json", folder / "per_category.csv", folder / "groups.csv"]


def read_all_results(folder: Path) -> None:
    results = read_results(folder)
    describe(results), flat(results)
    read_table(folder / "per_category.csv")
    of_groups(folder, read_groups(folder / "groups.csv"))


def make_part(folder: Path) -> list[Path]:
    measure(*small_part(), (1,)).save(folder / "p.npz")
    return [folder / "p.npz"]


def make_arrays(folder: Path) -> list[Path]:
    files = [folder / f"{name}.npy" for name in ("scores", "labels", "seen")]
    for path, array in zip(files, small_part(), strict=True):
        np.save(path, array)
    return files


IDS = [f"{number:016x}" for number in range(9)]


def make_score_tables(folder: Path) -> list[Path]:
    scores = small_part()[0]
    wide = pl.DataFrame({"image": IDS, **dict(zip(VOCABULARY.mids, scores.T, strict=True))})
    wide.write_parquet(folder / "wide.parquet")
    long = wide.unpivot(index="image", variable_name="mid", value_name="score")
    long.write_csv(folder / "long.csv")
    return [folder / "wide.parquet", folder / "long.csv"]


def read_score_tables(folder: Path) -> None:
    for name in ("wide.parquet", "long.csv"):
        read_scores(folder / name, IDS, VOCABULARY, folder.parent / "scores.npy")


def make_teacher(folder: Path) -> list[Path]:
    np.save(folder / "test-000000.npy", np.zeros((2, 5, 4), np.float16))
    write_json(folder / "teacher.json", {"width": 4, "views": {"count": 2}, "clip": "c"})
    return [folder / "test-000000.npy", folder / "teacher.json"]


def read_teacher(folder: Path) -> None:
    cache = TeacherCache.open(folder, {"width": 4, "views": {"count": 2}, "clip": "c"})
    cache.features(["test-000000"] * 2, np.array([0, 4]), 1)


def make_checkpoint(folder: Path) -> list[Path]:
    place = checkpoints.folder_of(folder, 5)
    place.mkdir()
    for name in (checkpoints.WEIGHTS, checkpoints.OPTIMIZER):
        save_file({"head.source": torch.ones(2)}, place / name)
    files = {
        name: sha256_of_file(place / name) for name in (checkpoints.WEIGHTS, checkpoints.OPTIMIZER)
    }
    record = checkpoints.Record(
        5,
        2,
        {"seed": 0, "model": {"layers": 2}},
        {"text": "aa"},
        optimizer={"applied": 5},
        files=files,
    )
    write_json(place / checkpoints.COMPLETE, {"format": checkpoints.FORMAT, **asdict(record)})
    return [
        place / name for name in (checkpoints.COMPLETE, checkpoints.WEIGHTS, checkpoints.OPTIMIZER)
    ]


def read_checkpoint(folder: Path) -> None:
    checkpoints.read_weights(checkpoints.folder_of(folder, 5))
    checkpoints.open_moments(checkpoints.folder_of(folder, 5))("head.source")
    found = checkpoints.newest(folder)
    record = checkpoints.read_record(found)
    checkpoints.check_resumable(found, record, {"seed": 0, "model": {"layers": 2}}, {"text": "aa"})


def make_export(folder: Path) -> list[Path]:
    tiny_export(folder / "model", folder, NAMES, ["a {}."])
    return [folder / "model/config.json", folder / "model/model.safetensors"]


def make_clip(folder: Path) -> list[Path]:
    tiny_clip_config(folder)
    return [folder / "tiny.json"]


def questions_of(vocabulary: Vocabulary = VOCABULARY) -> Questions:
    return Questions(
        vocabulary,
        make_labels(vocabulary),
        list(range(len(vocabulary))),
        None,
        10,
        1,
        0,
        {"vocabulary": vocabulary.hash, "model": "m", "prompt": "p"},
    )


def make_ledger(folder: Path) -> list[Path]:
    questions = questions_of()
    with ledger.Ledger(folder / "ledger.jsonl", questions.identity) as book:
        for number, question in enumerate(questions):
            own = {"id": question.id, "attempt": 1, "time": ledger.now()}
            book.append({"event": "ask", "bound": 0.1, "prompt": "p", **own})
            if number % 3 == 1:
                book.append({"event": "fault", "reason": "r", "billed": True, **own})
            else:
                book.append(
                    {
                        "event": "reply",
                        "final": number % 3 == 0,
                        "verdict": "ok",
                        "text": "t",
                        "endpoint": "e",
                        "model": "m",
                        "finish": "stop",
                        "tokens": [9, 9],
                        "cost": 0.01,
                        "related": [[0, "is-a", 3]],
                        "unusable": [],
                        **own,
                    }
                )
    return [folder / "ledger.jsonl"]


def read_ledger(folder: Path) -> None:
    questions = questions_of()
    with ledger.Ledger(folder / "ledger.jsonl", questions.identity):
        pass
    aggregate.write_relations(folder / "ledger.jsonl", folder / "relations.jsonl", questions)


def make_batch(folder: Path) -> list[Path]:
    rows = [
        {
            "custom_id": question.id,
            "response": {"status_code": 200, "body": COMPLETION},
            "error": None,
        }
        for question in questions_of()
    ]
    (folder / "res.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [folder / "res.jsonl"]


def read_batch(folder: Path) -> None:
    questions, path = questions_of(), folder / "ledger.jsonl"
    path.unlink(missing_ok=True)
    with ledger.Ledger(path, questions.identity) as book:
        batch.load([folder / "res.jsonl"], questions, book, Prices(1, 1, 100))
    aggregate.write_relations(path, folder / "relations.jsonl", questions)


def make_reply(folder: Path) -> list[Path]:
    (folder / "b.json").write_text(json.dumps(COMPLETION))
    return [folder / "b.json"]


def read_reply(folder: Path) -> None:
    """As the client reads one: what is no reply is a fault of the question."""
    endpoint, questions = Endpoint.__new__(Endpoint), questions_of()
    endpoint.model, endpoint._key, endpoint.url = "m", "sk-0123456789", "u"
    question = next(iter(questions))
    try:
        reply = endpoint.reply((folder / "b.json").read_bytes())
    except (Malformed, ApiError) as error:
        if isinstance(error, ApiError) and isinstance(
            fault := endpoint.fault(error, {}), (RequestError, Refused)
        ):
            error = fault
        raise UserError(str(error)) from None
    cost = Prices(1, 1, 100).cost(reply, 0.1)
    assert 0 <= cost < float("inf")
    json.dumps(reply_event(question, questions.candidates(question), reply, questions, cost, 1))


def new_words(folder: Path) -> NewWords:
    text = torch.nn.functional.normalize(
        torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    return NewWords(
        WordsConfig(cache=str(folder)),
        VOCABULARY,
        text,
        3,
        ["a {}"],
        lambda words: (text[: len(words)], torch.zeros(len(words), 3, dtype=torch.long)),
        folder,
    )


def make_words(folder: Path) -> list[Path]:
    words = new_words(folder)
    words.find(["one", "two", "three"])
    return [words.path]


def read_words(folder: Path) -> None:
    text, table = new_words(folder).find(["one", "two"])
    assert torch.allclose(text.norm(dim=1), torch.ones(2), atol=1e-2), "not unit"
    assert table.shape == (2, 3) and -1 <= table.min() <= table.max() < 6


def make_stage(folder: Path) -> list[Path]:
    outcomes = [
        (f"{number:016x}", Outcome("ok", "", jpeg(number), 8, 8, {"format": "JPEG"}))
        for number in range(4)
    ]
    write_stage(
        folder / "st",
        iter(outcomes),
        asdict(PackAbout("s", 1, 1, 0, 1, 0, [(0, 4)])),
        asdict(StageReport(PackReport("p"), "0" * 16, f"{3:016x}")),
    )
    return [folder / "st" / name for name in ("rows.parquet", "stage.json", "images.bin")]


def read_stage(folder: Path) -> None:
    if about := about_stage(folder / "st", PackStage):
        PackReport(
            **{
                name: value
                for name, value in about["report"]["pack"].items()
                if name in PackReport.__dataclass_fields__
            }
        )
    list(in_order([folder / "st"], [f"{number:016x}" for number in range(4)], Outcome("missing")))


def make_settings(folder: Path) -> list[Path]:
    write_json(
        folder / "settings.json",
        {"settings": {"images": "folders", "a": 1}, "inputs": {"train": "x"}},
    )
    return [folder / "settings.json"]


class Fixed:
    """Stands for a configuration, and for a source."""

    kind = "folders"

    def settings(self) -> dict:
        return {"a": 1}


def make_csvs(folder: Path) -> list[Path]:
    write_root(
        folder, [image_row(A), image_row(B)], [(A, "/m/cat", 1), (B, "/m/dog", 0), (A, "/m/dog", 1)]
    )
    base = folder / "2018_04"
    (base / "classes-seen.txt").write_text("/m/cat\n/m/dog\n")
    (base / "classes-unseen.txt").write_text("/g/11fox\n")
    return [
        base / "class-descriptions.csv",
        base / "classes-seen.txt",
        base / "train/images.csv",
        base / "train/train-annotations-human-imagelabels.csv",
    ]


def make_packed_csvs(folder: Path) -> list[Path]:
    packed = []
    for path in make_csvs(folder):
        packed.append(path.with_name(path.name + ".gz"))
        packed[-1].write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return packed


def read_csvs(folder: Path) -> None:
    raw = find_root(folder)
    report = write_inputs(raw, "train", folder / "rows.parquet")
    "\n".join(report.lines())
    build_vocabulary(raw, "files", {})


def make_nus(folder: Path) -> list[Path]:
    (folder / "list.txt").write_bytes(b"actor\\0001_2124494179.jpg\r\nzoo\\0002_2124494180.jpg\r\n")
    (folder / "tags.txt").write_bytes(b"sky\r\nsea\r\nsun\r\n")
    (folder / "bits.dat").write_bytes(b"1\t0\t1\r\n0\t0\t1\r\n")
    return [folder / name for name in ("list.txt", "tags.txt", "bits.dat")]


def read_nus(folder: Path) -> None:
    read_names(folder / "tags.txt")
    images = read_images(folder / "list.txt")
    read_bits(folder / "bits.dat", 3, len(images), folder / "list.txt")


def make_coco(folder: Path) -> list[Path]:
    write_coco(folder, pictures=False)
    return sorted((folder / "annotations").iterdir())


def make_voc(folder: Path) -> list[Path]:
    found = write_voc(folder, pictures=False)
    return sorted(found.glob("ImageSets/Main/*_*.txt"))


def make_vg(folder: Path) -> list[Path]:
    write_vg(folder, pictures=False)
    return [folder / "objects.json", folder / "vg256.json"]


def read_set(layout: str, **keys: str) -> Callable[[Path], None]:
    """A published set of single files, both of its splits."""

    def read(folder: Path) -> None:
        tables(set_reader(folder, layout, **keys), folder)

    return read


def make_pack(folder: Path) -> list[Path]:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for number in range(4):
            entry = tarfile.TarInfo(f"train_0/{number:016x}.jpg")
            entry.size = len(jpeg(number))
            tar.addfile(entry, io.BytesIO(jpeg(number)))
    (folder / "train_0.tar.gz").write_bytes(gzip.compress(content.getvalue()))
    return [folder / "train_0.tar.gz"]


def read_pack(folder: Path) -> None:
    report = PackReport("train_0")
    path = folder / "train_0.tar.gz"
    for part in parts_of(path):
        list(members(path, part, 1 << 20, report))
    if lines := report.lines():
        raise UserError(lines[0])


def make_list(folder: Path) -> list[Path]:
    (folder / "seen.txt").write_text("/m/1\tDog\n/m/2\tCat\nTree\n")
    return [folder / "seen.txt"]


def quietly(read):
    """What a reader prints is not looked at here."""

    def silent(folder: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            read(folder)

    return silent


READERS = {
    reader.name: reader
    for reader in (
        Reader("shards", make_shard_folder, read_shard_folder),
        Reader("finished", make_sidecar_note, lambda folder: finished(folder, "test-000000", "s")),
        Reader("text", make_text, lambda folder: load_text(folder, VOCABULARY, "c")),
        Reader("relations", make_relations, lambda folder: load_relations(folder, VOCABULARY, 2)),
        Reader("relations rehashed", lambda folder: make_relations(folder)[1:], rehashed),
        Reader(
            "answers",
            lambda folder: make_answers(folder)[:1],
            lambda folder: read_answers(folder / "a.jsonl"),
        ),
        Reader(
            "packed answers",
            lambda folder: make_answers(folder)[1:],
            lambda folder: read_answers(folder / "a.jsonl.gz"),
        ),
        Reader("results", make_results, read_all_results),
        Reader("part", make_part, lambda folder: load_state(folder / "p.npz")),
        Reader(
            "arrays",
            make_arrays,
            lambda folder: evaluate_arrays(
                *(folder / f"{name}.npy" for name in ("scores", "labels", "seen")),
                (1,),
                ("per_class",),
            ),
        ),
        Reader("scores", make_score_tables, read_score_tables),
        Reader("teacher", make_teacher, read_teacher),
        Reader("checkpoint", make_checkpoint, quietly(read_checkpoint)),
        Reader("export", make_export, lambda folder: load_export(folder / "model")),
        Reader(
            "clip",
            make_clip,
            lambda folder: load_clip(ClipConfig(str(folder / "tiny.json"), "random")),
        ),
        Reader("ledger", make_ledger, quietly(read_ledger)),
        Reader("batch", make_batch, quietly(read_batch)),
        Reader("reply", make_reply, read_reply),
        Reader("words", make_words, read_words),
        Reader("stage", make_stage, read_stage),
        Reader(
            "settings",
            make_settings,
            lambda folder: check_settings(folder, Fixed(), Fixed(), {"train": "x"}),
        ),
        Reader("csvs", make_csvs, quietly(read_csvs)),
        Reader("packed csvs", make_packed_csvs, quietly(read_csvs)),
        Reader("nus-wide", make_nus, read_nus),
        Reader("coco", make_coco, read_set("coco", classes="48/17")),
        Reader("voc", make_voc, read_set("voc", classes="16/4")),
        Reader("vg-256", make_vg, read_set("vg256")),
        Reader("pack", make_pack, read_pack),
        Reader("list", make_list, lambda folder: read_list(folder / "seen.txt")),
    )
}
