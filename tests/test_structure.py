"""The rules that keep the rooms apart, checked by walking the imports; and what a clean checkout must hold."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("c2srt", "cluster", "configs", "sharding")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ONE_IMPORTER = ("deepspeed", "torch_geometric", "mlflow", "open_clip", "openai", "pytorch_grad_cam")


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever the statement stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


IMPORTS = {path.relative_to(ROOT).as_posix(): imported(path) for path in SOURCES}


def importers(package: str) -> set[str]:
    return {path for path, names in IMPORTS.items() if any(name == package or name.startswith(f"{package}.") for name in names)}


@pytest.mark.parametrize("package", ONE_IMPORTER)
def test_each_heavy_library_has_one_importer(package):
    assert len(importers(package)) == 1


def test_hydra_is_imported_by_the_command_line_only():
    assert importers("hydra") | importers("omegaconf") == {"c2srt/cli.py"}


def test_ray_stays_in_cluster():
    assert importers("ray") and all(path.startswith("cluster/") for path in importers("ray"))


def test_packages_depend_in_one_direction():
    assert all(path.startswith("cluster/") for path in importers("cluster"))
    assert all(path.startswith(("cluster/", "sharding/")) for path in importers("sharding"))


def test_the_model_knows_nothing_of_training_data_or_ranks():
    allowed = ("c2srt.model", "c2srt.errors", "c2srt.files", "c2srt.hints", "c2srt.text", "c2srt.relations", "c2srt.vocabulary")
    for path, names in IMPORTS.items():
        if path.startswith("c2srt/model/"):
            assert all(name.startswith(allowed) for name in names if name.startswith("c2srt")), path
            assert not any(name.startswith("torch.distributed") for name in names), path


def test_every_verb_has_a_module_and_a_configuration():
    from c2srt.cli import VERBS

    for verb, (module, _) in VERBS.items():
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), verb
        assert (ROOT / "configs" / f"{verb}.yaml").is_file(), verb


def test_constraints_pin_every_dependency_without_addresses():
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert not any("://" in line or " @ " in line for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-")
        assert name in pinned, requirement
