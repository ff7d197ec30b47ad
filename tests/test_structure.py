"""The rules that keep the rooms apart, checked by walking the imports; and what a clean checkout
must hold.
"""

import ast
import re
import statistics
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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


IMPORTS = {path.relative_to(ROOT).as_posix(): imported(path) for path in SOURCES}


def importers(package: str) -> set[str]:
    return {
        path
        for path, names in IMPORTS.items()
        if any(name == package or name.startswith(f"{package}.") for name in names)
    }


@pytest.mark.parametrize("package", ONE_IMPORTER)
def test_each_heavy_library_has_one_importer(package):
    assert len(importers(package)) == 1


def test_hydra_is_imported_by_the_command_line_only():
    assert importers("hydra") | importers("omegaconf") == {"c2srt/compose.py"}


def test_ray_stays_in_cluster():
    assert importers("ray") and all(path.startswith("cluster/") for path in importers("ray"))


def test_packages_depend_in_one_direction():
    assert all(path.startswith("cluster/") for path in importers("cluster"))
    assert all(path.startswith(("cluster/", "sharding/")) for path in importers("sharding"))


def test_the_model_knows_nothing_of_training_data_or_ranks():
    allowed = (
        "c2srt.backbone",
        "c2srt.model",
        "c2srt.amounts",
        "c2srt.choices",
        "c2srt.errors",
        "c2srt.files",
        "c2srt.hints",
        "c2srt.keys",
        "c2srt.opened",
        "c2srt.opened_tables",
        "c2srt.shown",
        "c2srt.vocabulary",
    )
    for path, names in IMPORTS.items():
        if path.startswith("c2srt/model/"):
            assert all(name.startswith(allowed) for name in names if name.startswith("c2srt")), path
            assert not any(name.startswith("torch.distributed") for name in names), path


# --- the shape: no circle of files nor of rooms, no arrow up; short lines, functions and files


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def room_of(module: str) -> str:
    """The package below c2srt, or a file there by itself; cluster, configs and sharding as they
    are.
    """
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "c2srt" else parts[0]


def arrows() -> dict[str, set[str]]:
    """Which of our files each file imports, wherever the statement stands."""
    modules = {module_of(path) for path in IMPORTS}
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= below & modules or {node.module}
        found[module_of(path.relative_to(ROOT).as_posix())] = names & modules
    return found


def between_rooms() -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for module, targets in arrows().items():
        room = room_of(module)
        rooms.setdefault(room, set()).update(map(room_of, targets))
        rooms[room].discard(room)
    return rooms


def circle(graph: dict[str, set[str]]) -> list[str]:
    """What is left when whoever needs nothing that is left is taken away, again and again: empty
    if there is no circle.
    """
    left = {name: set(targets) for name, targets in graph.items()}
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    return sorted(left)


def test_a_circle_is_recognised():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_files_import_each_other_in_a_circle():
    assert circle(arrows()) == []


def test_no_rooms_import_each_other_in_a_circle():
    assert circle(between_rooms()) == []


def test_no_line_is_over_100_characters():
    assert not [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]


def body_lines(source: str) -> dict[str, int]:
    """Lines of every function by `line name`: from its first statement after the docstring to its
    end, so without decorators, signature and docstring. What lies in a function counts in both; one
    that has nothing but a docstring is left out.
    """
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            statements = node.body[ast.get_docstring(node) is not None :]
            if statements:
                first, last = statements[0], statements[-1]
                start = min(
                    [first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))]
                )
                found[f"{node.lineno} {node.name}"] = last.end_lineno - start + 1
    return found


BODIES = {
    f"{path}:{name}": lines
    for path in IMPORTS
    for name, lines in body_lines((ROOT / path).read_text(encoding="utf-8")).items()
}


def test_the_lines_of_a_function_are_those_of_its_body():
    source = """
def outer(
    a,
    b,
):
    '''Two
    lines.
    '''
    # why

    @cache
    def inner():
        return (
            a
        )

    return inner

async def protocol(): '''Says what it does.'''
"""
    assert body_lines(source) == {"2 outer": 7, "12 inner": 3}


def test_no_function_is_over_40_lines():
    assert not {place: lines for place, lines in BODIES.items() if lines > 40}


def test_the_median_function_has_at_most_8_lines():
    assert statistics.median(BODIES.values()) <= 8


def test_no_file_is_over_400_lines():
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in IMPORTS}
    assert not {path: count for path, count in lines.items() if count > 400}


# --- text and paths: UTF-8 whatever the locale, and a name is never a pattern

TEXT_MODE, BINARY_METHODS = re.compile(r"[rwax]\+?t?\+?|[rwax]?t\+?"), ("os", "Image", "tarfile")
STARTERS = ("run", "Popen", "check_output", "check_call", "call")


def calls(path: Path) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def depends_on_the_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text in the encoding of the locale."""
    keys = {word.arg: word.value for word in call.keywords}
    name = getattr(call.func, "attr", getattr(call.func, "id", None))
    if "encoding" in keys:
        return False
    if name in STARTERS:
        return any(getattr(keys.get(key), "value", False) for key in ("text", "universal_newlines"))
    if name in ("read_text", "write_text"):  # the function c2srt.files.write_text is UTF-8
        return isinstance(call.func, ast.Attribute)
    if name not in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile", "TextIOWrapper"):
        return False
    owner = getattr(getattr(call.func, "value", None), "id", None)
    if name == "open" and owner in BINARY_METHODS:
        return False
    modes = [
        node.value for node in (*call.args, keys.get("mode")) if isinstance(node, ast.Constant)
    ]
    if any(isinstance(mode, str) and "b" in mode and len(mode) <= 4 for mode in modes):
        return False
    if name in ("NamedTemporaryFile", "TemporaryFile"):  # binary by default
        return any(TEXT_MODE.fullmatch(mode) for mode in modes if isinstance(mode, str))
    unknown = isinstance(call.func, ast.Attribute) and call.args and not modes
    return not unknown or name == "TextIOWrapper"  # x.open(something) is some other class's method


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("p.read_text()", True),
        ("p.read_text(encoding='utf-8')", False),
        ("p.write_text('x')", True),
        ("write_text(p, 'x')", False),
        ("p.open()", True),
        ("p.open('rb')", False),
        ("p.open('a', buffering=1)", True),
        ("open(p)", True),
        ("open(p, 'wb')", False),
        ("open(p, 'w', encoding='utf-8')", False),
        ("os.open(p, flags)", False),
        ("Image.open(p)", False),
        ("gzip.open(p, 'rt')", True),
        ("gzip.open(p)", False),
        ("store.open(what)", False),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c)", False),
        ("io.TextIOWrapper(raw)", True),
        ("NamedTemporaryFile('w')", True),
        ("NamedTemporaryFile()", False),
        ("os.fdopen(1, 'w')", True),
    ],
)
def test_what_depends_on_the_locale_is_recognised(tmp_path, text, wrong):
    (tmp_path / "x.py").write_text(text, encoding="utf-8")
    assert depends_on_the_locale(calls(tmp_path / "x.py")[0]) == wrong


def test_no_text_is_left_to_the_locale():
    assert not [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in SOURCES
        for call in calls(path)
        if depends_on_the_locale(call)
    ]


def test_polars_never_takes_a_path_for_a_pattern():
    readers = (
        "read_parquet",
        "scan_parquet",
        "read_csv",
        "scan_csv",
        "read_ndjson",
        "scan_ndjson",
        "read_ipc",
        "scan_ipc",
    )
    found = [
        (
            f"{path.relative_to(ROOT)}:{call.lineno}",
            {word.arg: word.value for word in call.keywords},
        )
        for path in SOURCES
        for call in calls(path)
        if getattr(call.func, "attr", None) in readers
    ]
    assert found and not [
        place for place, keys in found if getattr(keys.get("glob"), "value", True)
    ]


def test_polars_reads_tables_of_this_run_only():
    """A damaged page makes it end the process: what another run or machine left is read by
    c2srt.opened_tables.read_parquet.
    """
    tables = {
        "sharding/csvs.py",  # its own buckets
        "sharding/nuswide.py",
        "sharding/categories.py",
        "sharding/counts.py",
        "sharding/plan.py",
        "sharding/pack.py",
        "sharding/packs.py",
        "sharding/audit.py",
    }  # inputs/<split>.parquet, by its hash; plan.py: sidecars that were checked
    assert {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for call in calls(path)
        if getattr(call.func, "attr", None) in ("read_parquet", "scan_parquet")
        and ast.unparse(call.func).startswith("pl.")
    } == tables


def test_pictures_are_opened_in_one_place():
    """Pillow's `Image.open` knows 43 formats, some of which start other programs: c2srt/pictures.py
    names those that we take.
    """
    readers = (
        "imread",
        "imopen",
        "decode_image",
        "decode_jpeg",
        "decode_png",
        "read_image",
        "read_file",
        "loadImage",
    )
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {ast.unparse(call.func)}"
        for path in SOURCES
        for call in calls(path)
        if ast.unparse(call.func)
        in ("Image.open", "PIL.Image.open", "Image.init", "Image.preinit", "ImageFile.Parser")
        or getattr(call.func, "attr", "") in readers
    }
    own_shards = "c2srt/demo/measure.py: simplejpeg.decode_jpeg"
    assert found == {"c2srt/pictures.py: simplejpeg.decode_jpeg", own_shards}
    assert {
        path for path, names in IMPORTS.items() if any("ImagePlugin" in name for name in names)
    } <= {"c2srt/pictures.py"}


def test_strangers_pictures_are_decoded_apart():
    """In this process only what somebody opened or we packed ourselves is decoded."""
    decoders = {"decode", "decode_jpeg", "from_pillow", "decode_packed", "convert", "attempt_here"}
    names = {f"pictures.{each}" for each in decoders} | {"convert", "attempt_here", "decode_packed"}
    callers = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in SOURCES
        for call in calls(path)
        if (name := ast.unparse(call.func)) in names
    }
    assert callers == {
        ("c2srt/predict/inputs.py", "pictures.from_pillow"),
        ("c2srt/views.py", "pictures.decode_packed"),
        ("sharding/audit_samples.py", "decode_packed"),
        ("sharding/outcome.py", "convert"),
    }


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
