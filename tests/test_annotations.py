"""CSVs → one row per image, vocabulary, acceptance counts: against a literal twin, with every
oddity of the real files.
"""

import csv
import gzip
import io
import json
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from c2srt.errors import UserError
from c2srt.vocabulary import Vocabulary, open_images_v4
from sharding import csvs
from sharding.annotations import write_inputs
from sharding.categories import build_vocabulary
from sharding.config import DataConfig
from sharding.counts import acceptance
from sharding.openimages import OpenImages
from sharding.raw_files import find_root
from tests.raw_images import HEADER

SHARED = Path(__file__).parents[2] / "shared" / "data"
A, B, C, D = "00000000000000aa", "7fffffffffffffff", "8000000000000000", "ffffffffffffffff"
NAMES = {"/m/cat": "Cat", "/m/dog": "Dog, or hound", "/g/11fox": "Fox"}
IDS, MIDS = st.sampled_from([A, B, C, D]), st.sampled_from(list(NAMES))


def image_row(
    image_id: str,
    split: str = "train",
    title: str = "A title",
    size: object = 10,
    rotation: str = "0.0",
) -> list:
    return [
        image_id,
        split,
        f"http://x/{image_id}",
        "http://l",
        "CC BY",
        "http://p",
        "Ann, the author",
        title,
        size,
        "bWQ1",
        "http://t",
        rotation,
    ]


def text_of(rows: list[list], newline: str = "\n") -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator=newline).writerows(rows)
    return text.getvalue()


def write_root(
    root: Path, images: list[list], labels: list[tuple], split: str = "train", rotation: bool = True
) -> Path:
    """A raw folder of one split; labels are (id, MID, confidence)."""
    folder = root / "2018_04" / split
    folder.mkdir(parents=True, exist_ok=True)
    (root / "2018_04" / "class-descriptions.csv").write_text(
        text_of([[mid, name] for mid, name in NAMES.items()])
    )
    width = 12 if rotation else 11
    (folder / "images.csv").write_text(text_of([HEADER[:width], *(row[:width] for row in images)]))
    rows = [
        ["ImageID", "Source", "LabelName", "Confidence"],
        *([i, "verification", mid, value] for i, mid, value in labels),
    ]
    (folder / f"{split}-annotations-human-imagelabels.csv").write_text(text_of(rows))
    return root


def rows_of(root: Path, out: Path, threshold: float | None = None, split: str = "train"):
    report = write_inputs(find_root(root), split, out / "rows.parquet", threshold)
    return report, pl.read_parquet(out / "rows.parquet").rows(named=True)


def test_every_oddity_is_kept_counted_and_said(tmp_path):
    images = [
        image_row(D, title='He said "hi",\n\nand, then\nleft', rotation="90.0"),
        image_row(A, rotation=""),
        image_row(C),
        image_row(A, title="the second row of A"),
        image_row("1234"),
        image_row("FFFFFFFFFFFFFFFF", title=""),
    ]
    labels = [
        (A, "/m/dog", 1),
        (D, "/m/cat", 0),
        (B, "/m/cat", 1),
        (A, "/m/cat", 0),
        (A, "/m/dog", 1),
        (D, "/g/11fox", 1),
        (D, "/g/11fox", 0),
        (D, "/g/11fox", 0),
        (A, "/m/nameless", 1),
        ("xyz", "/m/cat", 1),
    ]
    report, rows = rows_of(write_root(tmp_path, images, labels), tmp_path)
    assert [row["id"] for row in rows] == [A, B, C, D]
    a, b, c, d = rows
    assert (a["positive"], a["negative"], a["rotation"], a["title"]) == (
        ["/m/dog", "/m/nameless"],
        ["/m/cat"],
        None,
        "A title",
    )
    assert (b["positive"], b["listed"], b["url"], b["original_size"]) == (
        ["/m/cat"],
        False,
        "",
        None,
    )
    assert (c["positive"], c["negative"], c["listed"]) == ([], [], True)
    assert (d["positive"], d["negative"], d["rotation"], d["author"]) == (
        [],
        ["/m/cat"],
        90,
        "Ann, the author",
    )
    assert d["title"] == 'He said "hi",\n\nand, then\nleft' and d["original_md5"] == "bWQ1"
    expected = {
        "images": 4,
        "listed": 3,
        "labelled": 3,
        "label_rows": 10,
        "positives": 3,
        "negatives": 2,
        "duplicate_image_rows": 1,
        "duplicate_label_rows": 2,
        "contradictory": 1,
        "unlisted": 1,
        "unlabelled": 1,
        "unknown_mids": 1,
        "malformed_ids": 3,
    }
    assert {name: getattr(report, name) for name in expected} == expected
    assert pl.read_parquet(tmp_path / "rows-contradictory.parquet").rows() == [(D, "/g/11fox")]
    lines = report.lines()
    assert len(lines) == 8 and all(line.startswith("train: ") for line in lines)
    assert "/m/nameless" in lines[6] and "'1234'" in lines[7] and "'xyz'" in lines[7]


def test_clean_input_gives_one_line_and_no_side_file(tmp_path):
    root = write_root(tmp_path, [image_row(A)], [(A, "/m/cat", 1)], rotation=False)
    (tmp_path / "rows-contradictory.parquet").write_bytes(b"of an earlier run")
    report, rows = rows_of(root, tmp_path)
    assert len(report.lines()) == 1 and rows[0]["rotation"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2018_04", "rows.parquet"]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(IDS, MIDS, st.sampled_from([0, 1])), max_size=25),
    st.lists(st.tuples(IDS, MIDS, st.sampled_from([0.4, 0.5, 0.9])), max_size=10),
    st.lists(IDS, max_size=6),
)
def test_equals_the_literal_twin(tmp_path, human, machine, listed):
    root = write_root(tmp_path, [image_row(image_id) for image_id in listed], human)
    text = text_of(
        [
            ["ImageID", "Source", "LabelName", "Confidence"],
            *([i, "machine", mid, value] for i, mid, value in machine),
        ]
    )
    (root / "2018_04/train/train-annotations-machine-imagelabels.csv").write_text(text)
    votes = defaultdict(set)
    for image_id, mid, value in human:
        votes[image_id, mid].add(value)
    labels = {pair: value for pair, (value, *more) in votes.items() if not more}
    labels |= {(i, mid): 1 for i, mid, value in machine if value >= 0.5 and (i, mid) not in votes}
    report, rows = rows_of(root, tmp_path, 0.5)
    ids = sorted(set(listed) | {image_id for image_id, _ in labels})
    assert [row["id"] for row in rows] == ids
    for row in rows:
        for name, value in (("positive", 1), ("negative", 0)):
            assert row[name] == sorted(
                mid for (i, mid), v in labels.items() if (i, v) == (row["id"], value)
            )
    assert report.contradictory == sum(len(values) == 2 for values in votes.values())
    assert report.positives + report.negatives == len(labels)


def test_order_of_rows_blocks_and_gzip_do_not_change_the_bytes(tmp_path, monkeypatch):
    """Titles with quoted newlines fall across the ends of 4 KiB blocks."""
    draw = random.Random(0)
    ids = [f"{draw.getrandbits(64):016x}" for _ in range(800)]
    images = [
        image_row(image_id, title=draw.choice(["plain", 'two\nlines, "quoted"', "\n\n", "ünïcode"]))
        for image_id in ids
    ]
    labels = [(draw.choice(ids), mid, draw.randint(0, 1)) for mid in NAMES for _ in range(1000)]
    first = write_root(tmp_path / "first", images, labels)
    rows_of(first, tmp_path / "first")
    draw.shuffle(images)
    draw.shuffle(labels)
    second = write_root(tmp_path / "second", images, labels)
    for path in (second / "2018_04/train").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    monkeypatch.setattr(csvs, "BLOCK_BYTES", 4096)
    rows_of(second, tmp_path / "second")
    for name in ("rows.parquet", "rows-contradictory.parquet"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    rows = pl.read_parquet(tmp_path / "second/rows.parquet")
    assert dict(rows.select("id", "title").rows()) == {row[0]: row[7] for row in images}


def test_byte_order_mark_and_crlf(tmp_path):
    root = write_root(tmp_path, [image_row(A, title="one\r\ntwo")], [(A, "/m/dog", 1)])
    for path in (root / "2018_04").rglob("*.csv"):
        path.write_bytes(
            b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        )
    report, rows = rows_of(root, tmp_path)
    assert (
        rows[0]["positive"] == ["/m/dog"]
        and rows[0]["title"] == "one\r\ntwo"
        and not report.unknown_mids
    )


def test_subset_is_taken_from_the_list_of_all_images(tmp_path):
    root = write_root(tmp_path, [image_row(A)], [(A, "/m/cat", 1)])
    rows = [HEADER, image_row(A), image_row(C, "test"), image_row(B)]
    (root / "2018_04/image_ids_and_rotation.csv").write_text(text_of(rows))
    assert [row["id"] for row in rows_of(root, tmp_path)[1]] == [A, B]


@pytest.mark.parametrize("below", [".", "2018_04", "open_images/2018_04"])
def test_root_is_found(tmp_path, below):
    write_root(tmp_path / "made", [image_row(A)], [])
    (tmp_path / "raw" / below).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "made/2018_04").rename(tmp_path / "raw" / below)
    raw = find_root(tmp_path / "raw")
    assert list(raw.splits) == ["train"]
    with pytest.raises(UserError, match="has no split 'test'"):
        raw.split("test")


LABELS, IMAGES = "train/train-annotations-human-imagelabels.csv", "train/images.csv"


@pytest.mark.parametrize(
    "name, damage, message",
    [
        (LABELS, lambda text: text[: text.rindex(",verif") + 4], "damaged or cut off"),
        (LABELS, lambda text: text[: text.rindex(",") + 1], "lacks its LabelName or Confidence"),
        (LABELS, lambda text: text.replace("/m/dog", ""), "lacks its LabelName or Confidence"),
        (LABELS, lambda text: text.replace("/m/dog,1", "/m/dog,yes"), "damaged or cut off"),
        (LABELS, lambda text: text.replace("/m/dog,1", "/m/dog,0.7"), "confidence 0.7 for /m/dog"),
        (
            LABELS,
            lambda text: text.replace("LabelName", "Label"),
            "has no column LabelName in its header",
        ),
        (LABELS, lambda text: "", "it is empty"),
        (LABELS, None, "train-annotations-human-imagelabels.csv does not exist"),
        (IMAGES, lambda text: text[: text.rindex("bWQ1") + 2], "damaged or cut off"),
        (IMAGES, lambda text: text[: text.rindex('"A "') + 4], "damaged or cut off"),
        (IMAGES, lambda text: text.replace("0.0", "9"), "rotation 9"),
        (IMAGES, lambda text: text.replace(",train,", ",test,"), "not the list of train"),
        (IMAGES, lambda text: text.replace("ImageID", "Image"), "has no column ImageID"),
        (IMAGES, None, "no image CSV of split 'train'"),
        ("class-descriptions.csv", lambda text: text + "/m/0zz", "line 4 is not a MID and a name"),
        ("class-descriptions.csv", lambda text: "", "it is empty"),
        ("class-descriptions.csv", None, "has no class-descriptions.csv"),
    ],
)
def test_damaged_files_are_named_in_a_sentence(tmp_path, name, damage, message):
    root = write_root(
        tmp_path,
        [image_row(A), image_row(B, title='"A " title')],
        [(A, "/m/cat", 0), (B, "/m/dog", 1)],
    )
    path = root / "2018_04" / name
    path.write_text(damage(path.read_text())) if damage else path.unlink()
    with pytest.raises(UserError, match=message) as caught:
        rows_of(root, tmp_path)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["2018_04"]


def test_cut_gzip_is_named(tmp_path):
    root = write_root(
        tmp_path, [image_row(A)], [(f"{n:016x}", "/m/cat", n % 2) for n in range(3000)]
    )
    path = root / "2018_04" / LABELS
    whole = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name(path.name + ".gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or cut off"):
        rows_of(root, tmp_path)


def test_gzipped_blank_lines_without_an_end_are_refused_at_once(tmp_path):
    """2 GB in 2 MB: what is unpacked before it is refused takes less than a second."""
    path = tmp_path / "images.csv.gz"
    blank = gzip.compress(b"\n" * (64 << 20))
    path.write_bytes(gzip.compress(",".join(HEADER).encode() + b"\n") + blank * 32)
    with pytest.raises(UserError, match="it unpacks to over 200 times its size"):
        list(csvs.read_blocks(path, {"ImageID": pa.string()}))


@pytest.mark.parametrize(
    "name",
    [
        "class-descriptions.csv",
        "classes-seen.txt",
        "train/images.csv",
        "train/train-annotations-human-imagelabels.csv",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path, name, packed):
    root = write_root(
        tmp_path, [image_row(A, title="x" * 40), image_row(B)], [(A, "/m/dog", 1), (B, "/m/cat", 1)]
    )
    (root / "2018_04/classes-seen.txt").write_text("/m/cat\n/m/dog\n", encoding="utf-8")
    (root / "2018_04/classes-unseen.txt").write_text("/g/11fox\n", encoding="utf-8")
    path = root / "2018_04" / name
    content = path.read_bytes().splitlines(keepends=True)
    content[1] = (
        content[1]
        .replace(b"/m/dog", b"/m/d\xf6g")
        .replace(b"Dog", b"D\xf6g")
        .replace(b"xxx", b"\xe9xx")
    )
    path.unlink()
    path = path.with_name(f"{path.name}.gz") if packed else path
    path.write_bytes(gzip.compress(b"".join(content)) if packed else b"".join(content))
    with pytest.raises(
        UserError, match=rf"{path.name} is not UTF-8 \(line 2: .*\): save it as UTF-8"
    ):
        write_inputs(find_root(root), "train", tmp_path / "rows.parquet")
        build_vocabulary(find_root(root), "files", {})


def test_empty_lines_of_lists_are_ignored(tmp_path):
    root = write_root(tmp_path, [image_row(A)], [(A, "/m/dog", 1)])
    for name, text in (
        ("class-descriptions.csv", "/m/cat,Cat\n\n/m/dog,Dog\n \n\n"),
        ("classes-seen.txt", "/m/cat\n\n"),
        ("classes-unseen.txt", "\n/m/dog\n \n"),
    ):
        (root / "2018_04" / name).write_text(text, encoding="utf-8")
    assert build_vocabulary(find_root(root), "files", {}).names == ("Cat", "Dog")


@pytest.mark.parametrize(
    "ids, sentence",
    [
        (
            ["cat1.jpg", "cat2.jpg"],
            (
                r"of the 4 rows of train none has a usable ImageID \(they look like cat1.jpg\): an"
                r" ImageID is 16 hex"
            ),
        ),
        ([""], r"of the 2 rows of train none has a usable ImageID \(they look like nothing\)"),
        (
            [],
            (
                r"the split train has no image: neither .*images.csv nor .*imagelabels.csv has a"
                r" row of it"
            ),
        ),
    ],
)
def test_a_split_without_a_usable_row_is_one_sentence(tmp_path, ids, sentence):
    root = write_root(
        tmp_path, [image_row(one) for one in ids], [(one, "/m/dog", 1) for one in ids]
    )
    with pytest.raises(UserError, match=sentence):
        OpenImages(find_root(root), DataConfig(vocabulary="files")).write_inputs(
            "train", tmp_path / "rows.parquet"
        )


def test_machine_threshold_needs_its_file_and_a_sane_value(tmp_path):
    root = write_root(tmp_path, [image_row(A)], [])
    for threshold, message in (
        (0.5, "machine-imagelabels.csv does not exist"),
        (0.0, "outside"),
        (1.5, "outside"),
    ):
        with pytest.raises(UserError, match=message):
            rows_of(root, tmp_path, threshold)


def test_memory_is_bounded(tmp_path):
    """Two million label rows (90 MB of text) take less than twice their text; Python objects of
    them would take over 500 MB.
    """
    ids = (
        pl.int_range(0, 250_000, eager=True).hash(1).map_elements(lambda n: f"{n:016x}", pl.String)
    )
    labels = pl.DataFrame(
        {
            "ImageID": pl.concat([ids] * 8),
            "Source": "verification",
            "LabelName": "/m/cat",
            "Confidence": 1,
        }
    )
    write_root(tmp_path, [image_row(A)], [])
    labels.head(2000).write_csv(tmp_path / "small.csv")
    labels.write_csv(tmp_path / "large.csv")
    peaks = [peak_kib(tmp_path, tmp_path / name) for name in ("small.csv", "large.csv")]
    assert peaks[1] - peaks[0] < 150_000, peaks


def peak_kib(root: Path, labels: Path) -> int:
    """Peak resident memory of a fresh process that reads `labels`."""
    labels.replace(root / "2018_04" / LABELS)
    code = (
        "import resource, sys; from pathlib import Path; from sharding.annotations import"
        " write_inputs; from sharding.raw_files import find_root; "
        "write_inputs(find_root(Path(sys.argv[1])), 'train', Path(sys.argv[1], 'rows.parquet'));"
        " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    return int(
        subprocess.run(
            [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True
        ).stdout
    )


# ---- vocabulary


def derivable(tmp_path: Path) -> dict[str, Path]:
    """cat in 3 training images (absent from one), dog in 2; only in test: wolf twice, fox and owl
    once, a nameless one twice.
    """
    labels_of = {
        "train": [
            (A, "/m/cat", 1),
            (B, "/m/cat", 1),
            (C, "/m/cat", 1),
            (D, "/m/cat", 0),
            (A, "/m/dog", 1),
            (B, "/m/dog", 1),
        ],
        "test": [
            (A, "/g/11fox", 1),
            (B, "/m/owl", 1),
            (A, "/m/dog", 1),
            (A, "/m/nameless", 1),
            (B, "/m/nameless", 1),
            (C, "/m/wolf", 1),
            (D, "/m/wolf", 1),
        ],
    }
    for split, labels in labels_of.items():
        write_root(
            tmp_path, [image_row(image_id, split) for image_id in (A, B, C, D)], labels, split
        )
    with (tmp_path / "2018_04/class-descriptions.csv").open("a") as file:
        file.write("/m/owl,Owl\n/m/wolf,Wolf\n")
    inputs = {split: tmp_path / f"{split}.parquet" for split in labels_of}
    for split, path in inputs.items():
        write_inputs(find_root(tmp_path), split, path)
    return inputs


def test_derived_vocabulary(tmp_path, capsys):
    inputs, raw = derivable(tmp_path), find_root(tmp_path)
    vocabulary = build_vocabulary(raw, "derive", inputs, seen_min_images=2)
    assert (
        vocabulary.mids == ("/m/cat", "/m/wolf", "/g/11fox", "/m/owl")
        and vocabulary.seen_count == 1
    )
    assert vocabulary.names == ("Cat", "Wolf", "Fox", "Owl")
    smaller = build_vocabulary(raw, "derive", inputs, seen_min_images=1, unseen_count=2)
    assert smaller.mids == ("/m/cat", "/m/dog", "/m/wolf", "/g/11fox")
    assert "2 seen + 2 unseen" in capsys.readouterr().out
    with pytest.raises(UserError, match="more than 3 training images"):
        build_vocabulary(raw, "derive", inputs, seen_min_images=3)
    with pytest.raises(UserError, match="without the split 'test'"):
        build_vocabulary(raw, "derive", {"train": inputs["train"]})
    with pytest.raises(UserError, match="choose one of auto, derive, files"):
        build_vocabulary(raw, "guess", inputs)


def test_listed_vocabulary(tmp_path, capsys):
    inputs, folder = derivable(tmp_path), tmp_path / "2018_04"
    with pytest.raises(UserError, match="lacks classes-seen.txt"):
        build_vocabulary(find_root(tmp_path), "files", inputs)
    (folder / "classes-seen.txt").write_bytes(b"\xef\xbb\xbf/m/dog\r\n/m/cat\r\n")
    (folder / "classes-unseen.txt").write_text("/m/owl")
    for mode in ("files", "auto"):
        vocabulary = build_vocabulary(find_root(tmp_path), mode, {})
        assert (vocabulary.mids, vocabulary.seen_count) == (("/m/dog", "/m/cat", "/m/owl"), 2)
    (folder / "classes-unseen.txt").write_text("/m/owl\n/m/nameless\n")
    with pytest.raises(UserError, match="/m/nameless of the class lists is not in"):
        build_vocabulary(find_root(tmp_path), "files", inputs)
    (folder / "classes-unseen.txt").write_text("owl")
    with pytest.raises(UserError, match="'owl' is not a MID"):
        build_vocabulary(find_root(tmp_path), "files", inputs)


def test_auto_takes_the_shipped_lists_for_open_images_only(tmp_path, capsys):
    inputs, folder = derivable(tmp_path), tmp_path / "2018_04"
    shipped = open_images_v4()
    (folder / "class-descriptions.csv").write_text(
        text_of([*zip(shipped.mids, shipped.names, strict=True)])
    )
    (folder / "classes-trainable.txt").write_text(
        "".join(f"{mid}\n" for mid in sorted(shipped.mids[: shipped.seen_count]))
    )
    assert build_vocabulary(find_root(tmp_path), "auto", inputs) == shipped
    assert (shipped.seen_count, shipped.unseen_count) == (7186, 400)
    capsys.readouterr()
    with (folder / "class-descriptions.csv").open("a") as file:
        file.write("/m/cat,Cat\n")
    (folder / "classes-trainable.txt").write_text("/m/cat\n")
    assert build_vocabulary(find_root(tmp_path), "auto", inputs, seen_min_images=2).mids[:1] == (
        "/m/cat",
    )
    (line,) = capsys.readouterr().out.splitlines()
    assert "not those of Open Images V4" in line


# ---- acceptance counts


def test_acceptance_by_hand(tmp_path):
    """ZSL: A has 1 unseen positive, B has 2 → 1.5. GZSL: A 2, B 2, C 1 → 5/3. D has a negative
    only.
    """
    labels = [
        (A, "/m/cat", 1),
        (A, "/g/11fox", 1),
        (B, "/g/11fox", 1),
        (B, "/m/owl", 1),
        (C, "/m/cat", 1),
        (D, "/m/dog", 0),
        (A, "/m/outside", 1),
    ]
    root = write_root(
        tmp_path, [image_row(image_id, "test") for image_id in (A, B, C)], labels, "test"
    )
    write_inputs(find_root(root), "test", tmp_path / "test.parquet")
    vocabulary = Vocabulary(
        ("/m/cat", "/m/dog", "/g/11fox", "/m/owl", "/m/wolf"), ("c", "d", "f", "o", "w"), 2
    )
    result = acceptance(vocabulary, {"test": tmp_path / "test.parquet"}, {"test": 2})
    values = [count.value for count in result.counts]
    assert values == pytest.approx([3, 7, 6, 2, 1.5, 5 / 3, 2, 1, 2, 2])
    assert not any("publish" in line for line in result.lines())
    result.save(tmp_path / "acceptance.json")
    saved = json.loads((tmp_path / "acceptance.json").read_text())
    assert (
        saved["vocabulary"] == vocabulary.hash
        and [count["value"] for count in saved["counts"]] == values
    )


def test_acceptance_says_what_differs_from_the_published(tmp_path):
    """100 images with an unseen positive, 28 of them with two: 1.28 as published; everything else
    differs.
    """
    vocabulary = open_images_v4()
    ids, first, second = [f"{n:016x}" for n in range(100)], *vocabulary.mids[7186:7188]
    labels = [(image_id, first, 1) for image_id in ids] + [
        (image_id, second, 1) for image_id in ids[:28]
    ]
    root = write_root(tmp_path, [image_row(image_id, "test") for image_id in ids], labels, "test")
    write_inputs(find_root(root), "test", tmp_path / "test.parquet")
    lines = acceptance(vocabulary, {"test": tmp_path / "test.parquet"}).lines()
    assert "test: ZSL positives per image that has one: 1.28 (published: 1.28)" in lines
    assert (
        "test: GZSL positives per image that has one: 1.28 DIFFERS from the published 8.68" in lines
    )
    assert lines[0] == "test: images listed: 100 DIFFERS from the published 125,436"
    assert lines[-1].startswith("6 of these counts differ")


def test_training_images_with_a_seen_label(tmp_path):
    """A has a positive, B a negative one of a seen category; C only an unseen one, D none."""
    labels = [(A, "/m/cat", 1), (B, "/m/cat", 0), (C, "/m/dog", 1)]
    root = write_root(tmp_path, [image_row(image_id) for image_id in (A, B, C, D)], labels)
    write_inputs(find_root(root), "train", tmp_path / "train.parquet")
    result = acceptance(
        Vocabulary(("/m/cat", "/m/dog"), ("c", "d"), 1), {"train": tmp_path / "train.parquet"}
    )
    assert (
        result.counts[-1].what == "train: images with a label of a seen category"
        and result.counts[-1].value == 2
    )


def test_unusable_output_folder_is_a_sentence(tmp_path):
    root = write_root(tmp_path, [image_row(A)], [])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        write_inputs(find_root(root), "train", tmp_path / "file" / "rows.parquet")


def test_real_photographs(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("needs shared/data (389 photographs with Open Images' labels)")
    raw = find_root(SHARED / "photos")
    inputs = {split: tmp_path / f"{split}.parquet" for split in raw.splits}
    reports = {split: write_inputs(raw, split, path) for split, path in inputs.items()}
    assert {split: (report.images, report.label_rows) for split, report in reports.items()} == {
        "train": (266, 1413),
        "validation": (30, 161),
        "test": (93, 540),
    }
    with (SHARED / "photos/2018_04/test/test-annotations-human-imagelabels.csv").open() as file:
        positive = {
            (row["ImageID"], row["LabelName"])
            for row in csv.DictReader(file)
            if row["Confidence"] == "1"
        }
    rows = pl.read_parquet(inputs["test"]).select("id", "positive").explode("positive").drop_nulls()
    assert set(rows.rows()) == positive
    assert build_vocabulary(raw, "auto", inputs) == open_images_v4()
