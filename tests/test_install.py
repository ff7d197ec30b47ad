"""What is installed: the extras as pyproject.toml has them and as the code knows them, what is said
where one lacks, `c2srt doctor`, `c2srt init`, and (slow) the base installation in an environment of
its own.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

import pytest
from PIL import Image

from c2srt import __version__, doctor, extras
from c2srt.cluster.cli import main
from tests.test_structure import all_imports

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_IMPORTED = {"ninja"}
"""What a library of the same extra calls by itself (DeepSpeed builds with it)."""
BROUGHT = {"huggingface_hub", "httpcore2", "omegaconf", "triton"}
"""Libraries that one of the base brings: open_clip, httpx2, hydra-core, torch."""
FOR_BENCH = {"torchmetrics", "sklearn", "webdataset"}
"""Peers of a benchmark, which skips them by name."""
IMPORTED_AS = {"pillow_heif": "pillow-heif", "transformers": "transformers"}
"""Import names of what need not be installed here."""


def distributions(requirements: list[str]) -> set[str]:
    """Names of what is required, extras of this package apart."""
    names = {re.split(r"[\[<>=;]", one)[0].strip() for one in requirements}
    return {name.lower().replace("_", "-") for name in names} - {"c2srt"}


def distribution_of(library: str) -> str:
    found = packages_distributions().get(library, [IMPORTED_AS.get(library, library)])
    name = library if library in found else found[0]  # mlflow-skinny has the same modules
    return name.lower().replace("_", "-")


def test_the_code_knows_the_extras_as_the_project_declares_them():
    declared = dict(PROJECT["optional-dependencies"])
    whole, _ = declared.pop(extras.WHOLE), declared.pop("test")
    assert declared.keys() == extras.EXTRAS.keys()
    assert whole == [f"c2srt[{','.join(declared)}]"]
    for extra, libraries in extras.EXTRAS.items():
        wanted = distributions(declared[extra]) - NOT_IMPORTED
        assert {distribution_of(library) for library in libraries} == wanted, extra


def test_every_library_that_is_imported_comes_with_the_base_or_an_extra():
    base = distributions(PROJECT["dependencies"])
    known = {library for names in extras.EXTRAS.values() for library in names}
    found = {name.partition(".")[0] for names in all_imports().values() for name in names}
    others = found - set(sys.stdlib_module_names) - {"c2srt"} - known - BROUGHT - FOR_BENCH
    assert {"torch", "hydra", "PIL"} <= others
    assert {distribution_of(library) for library in others} <= base


def test_a_library_that_lacks_is_a_sentence_with_its_command(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)  # what Python does where there is none
    for module in [name for name in sys.modules if name.startswith("c2srt.relations.")]:
        monkeypatch.delitem(sys.modules, module)
    assert main(["relations", "mine"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("c2srt relations-mine: openai is not installed, which this needs: run `")
    assert said.endswith("[mine]'`")


def test_a_fault_of_our_own_imports_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2srt.doctor", None)
    with pytest.raises(ModuleNotFoundError):
        main(["doctor"])


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (None, "pip install 'c2srt[train]'"),
        ({"url": "file:///a/b%20c", "dir_info": {"editable": True}}, "-e '/a/b c[train]'"),
        ({"url": "file:///a/b", "dir_info": {}}, "pip install '/a/b[train]'"),
        (
            {"url": "file:///a/c2srt-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'c2srt[train] @ file:///a/c2srt-0.1.0-py3-none-any.whl'",
        ),
    ],
)
def test_the_command_adds_the_extra_to_where_this_came_from(monkeypatch, source, command):
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return source and json.dumps(source)

    monkeypatch.setattr(extras, "distribution", lambda name: Installed())
    assert extras.install("train").endswith(command)


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"c2srt {__version__}\n"


# --- c2srt doctor


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers, with an error as the real one may."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(503)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def findings(capsys, *arguments: str) -> dict[str, dict[str, str]]:
    """What `c2srt doctor` finds, by heading."""
    main(["doctor", "json=true", *arguments])
    return {found["what"]: found for found in json.loads(capsys.readouterr().out)}


def test_the_doctor_says_what_is_here(capsys, hub, tmp_path):
    found = findings(capsys, f"work={tmp_path}/not/yet")
    assert found["c2srt"]["found"].startswith(__version__)
    assert {found[what]["state"] for what in ("torch", "Python", "machine", "disk")} == {"ok"}
    assert str(tmp_path) in found["disk"]["found"]
    assert found["network"]["state"] == "ok"
    assert f"{tmp_path}/not/yet/mlflow.db" in found["MLflow"]["found"]


def test_the_doctor_says_what_lacks_and_for_what(capsys, hub, monkeypatch):
    there = extras.is_there
    monkeypatch.setattr(extras, "is_there", lambda name: name != "ray" and there(name))
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (lacking,) = [line for line in lines if line.startswith("lacks  [train]")]
    assert "ray (train, " in lacking and lacking.endswith("[train]'")


def test_a_hub_that_is_away_is_a_note(capsys, hub, monkeypatch):
    hub.shutdown()
    hub.server_close()
    found = findings(capsys)["network"]
    assert found["state"] == "note" and "must lie on this machine" in found["found"]


def test_a_password_of_the_store_is_not_shown(capsys, hub, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://anna:secret@store.example/mlflow")
    found = findings(capsys)["MLflow"]["found"]
    assert "store.example" in found and "secret" not in found


def test_a_broken_library_is_a_fault_and_ends_no_other_question(capsys, hub, monkeypatch):
    def broken():
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(doctor, "device", broken)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("FAULT")] == [
        "FAULT  device          OSError: libcudart.so.13: cannot open shared object file"
    ]
    assert any(line.startswith("ok     network") for line in lines)


# --- c2srt init slurm


def test_slurms_scripts_are_written_where_there_is_no_clone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "slurm"]) == 0
    names = {path.name for path in (ROOT / "slurm").iterdir() if path.is_file()}
    assert {"site.sh", "submit.sh", "openimages.sh", "ablations.txt", "README.md"} <= names
    assert {path.name for path in Path("slurm").iterdir() if path.is_file()} == names
    assert Path("slurm/logs").is_dir()
    for name in names:
        assert Path("slurm", name).read_bytes() == (ROOT / "slurm" / name).read_bytes()
    assert Path("slurm/submit.sh").stat().st_mode & 0o100
    assert "slurm/submit.sh is written" in capsys.readouterr().out


def test_what_was_filled_in_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "slurm"]) == 0
    Path("slurm/site.sh").write_text("export C2SRT_DATA=/mine\n", encoding="utf-8")
    Path("slurm/shard.sh").unlink()
    capsys.readouterr()
    assert main(["init"]) == 0
    told = capsys.readouterr().out
    assert "slurm/site.sh stays as it is" in told and "slurm/shard.sh is written" in told
    assert "slurm/text.sh is there" in told
    assert Path("slurm/site.sh").read_text(encoding="utf-8") == "export C2SRT_DATA=/mine\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["slurn"], "what='slurn' is not one of slurm"),
        (["slurm"], "slurm/logs"),
    ],
)
def test_what_cannot_be_written_is_a_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    Path("slurm").touch()
    assert main(["init", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("c2srt init: ") and sentence in line


# --- the base installation


MOST_PACKAGES = 60
"""Of the base installation, NVIDIA's apart."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The commands of an environment with a wheel of this tree and nothing but what it requires."""
    folder = tmp_path_factory.mktemp("base")
    uv = [sys.executable, "-m", "uv"]
    if subprocess.run([*uv, "--version"], capture_output=True).returncode:
        pytest.skip("needs uv")
    subprocess.run(
        [*uv, "build", "-q", "--system-certs", "--wheel", "-o", folder, ROOT], check=True
    )
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, folder / "venv"], check=True)
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv/bin/python"
    install = [*uv, "pip", "install", "-q", "--system-certs", "--python", python]
    subprocess.run([*install, "-c", ROOT / "constraints.txt", wheel], check=True)
    return folder / "venv/bin"


@pytest.mark.slow
def test_the_base_is_small_and_names_what_it_lacks(base, tmp_path):
    listed = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "freeze", "-q", "--python", base / "python"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    packages = [line for line in listed if line and not line.startswith("nvidia-")]
    assert 10 < len(packages) <= MOST_PACKAGES
    told = subprocess.run(
        [base / "c2srt", "relations", "mine"], cwd=tmp_path, capture_output=True, text=True
    )
    assert told.returncode == 2
    assert "openai is not installed" in told.stderr and "c2srt[mine]" in told.stderr


@pytest.mark.slow
def test_a_wheel_works_outside_the_clone_beside_packages_of_the_same_names(base, tmp_path):
    (wheel,) = base.parent.parent.glob("*.whl")
    with ZipFile(wheel) as packed:
        tops = {name.partition("/")[0] for name in packed.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"c2srt"}
    for name in ("configs", "cluster", "sharding"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    photo = tmp_path / "a (1).jpg"
    Image.new("RGB", (64, 64), "red").save(photo)

    def told(*arguments: str) -> str:
        return subprocess.run(
            [base / "c2srt", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert told("--version") == f"c2srt {__version__}\n"
    told("init", "slurm")
    assert (tmp_path / "slurm/openimages.sh").is_file() and (tmp_path / "slurm/logs").is_dir()
    assert "tflops" in told("plan", "--cfg", "job", "cluster=h200")
    assert "train" in told("train", "--help")
    program = (
        "from pathlib import Path; from c2srt.demo.shipped import unpack; unpack(Path('clip'), 0)"
    )
    subprocess.run([base / "python", "-c", program], cwd=tmp_path, check=True)
    clip = ["clip.name=clip/model.json", "clip.pretrained=clip/model.safetensors"]
    listed = told("predict", "checkpoint=clip", *clip, f"images={photo}", "labels=[Red, Blue]")
    assert "Red" in listed
