"""`c2srt audit` on really packed shards: silent on sound ones, and each kind of damage is named."""

import csv
import dataclasses
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import simplejpeg

from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.files import sha256_of_file
from c2srt.offsets import path_of
from c2srt.samples import Samples
from c2srt.sharding.annotations import write_inputs
from c2srt.sharding.audit import AuditTask, audit_shard, check_table, plan_audit
from c2srt.sharding.raw_files import find_root
from c2srt.shards import Shard, load_index
from c2srt.vocabulary import load_vocabulary
from tests.raw_images import HEADER

IMAGES = 7
IDS = [f"{(2 * n + 1) * 2**60:016x}" for n in range(IMAGES)]
MIDS = ("/m/cat", "/m/dog", "/m/owl")


def write_csv(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_raw(root: Path) -> None:
    """Seven noise pictures in train, seven in test; the fourth test picture is broken."""
    pixels = np.random.default_rng(0)
    write_csv(root / "2018_04/class-descriptions.csv", [(mid, mid[3:]) for mid in MIDS])
    (root / "2018_04/classes-seen.txt").write_text("/m/cat\n/m/dog\n")
    (root / "2018_04/classes-unseen.txt").write_text("/m/owl\n")
    for split in ("train", "test"):
        rows = [
            (name, split, "", "", "CC BY", "", "Ann", f"Title\n{n}", "", "", "", "")
            for n, name in enumerate(IDS)
        ]
        write_csv(root / "2018_04" / split / "images.csv", [HEADER, *rows])
        labels = [
            (name, "verification", mid, (n + column) % 2)
            for n, name in enumerate(IDS)
            for column, mid in enumerate(MIDS)
        ]
        write_csv(
            root / f"2018_04/{split}/{split}-annotations-human-imagelabels.csv",
            [("ImageID", "Source", "LabelName", "Confidence"), *labels],
        )
        (root / "images" / split).mkdir(parents=True)
        for n, name in enumerate(IDS):
            jpeg = simplejpeg.encode_jpeg(pixels.integers(0, 255, (40 + n, 60, 3), dtype=np.uint8))
            (root / "images" / split / f"{name}.jpg").write_bytes(
                jpeg[:500] if (split, n) == ("test", 3) else jpeg
            )


@pytest.fixture(scope="module")
def packed(shared_ray, tmp_path_factory) -> tuple[Path, list[str]]:
    """(work folder with raw/ and shards/, the arguments that both verbs take); three shards a
    split.
    """
    work = tmp_path_factory.mktemp("audit") / "run [1]"  # no pattern
    write_raw(work / "raw")
    arguments = [f'work="{work}"', "data.vocabulary=files"]
    assert main(["shard", *arguments, "splits=[train,test]", "images_per_shard=3"]) == 0
    for split in ("train", "test"):
        write_inputs(find_root(work / "raw"), split, work / f"{split}.parquet")
    return work, arguments


def test_sound_shards_pass(packed, capsys):
    work, arguments = packed
    assert main(["audit", *arguments]) == 0
    line = (
        "6 shards, 13 packed of 14 images: bytes, hashes, members, pixels, labels and counts all"
        " agree"
    )
    assert line in capsys.readouterr().out
    assert (work / "shards/audit.jsonl").read_text() == ""
    assert not list((work / "shards").glob("*.tmp-*"))


def test_command_names_disagreements_and_fails(packed, tmp_path, capsys):
    """A label flipped in the CSVs after packing, a foreign tar, another vocabulary, and a missing
    tar.
    """
    work, arguments = packed
    shutil.copytree(work, tmp_path / "work")
    raw, shards = tmp_path / "work/raw/2018_04", tmp_path / "work/shards"
    labels = raw / "train/train-annotations-human-imagelabels.csv"
    labels.write_text(
        labels.read_text().replace(
            f"{IDS[4]},verification,/m/owl,0", f"{IDS[4]},verification,/m/owl,1"
        )
    )
    (raw / "classes-seen.txt").write_text("/m/cat\n")
    (shards / "train-000009.tar").write_bytes(b"")
    (shards / "test-000002.tar").unlink()
    assert main(["audit", f'work="{tmp_path}/work"', "data.vocabulary=files"]) == 1
    found = [json.loads(line) for line in (shards / "audit.jsonl").read_text().splitlines()]
    assert [(line["shard"], line["id"]) for line in found] == [
        ("index", ""),
        ("index", ""),
        ("test-000002", ""),
        ("train-000001", IDS[4]),
        ("train-000001", IDS[4]),
    ]
    printed = capsys.readouterr().out
    assert (
        f"train-000001 {IDS[4]}: positive labels differ from the CSVs' (/m/owl only in the CSVs)"
        in printed
    )
    assert (
        "/m/dog only in the shard" in printed
        and "train-000009.tar is in the folder but not in the index" in printed
    )
    assert (
        "test-000002.tar is in the index but not on disk" in printed
        and "5 disagreements in 6 shards" in printed
    )


def test_another_machine_threshold_is_refused(packed, capsys):
    assert main(["audit", *packed[1], "data.machine_threshold=0.5"]) == 2
    assert "was made with data.machine_threshold=None" in capsys.readouterr().err


# ---- one shard at a time, without Ray


Member = tuple[tarfile.TarInfo, bytes]


def rewritten(path: Path, change: Callable[[list[Member]], list[Member]]) -> None:
    """Rewrites a tar with changed members."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, content in change(members):
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def named(
    name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> Member:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member, content


def with_json(change: Callable[[dict], None]) -> Callable[[list[Member]], list[Member]]:
    """Changes the first sample's JSON."""

    def apply(members: list[Member]) -> list[Member]:
        sample = json.loads(members[1][1])
        change(sample)
        return [members[0], (members[1][0], json.dumps(sample).encode()), *members[2:]]

    return apply


def with_jpeg(change: Callable[[bytes], bytes]) -> Callable[[list[Member]], list[Member]]:
    return lambda members: [(members[0][0], change(members[0][1])), *members[1:]]


@pytest.fixture
def damaged(packed, tmp_path) -> tuple[Path, AuditTask]:
    """(folder, task) of a copy of the second train shard: images 3, 4 and 5."""
    work, _ = packed
    shutil.copytree(work / "shards", tmp_path / "shards")
    task = plan_audit(load_index(tmp_path / "shards"), "train", work / "train.parquet")[1]
    assert audit_shard(task) == []
    return tmp_path / "shards", task


FIRST, ZERO = IDS[3], "0" * 16


@pytest.mark.parametrize(
    "change, image_id, what",
    [
        (
            lambda members: members[2:],
            FIRST,
            "packed according to the sidecar but is not in the tar",
        ),
        (lambda members: [*members[2:4], *members[:2], *members[4:]], FIRST, "not sorted"),
        (lambda members: [*members, *members[-2:]], IDS[5], "not sorted, or twice"),
        (lambda members: [members[1], members[0], *members[2:]], FIRST, "does not follow its"),
        (lambda members: [members[0], *members[2:]], FIRST, "is not followed by its"),
        (lambda members: members[:-1], IDS[5], "is not followed by its"),
        (
            lambda members: [*members[:2], members[0], members[1], *members[2:]],
            FIRST,
            "not sorted, or twice",
        ),
        (
            lambda members: [named("../escape.jpg"), *members],
            "",
            "member '../escape.jpg' tries to leave the folder: refused",
        ),
        (
            lambda members: [named("/etc/escape.jpg"), *members],
            "",
            "member '/etc/escape.jpg' tries to leave the folder: refused",
        ),
        (
            lambda members: [named("a\\..\\..\\b.jpg"), *members],
            "",
            "tries to leave the folder: refused",
        ),
        (lambda members: [named("C:\\b.jpg"), *members], "", "tries to leave the folder: refused"),
        (lambda members: [named("sub/b.jpg"), *members], "", "not a base name: refused"),
        (
            lambda members: [named("run.sh"), *members],
            "",
            "neither <id>.jpg nor <id>.json: refused",
        ),
        (
            lambda members: [named(f"{FIRST}.jpg", b"", tarfile.SYMTYPE, "/etc/passwd"), *members],
            "",
            "not a regular file: refused",
        ),
        (
            lambda members: [named(f"{FIRST}.jpg", b"", tarfile.LNKTYPE, "/etc/passwd"), *members],
            "",
            "not a regular file: refused",
        ),
        (
            lambda members: [named("pipe.jpg", b"", tarfile.FIFOTYPE), *members],
            "",
            "not a regular file: refused",
        ),
        (
            lambda members: [named(f"{ZERO}.jpg"), named(f"{ZERO}.json", b"{}"), *members],
            ZERO,
            "none of the shard's images",
        ),
        (
            with_json(lambda sample: sample["positive"].append("/m/new")),
            FIRST,
            "positive labels differ from the CSVs' (/m/new only",
        ),
        (with_json(lambda sample: sample["negative"].clear()), FIRST, "negative labels differ"),
        (with_json(lambda sample: sample.update(positive="/m/cat")), FIRST, "not a list of MIDs"),
        (with_json(lambda sample: sample.update(positive=None)), FIRST, "not a list of MIDs"),
        (with_json(lambda sample: sample.update(width=1)), FIRST, "the sidecar 60 × 43"),
        (with_json(lambda sample: sample.update(id="other")), FIRST, "is about image other"),
        (with_json(lambda sample: sample.pop("height")), FIRST, "is not the JSON of a sample"),
        (
            with_json(lambda sample: sample["attribution"].update(author="Bob")),
            FIRST,
            "author of the attribution differ",
        ),
        (
            with_json(lambda sample: sample.update(attribution=7)),
            FIRST,
            "of the attribution differ",
        ),
        (
            lambda members: [members[0], (members[1][0], b"\xff{"), *members[2:]],
            FIRST,
            "is not the JSON of a sample",
        ),
        (
            lambda members: [members[0], (members[1][0], b"[]"), *members[2:]],
            FIRST,
            "is not the JSON of a sample",
        ),
        (with_jpeg(lambda jpeg: jpeg[: len(jpeg) // 2]), FIRST, "does not decode"),
        (with_jpeg(lambda jpeg: b""), FIRST, "does not decode"),
        (with_jpeg(lambda jpeg: b"\x89PNG" + jpeg), FIRST, "does not decode"),
        (
            with_jpeg(lambda jpeg: simplejpeg.encode_jpeg(np.zeros((8, 9, 3), np.uint8))),
            FIRST,
            "has 9 × 8 pixels",
        ),
    ],
)
def test_damaged_tar(damaged, change, image_id, what):
    folder, task = damaged
    rewritten(folder / f"{task.shard.name}.tar", change)
    findings = audit_shard(task)
    assert any(finding.id == image_id and what in finding.what for finding in findings), findings
    assert any("SHA-256" in finding.what for finding in findings)


@pytest.mark.parametrize("keep", [0, 100, 512, 5000])
def test_cut_tar(damaged, keep):
    folder, task = damaged
    tar = folder / f"{task.shard.name}.tar"
    tar.write_bytes(tar.read_bytes()[:keep])
    findings = audit_shard(task)
    assert {f"{tar.name} has {keep:,} bytes, the index says {task.shard.bytes:,}"} <= {
        finding.what for finding in findings
    }
    assert any("not in the tar" in finding.what for finding in findings)


def test_every_single_flipped_byte_is_seen(damaged):
    folder, task = damaged
    tar = folder / f"{task.shard.name}.tar"
    sound = tar.read_bytes()
    for position in range(0, len(sound), len(sound) // 40):
        tar.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
        assert any("SHA-256" in finding.what for finding in audit_shard(task))


@pytest.mark.parametrize(
    "change, image_id, what",
    [
        (
            lambda table: table.filter(pl.col("id") != FIRST),
            FIRST,
            "is an image of the CSVs but has no row in the sidecar",
        ),
        (lambda table: pl.concat([table, table.head(1)]), FIRST, "several rows in the sidecar"),
        (lambda table: table.with_columns(split=pl.lit("test")), FIRST, "is of split 'test'"),
        (
            lambda table: table.with_columns(id=pl.col("id").replace(FIRST, ZERO)),
            ZERO,
            "none of the shard's images",
        ),
        (
            lambda table: table.with_columns(jpg_offset=pl.col("jpg_offset") + 1),
            FIRST,
            "lies at (offset, bytes) (512, ",
        ),
        (
            lambda table: table.with_columns(json_bytes=pl.col("json_bytes") - 1),
            IDS[5],
            "lies at (offset, bytes)",
        ),
        (
            lambda table: table.with_columns(member=2 - pl.col("member")),
            FIRST,
            "is sample 0 of the tar, the sidecar says 2",
        ),
        (
            lambda table: table.with_columns(status=pl.lit("corrupt")),
            FIRST,
            "is not packed and the sidecar gives no reason",
        ),
        (
            lambda table: table.with_columns(status=pl.lit("corrupt")),
            FIRST,
            "contradict each other",
        ),
        (
            lambda table: table.with_columns(status=pl.lit("corrupt")),
            "",
            "the sidecar gives count 0, the index 3",
        ),
        (lambda table: table.with_columns(height=pl.lit(7, pl.Int32)), FIRST, "the sidecar 60 × 7"),
        (lambda table: table.drop("reason"), "", "lacks the column reason"),
    ],
)
def test_damaged_sidecar(damaged, change, image_id, what):
    folder, task = damaged
    path = folder / f"{task.shard.name}.parquet"
    change(pl.read_parquet(path)).write_parquet(path)
    findings = audit_shard(task)
    assert any(finding.id == image_id and what in finding.what for finding in findings), findings


def test_unreadable_or_missing_files(damaged):
    folder, task = damaged
    path = folder / f"{task.shard.name}.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    assert [finding.what.split(":")[0] for finding in audit_shard(task)] == [
        f"{path.name} cannot be read"
    ]
    path.unlink()
    path.with_suffix(".tar").unlink()
    assert [finding.what for finding in audit_shard(task)] == [
        f"{task.shard.name}.{suffix} is in the index but not on disk"
        for suffix in ("parquet", "tar")
    ]


def test_every_image_belongs_to_one_shard(packed, tmp_path):
    """With a shard gone from the index, its images are missed by the next one."""
    work, _ = packed
    index = load_index(work / "shards")
    shards = index.splits["train"]
    for gone in range(3):
        left = dataclasses.replace(
            index, splits={"train": tuple(shard for n, shard in enumerate(shards) if n != gone)}
        )
        missed = {
            finding.id
            for task in plan_audit(left, "train", work / "train.parquet")
            for finding in audit_shard(task)
        }
        assert missed == set(IDS[3 * gone : 3 * gone + 3])


def test_a_table_of_offsets_that_contradicts_a_sidecar(packed, tmp_path):
    work, _ = packed
    shutil.copytree(work / "shards", tmp_path / "shards")
    index = load_index(tmp_path / "shards")
    table, other = (path_of(index.folder, split) for split in ("train", "test"))
    content = bytearray(table.read_bytes())
    content[-1] ^= 1
    table.write_bytes(content)
    assert [*check_table(index.folder, index.splits["train"])] == [
        "offsets-train.bin does not say of train-000002 what its sidecar says"
    ]
    assert not [*check_table(index.folder, index.splits["test"])]
    os.truncate(other, other.stat().st_size - 1)
    (found,) = check_table(index.folder, index.splits["test"])
    assert "offsets-test.bin is not as long as its shards need" in found


def test_index_of_other_counts(damaged):
    _, task = damaged
    wrong: Shard = dataclasses.replace(task.shard, inputs=4, first="0" * 16)
    assert [finding.what for finding in audit_shard(dataclasses.replace(task, shard=wrong))] == [
        "the sidecar gives inputs 3, the index 4",
        f"the sidecar gives first {FIRST}, the index {'0' * 16}",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "a\nb.jpg",
        "\x1b[2Jx.jpg",
        "caf\udce9.jpg",
        f"{FIRST}.jpg\n",
        " .jpg",
        ".jpg",
        "a" * 300 + ".jpg",
        "x.JPG",
        f"{FIRST}.jpg.jpg",
        "\u202egpj.jpg",
        f"{FIRST}\t.json",
    ],
)
def test_a_member_of_any_name_is_a_finding_on_one_printable_line(damaged, name):
    folder, task = damaged
    tar = folder / f"{task.shard.name}.tar"
    with tarfile.open(tar) as old:
        members = [(member, old.extractfile(member).read()) for member in old]
    with tarfile.open(
        tar, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as new:
        for member, content in [named(name), *members]:
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    findings = audit_shard(with_index_of(task))
    assert any("refused" in finding.what for finding in findings), findings
    for finding in findings:
        assert finding.line().isprintable() and len(finding.what) <= 300 and finding.json().encode()


# ---- the audit and the loader agree


def with_index_of(task: AuditTask) -> AuditTask:
    """With the tar's size and hash as they are now, so that they give nothing away."""
    tar = Path(task.folder, f"{task.shard.name}.tar")
    return dataclasses.replace(
        task,
        shard=dataclasses.replace(task.shard, bytes=tar.stat().st_size, sha256=sha256_of_file(tar)),
    )


def loaded(task: AuditTask) -> list | None:
    """What the loader makes of every sample, or None if it refuses one."""
    vocabulary = load_vocabulary(Path(task.folder))
    samples = Samples(Path(task.folder), (task.shard,), vocabulary, len(vocabulary), 1)
    try:
        read = [samples.read(0, sample) for sample in range(len(samples.reader(0)))]
    except UserError as error:
        assert str(error).isprintable()
        return None
    return [(sample.id, sample.image.tobytes(), sample.labels.tobytes()) for sample in read]


def flip(path: Path, random: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(random.integers(1, 4)):
        content[random.integers(len(content))] ^= 1 << random.integers(8)
    path.write_bytes(content)


def flip_header(path: Path, random: np.random.Generator) -> None:
    """In a tar: of a member, its sum made right again, or not."""
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        start = random.choice([member.offset for member in tar])
    content[start + random.integers(512)] ^= 1 << random.integers(8)
    if random.random() < 0.7:
        block = (
            bytes(content[start : start + 148])
            + b" " * 8
            + bytes(content[start + 156 : start + 512])
        )
        content[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    path.write_bytes(content)


def cut(path: Path, random: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: random.integers(path.stat().st_size)])


def scramble(path: Path, random: np.random.Generator) -> None:
    """A sidecar with one cell, column or row changed."""
    table, row = pl.read_parquet(path), int(random.integers(3))
    name = str(random.choice(table.columns))
    here, column = pl.int_range(pl.len()) == row, pl.col(name)
    if table.schema[name].is_integer():
        value = [0, -1, 1, 7, 511, 2**31 - 1, int(random.integers(2000))][random.integers(7)]
        cell = pl.lit(value, table.schema[name])
    else:
        value = ["", "ok", "corrupt", "a\nb", "\x1b[2J", "x" * 300, IDS[3], IDS[4], "../x"][
            random.integers(9)
        ]
        cell = pl.lit(value)
    changes = [
        lambda: table.with_columns(pl.when(here).then(cell).otherwise(column).alias(name)),
        lambda: table.drop(name),
        lambda: table.with_columns(column.cast(pl.String)),
        lambda: table[[row, 1, 2]],
        lambda: table.reverse(),
        lambda: table.with_columns(pl.when(here).then(None).otherwise(column).alias(name)),
        lambda: table[[0, 1, 2, row]],
        lambda: table.with_columns(pl.lit(1.5).alias(name)),
        lambda: table.clear(),
    ]
    changes[0 if random.random() < 0.5 else random.integers(len(changes))]().write_parquet(path)


@pytest.mark.parametrize(
    "what, damage, times",
    [
        ("tar", flip, 60),
        ("tar", flip_header, 120),
        ("tar", cut, 20),
        ("parquet", flip, 80),
        ("parquet", cut, 20),
        ("parquet", scramble, 200),
    ],
)
def test_what_the_audit_passes_the_loader_reads_and_what_the_loader_refuses_the_audit_finds(
    damaged, what, damage, times
):
    folder, task = damaged
    path, random = folder / f"{task.shard.name}.{what}", np.random.default_rng(0)
    sound, expected, passed, refused_ = path.read_bytes(), loaded(task), 0, 0
    for time in range(times):
        path.write_bytes(sound)
        damage(path, random)
        now = with_index_of(task)
        findings, found = audit_shard(now), loaded(now)
        for finding in findings:
            assert (
                finding.line().isprintable()
                and len(finding.what) <= 300
                and finding.json().encode()
            ), (time, finding)
        assert findings or same(found, expected), (time, found and [sample[0] for sample in found])
        passed, refused_ = passed + (not findings), refused_ + (found is None)
    assert refused_, "no damage that the loader minds: the test shows nothing"


def same(found: list | None, expected: list) -> bool:
    """The same samples and labels; pixels may differ, where the damage leaves a sound JPEG."""
    return found is not None and [(name, labels) for name, _, labels in found] == [
        (name, labels) for name, _, labels in expected
    ]
