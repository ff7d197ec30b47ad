"""Tables of one's own: what may stand in them, what is made of it, and what is refused."""

import contextlib
import io
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.samples import Samples
from c2srt.sharding.config import DataConfig
from c2srt.sharding.csv_layout import OwnTables, find
from c2srt.shards import ID, load_index
from c2srt.vocabulary import load_vocabulary
from tests.own_pictures import write_pictures, write_table

ROWS = [
    ["a b.png", "dog", "red car"],
    ["ü.png", "cat"],
    ["c.png", "dog", "cat"],
    ["d.png", "red car"],
]
"""The labels of four images that need not exist."""
LABELS = {
    "a b.png": {"dog", "red car"},
    "ü.png": {"cat"},
    "c.png": {"dog", "cat"},
    "d.png": {"red car"},
}
BITS = "image,dog,cat,red car\na b.png,1,0,1\nü.png,0,1,\nc.png,1,1,0\nd.png,0,,1\n"


def reader(folder: Path, text: str | bytes, name: str = "t.csv", **keys) -> OwnTables:
    """Of one table that is the training split, unless `keys` say otherwise."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    values: dict[str, Any] = {"layout": "csv", "splits": ["train"], "train": str(path)} | keys
    return find(DataConfig(**values))


def present(found: OwnTables, split: str = "train") -> dict[str, set[str]]:
    """The labels of each image, by its file name."""
    return {Path(path).name: labels.present for path, labels in found.lists.images[split].items()}


def as_csv(mark: str, between: str, quoted: bool = False) -> str:
    rows = [["image", "labels"], *([name, between.join(labels)] for name, *labels in ROWS)]
    return "".join(
        mark.join(f'"{cell}"' if quoted else cell for cell in row) + "\r\n" for row in rows
    )


@pytest.mark.parametrize(
    "text, keys",
    [
        (as_csv(",", "|"), {}),
        ("\ufeff" + as_csv(";", ",", quoted=True), {}),
        (as_csv("\t", ";"), {}),
        (as_csv(":", " / "), {"separator": ":", "label_separator": "/"}),
        ("image,labels\n" + "".join(f"{n},{x}\n" for n, *of in ROWS for x in of), {}),
        (
            "labels;image;more\ndog;a b.png;red  car\ncat;ü.png;\ndog;c.png;cat\nred car;d.png;\n",
            {"labels": ["labels", "more"]},
        ),
        (BITS, {"labels": "*"}),
        (
            BITS.replace("image", "file"),
            {"image": "file", "labels": "dog,cat,red car", "closed": False},
        ),
    ],
    ids=["comma", "BOM-semicolon", "tab", "chosen", "one-a-row", "columns", "bits", "named-bits"],
)
def test_a_table_may_have_any_of_these_forms(tmp_path, text, keys):
    assert present(reader(tmp_path, text, **keys)) == LABELS


def test_a_table_may_be_lines_of_json(tmp_path):
    rows = [{"image": name, "labels": list(labels), "more": 1} for name, *labels in ROWS]
    text = "\n".join(json.dumps(row) for row in rows)
    assert present(reader(tmp_path, text, "t.jsonl")) == LABELS


def test_a_folder_of_each_label_is_a_table(tmp_path):
    for name in (
        "owl/1.jpg",
        "owl/a b/2.PNG",
        "red car/1.jpg",
        "owl/.x.png",
        "no.png",
        "owl/t.txt",
    ):
        (tmp_path / "birds" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "birds" / name).write_bytes(b"")
    found = reader(tmp_path, "", train=str(tmp_path / "birds"))
    labels = {Path(p): each.present for p, each in found.lists.images["train"].items()}
    assert labels == {
        tmp_path / "birds/owl/1.jpg": {"owl"},
        tmp_path / "birds/owl/a b/2.PNG": {"owl"},
        tmp_path / "birds/red car/1.jpg": {"red car"},
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is a folder without folders of pictures"):
        _ = reader(tmp_path, "", train=str(tmp_path / "empty")).lists
    before = found.made_from("train")
    (tmp_path / "birds/owl/a b/2.PNG").rename(tmp_path / "birds/red car/2.png")
    assert found.made_from("train") != before == json.loads(json.dumps(before))


def test_open_labels_are_absent_only_where_a_column_says_so(tmp_path):
    found = reader(tmp_path, BITS, labels="*", closed=False)
    found.write_inputs("train", tmp_path / "out.parquet")
    rows = {row["file"]: row for row in pl.read_parquet(tmp_path / "out.parquet").to_dicts()}
    assert rows["d.png"]["positive"] == ["red car"] and rows["d.png"]["negative"] == ["dog"]
    closed = reader(tmp_path, BITS, labels="*")
    closed.write_inputs("train", tmp_path / "out.parquet")
    rows = {row["file"]: row for row in pl.read_parquet(tmp_path / "out.parquet").to_dicts()}
    assert rows["d.png"]["negative"] == ["cat", "dog"]
    text = "image,labels,no\na.png,dog,cat\nb.png,cat|dog,cat\n"
    found = reader(tmp_path, text, closed=False, absent="no")
    labels = {Path(path).name: each for path, each in found.lists.images["train"].items()}
    assert (labels["a.png"].present, labels["a.png"].absent) == ({"dog"}, {"cat"})
    assert (labels["b.png"].present, labels["b.png"].absent) == ({"dog"}, set())
    assert "1 labels are both present and absent" in found.lists.notes["train"][-1]


@pytest.mark.parametrize(
    "unseen, seen, held",
    [
        (None, ("cat", "dog", "red car"), ()),
        (["red car"], ("cat", "dog"), ("red car",)),
        ("red car", ("cat", "dog"), ("red car",)),
        ("words.txt", ("cat", "dog"), ("red car",)),
    ],
)
def test_labels_are_held_out_by_name(tmp_path, monkeypatch, unseen, seen, held):
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("red car\n", encoding="utf-8")
    found = reader(tmp_path, as_csv(",", "|"), unseen=unseen).found
    assert (found.names[: found.seen_count], found.names[found.seen_count :]) == (seen, held)


def test_a_share_of_the_labels_is_held_out_by_the_seed_alone(tmp_path):
    text = "image,labels\n" + "".join(f"{n}.png,word {n % 40}\n" for n in range(200))
    drawn = [reader(tmp_path, text, unseen=share).found for share in (0.25, "0.25")]
    other = reader(tmp_path, text, unseen=0.25, split_seed=1).found
    assert [len(each) - each.seen_count for each in (*drawn, other)] == [10, 10, 10]
    assert drawn[0].mids == drawn[1].mids != other.mids


def test_training_has_no_label_that_it_is_not_to_see(tmp_path):
    text = as_csv(",", "|")
    (tmp_path / "v.csv").write_text("image,labels\ne.png,bird|dog\n", encoding="utf-8")
    keys = {"val": str(tmp_path / "v.csv"), "splits": ["train", "validation"]}
    found = reader(tmp_path, text, unseen=["cat"], **keys)
    assert found.found.mids == ("dog", "red car", "cat", "bird")
    for split in ("train", "validation"):
        found.write_inputs(split, tmp_path / f"{split}.parquet")
    train, validation = (pl.read_parquet(tmp_path / f"{split}.parquet") for split in keys["splits"])
    mentioned = {*train["positive"].explode(), *train["negative"].explode()} - {None}
    assert mentioned == {"dog", "red car"} and len(train) == 4
    assert validation["positive"].to_list() == [["bird", "dog"]]
    assert validation["negative"].to_list() == [["cat", "red car"]]


def test_ids_have_names_of_their_own(tmp_path):
    (tmp_path / "names.csv").write_text("id,name\n0,dog\n1,cat\n2,owl\n", encoding="utf-8")
    text = "image,labels\na.png,0|1\nb.png,1\nc.png,dog\nd.png,2\n"
    found = reader(tmp_path, text, names=str(tmp_path / "names.csv"), unseen=["owl"])
    assert present(found)["c.png"] == {"0"}
    assert (found.found.mids, found.found.names) == (("0", "1", "2"), ("dog", "cat", "owl"))


def test_what_is_held_out_of_train_does_not_depend_on_where_it_lies(tmp_path):
    text = "image,labels\n" + "".join(f"{n}.png,word {n % 3}\n" for n in range(50))
    splits = {"splits": ["train", "validation", "test"], "share": 0.2}
    found = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        found.append(reader(folder, text, **splits))
    held = [{s: set(present(each, s)) for s in splits["splits"]} for each in found]
    assert held[0] == held[1] and [len(each) for each in held[0].values()] == [30, 10, 10]
    assert len(set.union(*held[0].values())) == 50
    other = reader(tmp_path / "here", text, **splits, split_seed=1)
    assert set(present(other, "test")) != held[0]["test"]
    assert "10 images of" in other.lists.notes["test"][0]


def test_an_image_of_two_splits_is_left_out_of_the_earlier_one(tmp_path):
    """By its path, however it is written, and by its bytes."""
    rows = write_pictures(tmp_path / "p", 6)
    write_table(tmp_path / "t.csv", rows, "p/")
    (tmp_path / "copy.png").write_bytes((tmp_path / "p" / rows[5][0]).read_bytes())
    write_table(tmp_path / "v.csv", [[f"p/../p/{rows[0][0]}", "dog"], ["copy.png", "cat"]])
    keys = {"val": str(tmp_path / "v.csv"), "splits": ["train", "validation"]}
    found = reader(tmp_path, (tmp_path / "t.csv").read_bytes(), **keys)
    assert "1 images are in validation, too" in found.lists.notes["train"][-1]
    report = found.write_inputs("train", tmp_path / "out.parquet")
    assert (report.images, report.copies) == (4, 1) and "1 images are copies" in report.lines()[-1]
    assert found.write_inputs("validation", tmp_path / "out.parquet").images == 2


@pytest.mark.parametrize(
    "text, keys, said",
    [
        ("", {}, "t.csv is empty: its first line names the columns"),
        ("image,labels\n", {}, "t.csv has no image: a header, but no row follows"),
        ("a.png,dog\nb.png,cat\n", {}, "has no header (it begins with a.png,dog): put a line"),
        ("file,labels\na.png,x\n", {}, "no column image (it has file, labels): name yours with da"),
        (
            "image,tag\na.png,x\n",
            {},
            "no column labels (it has image, tag): name yours with data.l",
        ),
        ("image,labels,labels\na.png,x,y\n", {}, "has two columns labels: rename one"),
        ("image,labels\na.png,dog,cat\n", {}, "line 2 has 3 cells, the header 2: put a cell that"),
        ("image,labels\n,dog\n", {}, "line 2 has no path in column image"),
        ("image,labels\nhttps://x/a.png,dog\n", {}, "is an address: download the images"),
        (b"image,labels\n\xfcber.png,dog\n", {}, "is not UTF-8 (line 2: "),
        ('image,labels\na.png,"dog' + "x" * 200_000, {}, "is a double quote in it never closed?"),
        ("image,labels\na.png,\nb.png,\n", {}, "has a label: is it column labels?"),
        ("image,labels\na.png,dog\nb.png,dog\n", {}, "dog is the only label that training sees"),
        (as_csv(",", "|"), {"unseen": ["cat", "dog", "red car"]}, "every label of"),
        (as_csv(",", "|"), {"unseen": ["dgo"]}, "has the label dgo (did you mean dog?)"),
        (as_csv(",", "|"), {"unseen": "no.txt"}, "data.unseen=no.txt does not exist"),
        (as_csv(",", "|"), {"unseen": "1.5"}, "a share of the labels is between 0 and 1"),
        (as_csv(",", "|"), {"splits": ["train", "val"]}, "data.splits: val is none of train, val"),
        (as_csv(",", "|"), {"splits": ["train", "test"], "share": 0.9}, "has 4 images: too few to"),
        (as_csv(",", "|"), {"train": None}, "data.train=… is needed"),
        (as_csv(",", "|"), {"test": "x.csv"}, "is given, but data.splits leaves test out"),
        (as_csv(",", "|"), {"train": "no.csv"}, "no.csv does not exist: correct its path"),
        (as_csv(",", "|"), {"separator": "colon"}, "is none of comma, semicolon, tab, nor a char"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, text, keys, said):
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        reader(tmp_path, text, **keys).write_inputs("train", tmp_path / "out.parquet")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"image": "a.png"}\n', "has no column labels"),
        ("[1]\n", "line 1 is no JSON object"),
        ('\n{"image": \n', "line 2 is not valid JSON"),
        ('{"image": 7, "labels": "x"}\n', "line 1 has no path in column image"),
    ],
)
def test_a_mistake_in_json_is_one_sentence(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        _ = reader(tmp_path, text, "t.jsonl").lists


def test_two_tables_of_the_same_images_leave_nothing_to_train_on(tmp_path):
    path = str(tmp_path / "t.csv")
    with pytest.raises(UserError, match="every image of .* is in .*: nothing is left for train"):
        _ = reader(tmp_path, as_csv(",", "|"), test=path, splits=["train", "test"]).lists


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """(folder, rows of the table, what was said) of twelve images in odd places, one of them
    missing, one broken, one with its umlaut in the form of another system.
    """
    folder = tmp_path_factory.mktemp("own")
    rows = write_pictures(folder / "far away", 12)
    table = folder / "tables" / "own.csv"
    write_table(table, rows, "../far away/")
    with table.open("a", encoding="utf-8") as file:
        file.write(f"{folder}/far away/{rows[2][0]},extra\n../far away/gone.png,star\n")
    (folder / "far away" / rows[3][0]).write_bytes(b"no picture")
    old = folder / "far away" / rows[1][0]
    old.rename(old.with_name(unicodedata.normalize("NFD", old.name)))
    keys = [f"data.train={table}", f"work={folder}/work", "data.share=0.25", "data.unseen=[star]"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["shard", "data=csv", *keys, "resize=32", "workers=1"]) == 0
        assert main(["audit", "data=csv", *keys, "workers=1"]) == 0
    return folder, rows, printed.getvalue()


def test_images_of_any_name_are_packed_with_their_labels(packed):
    folder, rows, _ = packed
    shards = folder / "work/shards"
    index, vocabulary = load_index(shards), load_vocabulary(shards)
    files = pl.concat(pl.read_parquet(path) for path in (shards / "inputs").glob("*.parquet"))
    name_of = {row["id"]: Path(row["file"]).name for row in files.to_dicts()}
    assert len(name_of) == 13 and all(re.fullmatch(ID, each) for each in name_of)
    labels = {name: set(words) for name, *words in rows}
    labels[rows[2][0]].add("extra")
    found = set()
    for split in index.splits:
        samples = Samples(shards, index.split(split), vocabulary, len(vocabulary), 2)
        for place in range(index.split(split)[0].count):
            sample = samples.read(0, place)
            name = name_of[sample.id]
            has = {vocabulary.names[column] for column in (sample.labels == 1).nonzero()[0]}
            assert has == labels[name] - ({"star"} if split == "train" else set())
            found.add(name)
    assert found == {name for name, *_ in rows} - {rows[3][0]}


def test_what_fails_is_a_row_with_a_reason(packed):
    folder, rows, said = packed
    sidecars = pl.concat(pl.read_parquet(p) for p in (folder / "work/shards").glob("*.parquet"))
    failed = sidecars.filter(pl.col("status") != "ok").sort("status")
    assert failed["status"].to_list() == ["missing", "not_image"] and len(sidecars) == 13
    assert failed["reason"][0] == "there is no file gone.png"
    assert "14 rows of own.csv are of 13 images" in said
    assert "vocabulary: 26 seen + 6 unseen labels: star, cross, egg" in said
    assert "labels and counts all agree" in said
