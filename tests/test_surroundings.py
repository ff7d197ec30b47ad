"""Other people's worlds, in processes of their own: a locale that is not UTF-8, a full stdout, a
folder that is gone, foreign packages.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "c2srt.entry"]
FULL = Path("/dev/full")


@pytest.fixture(scope="module")
def latin1(tmp_path_factory) -> dict[str, str]:
    """An environment whose locale is Latin-1."""
    if shutil.which("localedef") is None:
        pytest.skip("no localedef")
    folder = tmp_path_factory.mktemp("locale")
    made = subprocess.run(
        ["localedef", "-c", "-i", "en_US", "-f", "ISO-8859-1", folder / "en_US"],
        capture_output=True,
    )
    if not (folder / "en_US").is_dir():
        pytest.skip(f"localedef makes no locale: {made.stderr!r}")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LC_", "PYTHONIO", "PYTHONUTF8"))
    }
    return kept | {"LOCPATH": str(folder), "LC_ALL": "en_US"}


def ran(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], **{"capture_output": True} | options)


def test_help_and_settings_in_a_locale_that_is_not_utf8(latin1):
    probe = "import locale, sys; print(locale.getpreferredencoding(), sys.stdout.errors)"
    assert subprocess.run(
        [sys.executable, "-c", probe], env=latin1, capture_output=True
    ).stdout.split() == [b"ISO-8859-1", b"strict"]
    overview = ran("--help", env=latin1)
    assert overview.returncode == 0 and b"CSVs \\u2192 webdataset" in overview.stdout
    for arguments in (["train", "--help"], ["train", "--cfg", "job", "data=miniature"]):
        shown = ran(*arguments, env=latin1)
        assert (shown.returncode, shown.stderr) == (0, b"")


def test_files_are_utf8_in_a_locale_that_is_not(latin1, tmp_path):
    program = """
import sys
from pathlib import Path
from c2srt.cluster.cli import main
from c2srt.files import write_json
from c2srt.opened import read_json
path = Path(sys.argv[1]) / "x.json"
write_json(path, {"name": "Käse 寿司 ×"})
assert read_json(path, "")["name"] == "Käse 寿司 ×"
main(["--help"])
print("寿司 ×")
"""
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path], env=latin1, capture_output=True
    )
    assert done.returncode == 0 and done.stdout.endswith(b"\\u5bff\\u53f8 \xd7\n")
    assert "Käse 寿司 ×" in (tmp_path / "x.json").read_bytes().decode()


def test_processes_that_are_started_show_everything_too(latin1):
    program = (
        "import os, subprocess, sys; from c2srt.surroundings import show_everything;"
        " show_everything(); sys.exit(subprocess.call([sys.executable, '-c', 'print(chr(0x5bff),"
        " chr(0xdcff))']))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=latin1, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"\\u5bff \\udcff\n")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["train", "--cfg", "job", "data=miniature"]]
)
def test_a_full_disk_under_stdout_is_one_sentence(arguments):
    with FULL.open("wb") as full:
        ended = ran(*arguments, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    name = " ".join(["c2srt", *arguments[:1]])
    assert ended.returncode == 2
    assert (
        ended.stderr.decode()
        == f"{name}: standard output cannot be written (No space left on device): free some space"
        " and run the same command again\n"
    )


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "unbuffered", ("", "1")
)  # what is left in a buffer would be written once more at the end
def test_with_stderr_full_too_the_status_remains(monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with FULL.open("wb") as full:
        assert ran("nonsense", stdout=full, stderr=full, capture_output=False).returncode == 2


def test_a_pipe_that_was_closed_is_no_fault():
    reader, writer = os.pipe()
    os.close(reader)
    ended = ran("train", "--help", stdout=writer, stderr=subprocess.PIPE, capture_output=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_working_directory_that_is_gone_is_one_sentence(tmp_path):
    (tmp_path / "gone").mkdir()
    ended = ran(
        "predict",
        "checkpoint=/none",
        "images=[/none.jpg]",
        "labels=[Red]",
        cwd=tmp_path / "gone",
        preexec_fn=(tmp_path / "gone").rmdir,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert ended.returncode == 2
    assert (
        ended.stderr.decode()
        == "c2srt predict: the working directory is gone (No such file or directory): cd into a"
        " folder that exists\n"
    )


@pytest.mark.parametrize("name", ["configs", "cluster", "sharding"])
@pytest.mark.parametrize("form", ["package", "module"])
def test_a_users_own_package_of_one_of_our_folders_names_breaks_nothing(tmp_path, name, form):
    place = tmp_path / name / "__init__.py" if form == "package" else tmp_path / f"{name}.py"
    place.parent.mkdir(exist_ok=True)
    place.write_text("raise SystemExit('imported')", encoding="utf-8")
    search = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    ended = ran(
        "plan", "--cfg", "job", env=os.environ | {"PYTHONPATH": search}, cwd=tmp_path, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "tflops" in ended.stdout


def test_in_the_clone_a_job_starts_by_its_folders_name():
    ended = subprocess.run(
        [sys.executable, "-m", "cluster.train", "--help"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        encoding="utf-8",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("c2srt train: ")


def test_a_folder_called_like_the_package_is_not_taken_for_it(tmp_path):
    """As when one stands in the folder above a clone."""
    if any(
        "__editable___c2srt" in type(finder).__module__ + str(finder) for finder in sys.meta_path
    ):
        pytest.skip("installed by an older pyproject.toml: install the checkout again")
    (tmp_path / "c2srt").mkdir()
    program = (
        "import c2srt; from c2srt import cluster, configs, sharding; print(c2srt.load.__name__,"
        " configs.__file__, cluster.__file__, sharding.__file__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    assert found.startswith("load ") and "None" not in found
