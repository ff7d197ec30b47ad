"""`c2srt predict` over libraries of photos: lists, archives, tables, resumption, workers."""

import contextlib
import csv
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import simplejpeg

from c2srt.cluster.cli import main
from c2srt.errors import UserError
from c2srt.predict import task
from c2srt.predict.config import Config, names_in
from c2srt.predict.job import parts_of
from c2srt.predict.labels import read_labels, twice
from c2srt.predict.sources import Source, find_sources
from tests.tiny import MODEL_CONFIG, tiny_export

NAMES = ("Dog", "Cat", "Tree", "Car", "Cloud", "Boat", "Zebra", "Dog")
ODD = [
    "photo (1).jpg",
    "[1].jpg",
    "[1,2].jpg",
    "{a}.jpg",
    "'q'.jpg",
    '"d".jpg',
    "a,b.jpg",
    "a=b.jpg",
    "${oc.env:HOME}.jpg",
    "back\\slash.jpg",
    "it's.jpg",
    "*.jpg",
    "1e5",
]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    tiny_export(folder / "run/model", folder, NAMES, ["a {}."])
    return folder / "run"


def jpeg(number: int, side: int = 40) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + 8, 3), np.uint8)
    return simplejpeg.encode_jpeg(pixels)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Sixty photos, the 7th broken: few enough to be ranked in the command's own process."""
    folder = tmp_path_factory.mktemp("album")
    for number in range(60):
        data = jpeg(number)
        (folder / f"{number:03}.jpg").write_bytes(data[:99] if number == 7 else data)
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("c2srt.predict.job.PART", 20)


def predict(export, *arguments) -> int:
    return main(["predict", f"checkpoint={export}", *map(str, arguments)])


def lines(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def named(folder: Path, names: list[str]) -> list[str]:
    for number, name in enumerate(names):
        (folder / name).write_bytes(jpeg(number))
    return names


# --- names


@pytest.mark.parametrize("form", ["images={}", "--images {}", "--images={}"])
@pytest.mark.parametrize("name", ODD)
def test_a_name_is_taken_as_the_shell_leaves_it(export, tmp_path, monkeypatch, capsys, name, form):
    monkeypatch.chdir(tmp_path)
    named(tmp_path, [name])
    flag, blank, _ = form.partition(" ")
    arguments = [flag, name] if blank else [form.format(name)]
    assert predict(export, *arguments, "labels=dog") == 0
    assert capsys.readouterr().out.splitlines()[0].encode().decode("unicode_escape") == (
        name.encode().decode("unicode_escape")
    )


def test_a_flag_takes_what_a_shell_makes_of_a_star(export, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = named(tmp_path, sorted(ODD))
    for more in ([], ["topk=1"], ["--topk", "1"]):
        assert predict(export, "--images", *names, *more, "labels=dog", "json=true") == 0
        printed = [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()]
        assert [name.replace("\\\\", "\\") for name in printed] == names


def test_names_between_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named(tmp_path, ["a,b.jpg", "c.jpg", "d, e.jpg"])
    for text, expected in {
        "c.jpg, x.jpg": ["c.jpg", "x.jpg"],
        "a,b.jpg,c.jpg": ["a,b.jpg", "c.jpg"],
        "c.jpg,a,b.jpg,d, e.jpg": ["c.jpg", "a,b.jpg", "d, e.jpg"],
        "https://x/a.jpg?size=1,2,https://y/b.jpg": ["https://x/a.jpg?size=1,2", "https://y/b.jpg"],
        "http://x/a.jpg,c.jpg": ["http://x/a.jpg", "c.jpg"],
    }.items():
        assert names_in(text) == expected


# --- lists


def test_a_list_of_images_is_taken_letter_by_letter(export, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = named(tmp_path, ODD)
    Path("list.txt").write_text("\n".join([*names, "", "gone*.jpg"]) + "\n")
    Path("list0").write_bytes(b"\0".join(name.encode() for name in [*names, "gone*.jpg"]) + b"\0")
    for file in ("list.txt", "list0"):
        assert predict(export, f"images_file={file}", "labels=dog", "json=true") == 1
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["image"].replace("\\\\", "\\") for row in rows] == [*names, "gone*.jpg"]
        assert rows[-1]["error"] == "no such file"


def test_a_list_from_standard_input(export, album, monkeypatch, capsys):
    found = [f"{album}/001.jpg", str(album / "002.jpg")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(found).encode())))
    assert predict(export, "images_file=-", "labels=dog", "json=true") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["image"] for line in printed] == found


def test_labels_of_a_table_have_ids_and_prompts(export, album, tmp_path, capsys):
    (tmp_path / "tags.csv").write_text(
        "\ufeffid,name,prompt\nn1,Dog,\nn2,class 17,a red car.\nn2,class 17,one red {}\n"
        'n3,"red, bright",\n\n'
    )
    arguments = [f"images={album}/001.jpg", f"labels_file={tmp_path}/tags.csv", "json=true"]
    assert predict(export, *arguments) == 0
    printed = capsys.readouterr()
    found = {one["label"]: one["id"] for one in json.loads(printed.out)["labels"]}
    assert found == {"Dog": "n1", "class 17": "n2", "red, bright": "n3"} and not printed.err.count(
        "already"
    )
    labels = read_labels(f"{tmp_path}/tags.csv", "labels_file")
    assert [label.prompts for label in labels[1:3]] == [("a red car.",), ("one red class 17",)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dog\ncat\n", "needs a header of name, id, prompt"),
        ("name,name\n", "needs a header"),
        ("name,colour\ndog,red\n", "needs a header"),
        ("name,id\ndog\n", "row 2 has not a name and 2 cells"),
        ("name,id\n,7\n", "row 2 has not a name"),
        ("name,id\ndog,1\ncat,1\n", "cat (1) is there with another id, or its id with another"),
        ("name,id\ndog,1\nDog,2\n", "Dog (2) is there with another id"),
        ("name\n", "has no word"),
        ("", "needs a header"),
    ],
)
def test_bad_tables_of_labels_get_one_sentence(export, tmp_path, capsys, text, sentence):
    (tmp_path / "tags.csv").write_text(text)
    assert predict(export, "images=x.jpg", f"labels_file={tmp_path}/tags.csv") == 2
    assert sentence in capsys.readouterr().err


# --- archives


@pytest.fixture(scope="module")
def archives(tmp_path_factory, album):
    folder = tmp_path_factory.mktemp("archives")
    with zipfile.ZipFile(folder / "a.ZIP", "w") as archive:
        archive.write(album / "001.jpg", "in/one.jpg")
        archive.writestr("notes.txt", "no picture")
        archive.writestr("__MACOSX/._one.jpg", "no picture")
        archive.write(album / "002.jpg", "two.JPG", zipfile.ZIP_DEFLATED)
    with tarfile.open(folder / "b.tar", "w") as archive:
        for number in (3, 7, 5):
            archive.add(album / f"{number:03}.jpg", f"{number}.jpg")
            archive.add(album / f"{number:03}.jpg", f"{number}.json")
    return folder


def test_members_of_archives_are_pictures_like_others(export, album, archives, capsys):
    assert predict(export, f"images=[{archives}/*]", "labels=dog", "json=true") == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["image"]).relative_to(archives).as_posix() for row in rows] == [
        "a.ZIP/in/one.jpg",
        "a.ZIP/two.JPG",
        "b.tar/3.jpg",
        "b.tar/7.jpg",
        "b.tar/5.jpg",
    ]
    files = [album / f"{number:03}.jpg" for number in (1, 2, 3, 7, 5)]
    assert predict(export, f"images=[{','.join(map(str, files))}]", "labels=dog", "json=true") == 1
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("labels") for row in rows] == [row.get("labels") for row in alone]
    assert "error" in rows[3] and rows[3]["error"] == alone[3]["error"]


def test_bad_archives_get_one_sentence(export, tmp_path, capsys):
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("notes.txt", "")
    with tarfile.open(tmp_path / "c.tar", "w:gz") as archive:
        archive.add(__file__, "a.jpg")
    for name, sentence in (
        ("a.zip", "cannot be read as an archive"),
        ("b.zip", "has no image (.jpg"),
        ("c.tar", "cannot be read as an archive"),
    ):
        assert predict(export, f"images={tmp_path}/{name}") == 2
        assert sentence in capsys.readouterr().err


def test_a_damaged_member_is_a_row(export, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", jpeg(1))
        archive.writestr("b.jpg", jpeg(2))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[200] ^= 255  # in the first member: its CRC tells
    (tmp_path / "a.zip").write_bytes(data)
    assert predict(export, f"images={tmp_path}/a.zip", "labels=dog", "json=true") == 1
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "from the archive: Bad CRC-32" in first["error"] and second["labels"]


# --- tables


def test_every_kind_of_table_says_the_same(export, album, tmp_path, capsys, small_parts):
    common = [f"images={album}", "labels=[dog,cat,=tree]", "topk=2", "workers=1"]
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert predict(export, *common, f"out={tmp_path}/{name}") == 1
    assert "007.jpg: cannot be read as an image" in capsys.readouterr().err
    rows = lines(tmp_path / "a.jsonl")
    assert [row["image"] for row in rows] == [str(album / f"{n:03}.jpg") for n in range(60)]
    assert [number for number, row in enumerate(rows) if "error" in row] == [7]
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["image"] for row in table] == [row["image"] for row in rows]
    for row, one in zip(table, rows, strict=True):
        assert row["error"] == one.get("error")
        assert row["labels"] == [found["label"] for found in one.get("labels", ())]
        assert row["scores"] == pytest.approx([found["score"] for found in one.get("labels", ())])
    with open(tmp_path / "a.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    assert list(dict.fromkeys(cell["image"] for cell in cells)) == [row["image"] for row in rows]
    assert len(cells) == 59 * 2 + 1 and {cell["rank"] for cell in cells} == {"1", "2", ""}
    assert {cell["label"] for cell in cells} <= {"dog", "cat", "'=tree", ""}  # no formula


@pytest.mark.slow
def test_workers_and_decoders_change_no_byte(export, album, tmp_path, monkeypatch, small_parts):
    """In this process with little ado, with decoders that resize, in two worker processes."""
    common = [f"images={album}", "labels=[dog,cat]"]
    assert predict(export, *common, f"out={tmp_path}/few.jsonl") == 1
    monkeypatch.setattr("c2srt.predict.task.FEW_IMAGES", 10)
    assert predict(export, *common, f"out={tmp_path}/one.jsonl", "workers=1", "decoders=2") == 1
    monkeypatch.setattr("c2srt.executor.FEW_IMAGES", 10)
    assert predict(export, *common, f"out={tmp_path}/two.jsonl", "workers=2") == 1
    contents = {path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    assert len(contents) == 1 and sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.jsonl{more}" for name in ("few", "one", "two") for more in ("", ".json")
    )


def test_a_whole_table_is_left_and_another_runs_is_refused(export, album, tmp_path, capsys):
    out = tmp_path / "a.csv"
    common = [f"images={album}", "workers=1", f"out={out}"]
    assert predict(export, *common, "labels=dog") == 1
    written = out.stat().st_mtime_ns, out.read_bytes()
    assert predict(export, *common, "labels=dog") == 1
    assert f"{out} is up to date" in capsys.readouterr().out
    for more, word in (
        (["labels=cat"], "labels"),
        (["labels=dog", "topk=1"], "topk"),
        (["labels=dog", f"images={album}/00*.jpg"], "images"),
    ):
        assert predict(export, *common, *more) == 2
        assert f"is of another run ({word} differ): choose another" in capsys.readouterr().err
    assert written == (out.stat().st_mtime_ns, out.read_bytes())
    (tmp_path / "b.csv").write_text("mine")
    assert predict(export, *common[:2], "labels=dog", f"out={tmp_path}/b.csv") == 2
    assert "is there already, and not whole as this command wrote it" in capsys.readouterr().err
    assert (tmp_path / "b.csv").read_text() == "mine"
    (tmp_path / ("c.csv-" + "0" * 16)).mkdir()
    assert predict(export, *common[:2], "labels=dog", f"out={tmp_path}/c.csv") == 2
    assert "has an unfinished run of other images, labels or" in capsys.readouterr().err


def test_parts_end_where_archives_do():
    loose = [Source(f"{number}.jpg") for number in range(300)]
    inside = [Source("a.zip", f"{number}.jpg") for number in range(3)]
    parts = parts_of([*loose, *inside, Source("b.zip", "x.jpg"), *loose[:1]], Path("x"))
    assert [len(part.sources) for part in parts] == [256, 44, 3, 1, 1]
    assert [part.file.name for part in parts[:2]] == ["000000.jsonl", "000001.jsonl"]


def test_a_killed_run_goes_on(export, album, tmp_path, monkeypatch, capsys, small_parts):
    """What is whole is not done again; the file is that of an undisturbed run."""
    common = [f"images={album}", "labels=[dog,cat]", "workers=1"]
    assert predict(export, *common, f"out={tmp_path}/whole.csv") == 1
    done, real = [], task.write_rows

    def killed(part, *arguments):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(part.number)
        return real(part, *arguments)

    monkeypatch.setattr(task, "write_rows", killed)
    out = f"out={tmp_path}/again.csv"
    assert predict(export, *common, out) == 130 and not (tmp_path / "again.csv").exists()

    def counted(part, *arguments):
        done.append(part.number)
        return real(part, *arguments)

    monkeypatch.setattr(task, "write_rows", counted)
    assert predict(export, *common, out) == 1
    assert done == [0, 1, 2]
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(tmp_path.glob("again.csv-*"))


# --- a CLIP as it is


def test_a_clip_ranks_without_training(album, tmp_path, capsys):
    (tmp_path / "tiny.json").write_text(json.dumps(MODEL_CONFIG))
    common = [
        f"clip.name={tmp_path}/tiny.json",
        "clip.pretrained=random",
        f"images={album}/001.jpg",
    ]
    assert predict("clip", *common, "labels=[dog,red car]", "json=true") == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    scores = {one["label"]: one["score"] for one in row["labels"]}
    assert set(scores) == {"dog", "red car"} and all(-1 <= score <= 1 for score in scores.values())
    assert predict("clip", *common, "labels=dog", 'templates=["a {}."]', "json=true") == 0
    other = json.loads(capsys.readouterr().out)["labels"][0]["score"]
    assert other != scores["dog"]
    assert predict("clip", *common) == 2
    assert "checkpoint=clip has no vocabulary of its own: give labels=" in capsys.readouterr().err
    out = f"out={tmp_path}/a.jsonl"
    for _ in range(2):
        assert predict("clip", *common, "labels=[dog,red car]", out, "workers=1") == 0
    assert lines(tmp_path / "a.jsonl")[0]["labels"] == row["labels"]
    assert predict("clip", *common, "labels=dog", out, 'templates=["a {}."]') == 2
    assert "(model, labels differ)" in capsys.readouterr().err


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["images=x.jpg", "images_file=y"], "are both given: give one of them"),
        (["images_file=gone.txt"], "images_file=gone.txt cannot be read: No such file"),
        (["images_file=/dev/null"], "images_file=/dev/null names no image"),
        (
            ["images=x.jpg", "labels=a", "labels_file=b"],
            "labels=… and labels_file=… are both given",
        ),
        (["images=x.jpg", "labels=[{0}]"], "is a file: for its words write labels_file="),
        (["images=x.jpg", "labels={0}"], "is a file: for its words write labels_file="),
        (["images=x.jpg", "out=x.xlsx"], "out=x.xlsx is neither .jsonl, .csv, .parquet nor xmp"),
        (["images=x.jpg", "device=gpu"], "none of auto, cpu, cuda"),
        (["images=x.jpg", "precision=int8"], "precision=int8 is none of fp32, bf16, fp16"),
        (["images=x.jpg", "workers=0"], "must be at least 1"),
        (["images=x.jpg", "decoders=0"], "must be at least 1"),
        (["images=x.jpg", "templates=odd"], "templates=odd is not known: choose one of ensemble"),
        (["images=x.jpg", "sidecars=odd"], "sidecars=odd is neither digikam nor adobe"),
        ([], "images=… names no image"),
    ],
)
def test_bad_input_gets_one_sentence(export, tmp_path, capsys, arguments, sentence):
    (tmp_path / "words").write_text("dog\n")
    given = [argument.format(tmp_path / "words") for argument in arguments]
    assert predict(export, *given) == 2
    printed = capsys.readouterr().err
    assert sentence in printed and "Traceback" not in printed


def test_words_that_are_there_already_are_named(export, album, capsys):
    assert predict(export, f"images={album}/001.jpg", "labels=[Dog,cat,dog]") == 0
    assert (
        "1 of 3 words are there already (case aside) and ranked once, such as dog beside Dog"
        in capsys.readouterr().err
    )
    assert twice([]) == ""


def test_urls_and_files_are_sources_in_the_order_given(album):
    given = ["https://x/a.jpg", f"{album}/001.jpg", "https://x/a.jpg", f"{album}/00[12].jpg"]
    found, _ = find_sources(given)
    assert [source.name for source in found] == [
        "https://x/a.jpg",
        f"{album}/001.jpg",
        f"{album}/002.jpg",
    ]
    with pytest.raises(UserError, match="has no image"):
        find_sources([f"{album}/*.gif"])


def test_the_defaults_need_no_images():
    assert Config("x").images is None and Config("x").asked is None


# --- ten thousand, and SIGKILL

COMMAND = [sys.executable, "-m", "c2srt.cluster.cli", "predict"]


def rows_done(folder: Path) -> int:
    return 256 * len(list(folder.glob("*.jsonl")))


@pytest.mark.parametrize(
    "count",
    [pytest.param(1_500, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.long)],
)
def test_a_sigkill_at_forty_percent(export, tmp_path, count):
    """Each image once, the bytes of an undisturbed run, and memory that does not grow."""
    photos = tmp_path / "photos"
    photos.mkdir()
    some = [jpeg(number, 32) for number in range(50)]
    for number in range(count):
        (photos / f"{number:05}.jpg").write_bytes(some[number % 50])
    common = [f"checkpoint={export}", f"images={photos}", "labels=[dog,cat]", "workers=2"]

    def start(name: str) -> subprocess.Popen:
        out = f"out={tmp_path}/{name}.parquet"
        return subprocess.Popen([*COMMAND, *common, out], stderr=(tmp_path / "stderr").open("ab"))

    def done(name: str) -> int:
        return sum(map(rows_done, tmp_path.glob(f"{name}.parquet-*")))

    whole, held = start("whole"), {}
    while whole.poll() is None:
        held[done("whole")] = memory_of(whole.pid)
        time.sleep(0.05)
    assert whole.wait() == 0
    killed, kept = start("again"), 0
    while kept < 0.4 * count and killed.poll() is None:
        kept = done("again")
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert 0.4 * count <= kept < count and not (tmp_path / "again.parquet").exists()
    assert start("again").wait() == 0
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    names = pq.read_table(tmp_path / "again.parquet")["image"].to_pylist()
    assert names == [str(photos / f"{number:05}.jpg") for number in range(count)]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("again.parquet-")]
    early = max(size for rows, size in held.items() if rows <= count / 2)
    late = max(size for rows, size in held.items() if rows >= count / 2)
    print(f"memory: {early >> 20} MiB in the first half, {late >> 20} in the second")
    assert late < 1.1 * early


def memory_of(process: int) -> int:
    """Bytes that a command and its processes hold by themselves."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        command = psutil.Process(process)
        for each in (command, *command.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += each.memory_full_info().uss
    return total
