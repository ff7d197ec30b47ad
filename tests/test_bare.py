"""The check on a machine that is not ours: Python 3.12, torch 2.11 and no more than a bare GPU
machine has.

`pytest -m long tests/test_bare.py` makes that environment with pip (some 5 GB), so it needs a
network and a Python 3.12 on the PATH (or under ~/.pyenv), and says so where there is none.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BARE = [
    "torch==2.11.0",
    "torchvision==0.26.0",
    "torch-geometric==2.8.0",
    "timm",
    "numpy==2.5.2",
    "pillow",
    "scipy",
    "pyarrow",
    "pytest",
    "pytest-timeout",
    "rich",
    "safetensors",
    "psutil",
    "hypothesis",
]
CARRIED = ["open_clip_torch", "pydantic", "hydra-core", "polars", "simplejpeg"]
ABSENT = (
    "ray",
    "deepspeed",
    "mlflow",
    "hydra",
    "polars",
    "open_clip",
    "webdataset",
    "simplejpeg",
    "pydantic",
)
pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def find_python() -> str | None:
    """A Python 3.12."""
    places = sorted(Path.home().glob(".pyenv/versions/3.12.*/bin/python"), reverse=True)
    for candidate in [*map(str, places), shutil.which("python3.12")]:
        if (
            candidate
            and subprocess.run([candidate, "-c", "import venv"], capture_output=True).returncode
            == 0
        ):
            return candidate
    return None


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The environment's Python."""
    python = find_python()
    if python is None:
        pytest.skip("needs a Python 3.12")
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([python, "-m", "venv", folder], check=True)
    install(folder / "bin/python", BARE)
    return folder / "bin/python"


def install(python: Path, packages: list[str]) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"pip cannot install {packages[0]}: {done.stderr.strip().splitlines()[-1]}")


def run(python: Path, *words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd)},
        capture_output=True,
        text=True,
    )


def test_the_check_runs_to_its_end(bare, tmp_path):
    there = run(
        bare,
        "-c",
        f"from importlib.util import find_spec; print([name for name in {ABSENT} if"
        " find_spec(name)])",
    )
    assert there.stdout.strip() == "[]"
    done = run(bare, "-m", "c2srt.check", "gpu", "quick", f"out={tmp_path}/out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "skipped: needs open_clip, pydantic, not installed here" in done.stdout
        and "5 of 6 parts looked at, 0 faults" in done.stdout
    )


@pytest.mark.parametrize(
    "file, right, wrong, named",
    [
        (
            "isr.py",
            "weights = weights / tl.sum(weights, 1)[:, None]\n",
            "weights = 1.01 * weights / tl.sum(weights, 1)[:, None]\n",
            "assignment, tiny, bf16",
        ),
        (
            "gat.py",
            "return grad_target, partials.sum(0), grad_logit",
            "return 1.01 * grad_target, partials.sum(0), grad_logit",
            "attention backward, tiny, bf16",
        ),
    ],
)
def test_a_kernel_that_is_wrong_by_one_percent(bare, tmp_path, file, right, wrong, named):
    shutil.copytree(
        ROOT / "c2srt", tmp_path / "c2srt", ignore=shutil.ignore_patterns("__pycache__")
    )
    path = tmp_path / "c2srt/model/kernels" / file
    assert path.read_text().count(right) == 1
    path.write_text(path.read_text().replace(right, wrong))
    done = run(bare, "-m", "c2srt.check", "gpu", "quick", "out=out", "parts=isr,gat", cwd=tmp_path)
    assert done.returncode == 1 and f"WRONG: {named}" in done.stdout, done.stdout + done.stderr


def test_the_tests_of_head_loss_and_kernels_pass(bare):
    """Last: it adds packages to the environment."""
    install(bare, CARRIED)
    done = run(
        bare,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "tests/test_head.py",
        "tests/test_loss.py",
        "tests/test_kernels.py",
    )
    assert done.returncode == 0, done.stdout[-3000:]
