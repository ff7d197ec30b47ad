"""CSVs → one row per image: against a literal twin, with every oddity of the real files."""

import gzip
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
from c2srt.sharding import csvs
from c2srt.sharding.annotations import write_inputs
from c2srt.sharding.categories import build_vocabulary
from c2srt.sharding.config import DataConfig
from c2srt.sharding.openimages import OpenImages
from c2srt.sharding.raw_files import find_root
from tests.csv_lists import NAMES, A, B, C, D, image_row, text_of, write_root
from tests.raw_images import HEADER

IDS, MIDS = st.sampled_from([A, B, C, D]), st.sampled_from(list(NAMES))


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
        "import resource, sys; from pathlib import Path; from c2srt.sharding.annotations import"
        " write_inputs; from c2srt.sharding.raw_files import find_root; "
        "write_inputs(find_root(Path(sys.argv[1])), 'train', Path(sys.argv[1], 'rows.parquet'));"
        " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    return int(
        subprocess.run(
            [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True
        ).stdout
    )
