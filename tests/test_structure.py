"""The rules that keep the rooms apart, checked by walking the imports; and what a clean checkout
must hold.
"""

import ast
import inspect
import re
import statistics
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("c2srt", "cluster", "configs", "sharding")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
ONE_IMPORTER = (
    "deepspeed",
    "torch_geometric",
    "mlflow",
    "open_clip",
    "timm",
    "openai",
    "pytorch_grad_cam",
    "pillow_heif",
)


def module_of(path: Path) -> str:
    """Its name when it is imported; folders beside c2srt are reached through links in it."""
    name = path.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".")
    name = name.removesuffix(".__init__")
    return name if name.split(".")[0] == "c2srt" else f"c2srt.{name}"


MODULES = {module_of(path) for path in SOURCES}


def nodes_of(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def imported(nodes: list[ast.AST]) -> set[str]:
    """Dotted names of all modules that a file imports, wherever the statement stands."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= below & MODULES or {node.module}
    return names


def in_strings(nodes: list[ast.AST]) -> set[str]:
    """Our modules that a file's strings name, to be imported or started by that name."""
    prose = {node.value for node in nodes if isinstance(node, ast.Expr)}
    return MODULES & {
        name
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose
        for name in re.findall(r"\w+(?:\.\w+)+", node.value)
    }


def body_lines(nodes: list[ast.AST]) -> dict[str, int]:
    """Lines of every function by `line name`: from its first statement after the docstring to its
    end, so without decorators, signature and docstring. What lies in a function counts in both; one
    that has nothing but a docstring is left out.
    """
    found = {}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            statements = node.body[ast.get_docstring(node) is not None :]
            if statements:
                first, last = statements[0], statements[-1]
                start = min(
                    [first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))]
                )
                found[f"{node.lineno} {node.name}"] = last.end_lineno - start + 1
    return found


class File(NamedTuple):
    imports: set[str]
    strings: set[str]
    bodies: dict[str, int]


@cache
def read_files() -> dict[str, File]:
    """All of SOURCES, when a test first asks: each process of the tests imports this file."""
    found = {}
    for path in SOURCES:
        nodes = nodes_of(path.read_text(encoding="utf-8"))
        file = File(imported(nodes), in_strings(nodes), body_lines(nodes))
        found[path.relative_to(ROOT).as_posix()] = file
    return found


def all_imports() -> dict[str, set[str]]:
    return {path: file.imports for path, file in read_files().items()}


def bodies() -> dict[str, int]:
    return {
        f"{path}:{name}": lines
        for path, file in read_files().items()
        for name, lines in file.bodies.items()
    }


def importers(package: str) -> set[str]:
    return {
        path
        for path, names in all_imports().items()
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
    """But for the file in which the command begins, above them all."""
    begins = {"c2srt/entry.py"}
    assert all(path.startswith("cluster/") for path in importers("c2srt.cluster") - begins)
    assert all(
        path.startswith(("cluster/", "sharding/", "c2srt/bench/pack"))
        for path in importers("c2srt.sharding")
    )


def test_the_folders_beside_the_package_are_imported_through_it_only():
    """Under their own names they may be someone else's."""
    beside = set(FOLDERS) - {"c2srt"}
    assert not beside & {
        name.partition(".")[0] for names in all_imports().values() for name in names
    }
    assert all((ROOT / "c2srt" / name).samefile(ROOT / name) for name in beside)


# --- the order of the rooms

ROOMS = re.findall(
    r"\S+",
    """
c2srt.configs
c2srt.version c2srt.extras c2srt.scratch c2srt.node_folder c2srt.shown c2srt.versions c2srt.progress
c2srt.console
c2srt.bounds c2srt.old_names c2srt.hints c2srt.errors c2srt.code c2srt.choices c2srt.keys
c2srt.overrides
c2srt.lazily c2srt.data_keys
c2srt.datasets c2srt.jobs c2srt.verb c2srt.profiling c2srt.early_signals
c2srt.redact c2srt.clients c2srt.storage
c2srt.opened c2srt.opened_tables c2srt.surroundings c2srt.files c2srt.lock c2srt.artefact
c2srt.locations c2srt.download_config c2srt.exchange c2srt.sites c2srt.downloads
c2srt.pipes c2srt.threads c2srt.children c2srt.interrupts c2srt.processes c2srt.executor
c2srt.pictures c2srt.isolation c2srt.prefetch
c2srt.permuted c2srt.streams c2srt.order c2srt.view_config c2srt.views c2srt.vocabulary
c2srt.shards c2srt.shard_reader c2srt.offsets c2srt.shard_cache c2srt.samples c2srt.ahead
c2srt.backbone c2srt.model
c2srt.shared_keys c2srt.compose c2srt.manual c2srt.workflow c2srt.command
c2srt.text_config c2srt.text c2srt.teacher c2srt.loader
c2srt.relations c2srt.export c2srt.predict c2srt
c2srt.serving_limits c2srt.serving
c2srt.evaluation c2srt.figures c2srt.tracking
c2srt.split_scores c2srt.train c2srt.tune_config c2srt.tune c2srt.messages c2srt.calibration
c2srt.audit
c2srt.sharding
c2srt.pages c2srt.plan c2srt.bench c2srt.check c2srt.doctor c2srt.init
c2srt.tables c2srt.demo c2srt.study
c2srt.cluster
c2srt.entry
""",
)
"""The packages of c2srt and its files that are in none, lowest first: each imports only what stands
before it. What a new room needs must stand before it, what needs it after.
"""


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize(
    "source, modules, strings",
    [
        ("import os.path, c2srt.cluster.train", {"os.path", "c2srt.cluster.train"}, set()),
        ("def f():\n    from c2srt import files, load", {"c2srt.files"}, set()),
        ("from c2srt import load", {"c2srt"}, set()),
        ("VERBS = {'train': ('c2srt.cluster.train', 'trains')}", set(), {"c2srt.cluster.train"}),
        ("run([python, '-m', 'c2srt.cluster.cli text'])", set(), {"c2srt.cluster.cli"}),
        ("KEYS = 'c2srt.sharding.config:Config'", set(), {"c2srt.sharding.config"}),
        ("def f():\n    'As `c2srt.loader` does.'\n    return 'cluster.nodes'", set(), set()),
    ],
)
def test_a_module_is_found_by_whatever_names_it(source, modules, strings):
    nodes = nodes_of(source)
    assert (imported(nodes), in_strings(nodes)) == (modules, strings)


def test_every_room_has_its_place():
    assert sorted(ROOMS) == sorted({room_of(module) for module in MODULES})


def test_every_arrow_goes_down():
    """Those through strings, too."""
    place = {room: number for number, room in enumerate(ROOMS)}
    assert not [
        f"{path} names {name}"
        for path, file in read_files().items()
        for name in file.imports & MODULES | file.strings
        if place[room_of(module_of(ROOT / path))] < place[room_of(name)]
    ]


def test_the_model_knows_nothing_of_training_data_or_ranks():
    """The order alone would let it see what happens to stand lower."""
    data = ("order", "views", "view_config", "shards", "samples", "loader", "pictures", "datasets")
    seen = {
        name
        for path, names in all_imports().items()
        if path.startswith(("c2srt/model/", "c2srt/backbone/"))
        for name in names
    }
    assert not seen & {f"c2srt.{room}" for room in data}
    assert not [name for name in seen if name.startswith("torch.distributed")]


# --- the shape: no circle of files; short lines, functions and files


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
    assert (
        circle({module_of(ROOT / path): names & MODULES for path, names in all_imports().items()})
        == []
    )


def test_no_line_is_over_100_characters():
    assert not [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]


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
    assert body_lines(nodes_of(source)) == {"2 outer": 7, "12 inner": 3}


def test_no_function_is_over_40_lines():
    assert not {place: lines for place, lines in bodies().items() if lines > 40}


def test_the_median_function_has_at_most_8_lines():
    assert statistics.median(bodies().values()) <= 8


def test_no_file_is_over_400_lines():
    lines = {
        path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in read_files()
    }
    assert not {path: count for path, count in lines.items() if count > 400}


# --- what is said goes through logging; what a verb is asked for is printed

PRINTERS = {
    "c2srt/console.py": "shows the log",
    "c2srt/surroundings.py": "the last sentence of a command, whatever state its streams are in",
    "c2srt/command.py": "--help and --cfg job",
    "c2srt/predict/run.py": "predictions",
    "c2srt/plan/run.py": "the plan",
    "c2srt/plan/check.py": "predicted against measured seconds",
    "c2srt/bench/run.py": "the benchmark's table",
    "c2srt/backbone/listing.py": "the list of backbones",
    "c2srt/check/run.py": "the verdict on the card",
    "c2srt/check/nodes/run.py": "the table of the nodes",
    "c2srt/check/compiled.py": "the table of the kernels",
    "c2srt/doctor.py": "what it finds",
    "c2srt/relations/report.py": "the comparison of the graphs",
    "c2srt/tables/run.py": "the tables",
    "c2srt/demo/report.py": "the demo's tables",
    "c2srt/study/run.py": "the study's tables",
    "cluster/evaluate/__init__.py": "the results",
    "sharding/audit_job.py": "the disagreements and the verdict",
}


def test_results_alone_are_printed():
    """What is said on the way is logged, so that a caller can silence or redirect it
    (c2srt/console.py). Who prints a verb's result stands above.
    """
    assert {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name | ast.Attribute)
        and ast.unparse(node) in ("print", "sys.stdout.write", "sys.stderr.write")
    } == {*PRINTERS, "cluster/launch_node.py"}  # the last: its protocol with the launcher


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
        "sharding/standard_set.py",
        "sharding/categories.py",
        "sharding/counts.py",
        "sharding/tasks.py",
        "sharding/exclude.py",
        "sharding/arrivals.py",
        "sharding/pack.py",
        "sharding/packs.py",
        "sharding/audit.py",
    }  # inputs/<split>.parquet, by its hash; tasks.py, arrivals.py: sidecars that were checked
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
        path
        for path, names in all_imports().items()
        if any("ImagePlugin" in name for name in names)
    } <= {"c2srt/pictures.py"}


def test_strangers_pictures_are_decoded_apart():
    """In this process only what somebody opened or we packed ourselves is decoded."""
    decoders = {"decode", "decode_jpeg", "from_pillow", "decode_packed", "convert", "convert_sent"}
    names = {f"pictures.{each}" for each in decoders} | {"convert", "convert_sent", "decode_packed"}
    callers = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in SOURCES
        for call in calls(path)
        if (name := ast.unparse(call.func)) in names
    }
    assert callers == {
        ("c2srt/predict/decoding.py", "pictures.decode"),  # what runs apart
        ("c2srt/predict/inputs.py", "pictures.from_pillow"),
        ("c2srt/views.py", "pictures.decode_packed"),
        ("sharding/audit_samples.py", "decode_packed"),
        ("sharding/decode.py", "convert"),  # what runs apart
        ("c2srt/bench/packed.py", "convert"),  # what was drawn
    }


def test_every_verb_has_a_module_and_a_configuration():
    from c2srt.cluster.cli import VERBS

    for name, verb in VERBS.items():
        assert (ROOT / "configs" / f"{name}.yaml").is_file(), name
        for function in (verb.keys, verb.work):
            (module,) = re.findall(r"from (\S+) import", inspect.getsource(function))
            assert find_spec(module), name


def test_constraints_pin_every_dependency_without_addresses():
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert not any("://" in line or " @ " in line for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [one for extra in ("train", "mine", "figures", "test") for one in extras[extra]]
    for requirement in project["dependencies"] + wanted:
        if requirement.startswith("c2srt["):
            continue
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-")
        assert name in pinned, requirement
