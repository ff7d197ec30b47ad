"""Every command that documents, comments and messages print: each has a row in
tests/command_table.py, can be pasted into sh and zsh, is understood by its verb, and runs on a
small miniature where the table says so.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from c2srt import compose, hints, workflow
from c2srt.cluster.cli import VERBS, main
from c2srt.command import split_flags
from c2srt.errors import UserError
from c2srt.hints import Command, flag, override, running, shell, typed
from c2srt.relations.answers import read_answers
from c2srt.relations.prompt import TYPES, make_labels
from c2srt.vocabulary import Vocabulary, load_vocabulary
from tests import printed
from tests.command_table import BY_HAND, COMPOSED, DOCUMENTED, LONG, PRINTED, RUN, SHELL, STUB
from tests.llm_server import KEY, MODEL, LlmServer, relations_by_label
from tests.verbs import compose_verb, config_class, joined, run_verb

SHELLS = [found for name in ("sh", "bash", "zsh") if (found := shutil.which(name))]
TYPED = ["data=miniature", "work=runs/miniature", "workers=1"]
FULL = "runs/miniature/full/seed-0/model"


def those(table: dict[str, tuple[str, str]], *hows: str) -> list[str]:
    return [command for command, (how, _) in table.items() if how in hows]


def words(command: str, shell: str) -> list[list[str]]:
    """What the shell makes of each `c2srt …` in a command, redirections obeyed: nothing runs."""
    said = "c2srt() { { printf '\\036'; printf '%s\\0' \"$@\"; } >&2; }; " + command
    found = subprocess.run(
        [shell, *(["-f"] if shell.endswith("zsh") else []), "-c", said],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert found.returncode == 0, found.stderr
    return [
        [] if call == "\0" else call.split("\0")[:-1] for call in found.stderr.split("\036")[1:]
    ]


def understood(arguments: list[str]) -> object:
    """The verb's Config, as `c2srt` itself reads the words; missing values are filled in, as in
    data.root=…
    """
    verb, *rest = joined(arguments)
    if "--help" in rest or "--cfg" in rest:
        return run_verb(verb, rest)
    overrides, _ = split_flags(rest)
    composed = compose_verb(verb, overrides)
    for key in OmegaConf.missing_keys(composed):
        OmegaConf.update(composed, key, "/given")
    return compose.to_config(config_class(verb), composed)


def filled(command: str) -> str:
    """A form with values: `key=…` and `…`."""
    return re.sub(
        r"(?<=\s)…(?=\s|$)|(?<=\s)> .*$", "", re.sub(r"((?:price|budget)\w*)=…", r"\1=1", command)
    ).replace("=…", "=/given")


# The table
# --------------------------------------------------------------------------------------------------


def test_every_documented_command_has_a_row():
    found = printed.documented()
    assert {command: found[command] for command in set(found) - set(DOCUMENTED)} == {}, (
        "commands without a row"
    )
    assert set(DOCUMENTED) - set(found) == set(), "rows of commands that are gone"


def test_every_command_of_a_message_has_a_row():
    found = printed.hints()
    assert {source: found[source] for source in set(found) - set(PRINTED)} == {}, (
        "commands without a row"
    )
    assert set(PRINTED) - set(found) == set(), "rows of commands that are gone"


def test_no_message_names_a_command_by_hand():
    assert {text for text in printed.by_hand() if text not in BY_HAND} == set()


def test_lists_to_type_are_quoted_for_zsh():
    assert printed.unquoted() == []


def test_what_does_not_run_has_a_reason():
    assert [
        command
        for table in (DOCUMENTED, PRINTED)
        for command, (how, reason) in table.items()
        if how not in (RUN, STUB, LONG, COMPOSED, SHELL) or how in (COMPOSED, SHELL) and not reason
    ] == []


def test_a_new_command_is_found():
    page = (
        "# Page\n\nText of `c2srt text data=nuswide`.\n\n    c2srt shard \\\n        workers=3\n   "
        " 17:01:02 launch: done\n\n```\nsbatch x.sh\n```\n"
    )
    assert list(printed.in_markdown(page)) == [
        "c2srt shard workers=3",
        "sbatch x.sh",
        "c2srt text data=nuswide",
    ]
    assert list(
        printed.in_comments(
            "# Words.\n#   c2srt text batch=3    a batch\nkey: 1  # see `c2srt train zero=3`\n"
        )
    ) == ["c2srt text batch=3", "c2srt train zero=3"]
    with pytest.raises(ValueError, match="neither a command nor known output"):
        list(printed.in_markdown("Text.\n\n    frobnicate --all\n"))


# Pasting
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "[x]",
        "2024_11_28",
        "93e45",
        "1984",
        "null",
        "True",
        "it's",
        'say "hi"',
        "tail\\",
        "x=y",
        "a,b",
        "ünï",
        "{a}",
        "~/x",
        "*.jpg",
        'a\\"b',
        "(1).jpg",
        "#x",
        "a:b",
        "!x",
        "",
        "$HOME",
        "a\\b",
        "-x",
        "a;b & c",
        "`x`",
        "/plain/path-1.0_x",
    ],
)
def test_any_text_reaches_the_verb_through_every_shell(value):
    with running(
        "shard", ["data=openimages", 'data.root="/a (raw) folder"', "workers=3", "out=elsewhere"]
    ):
        command = str(Command("text", out=value))
    for one in SHELLS:
        [arguments] = words(command, one)
        assert arguments == [
            "text",
            "data=openimages",
            'data.root="/a (raw) folder"',
            "workers=3",
            override("out", value),
        ]
        config = compose_verb("text", arguments[1:])
        assert config.out == value and config.data.root == "/a (raw) folder"


def test_what_is_typed_is_carried_where_it_belongs():
    with running(
        "figures", ["data=openimages", "data.root=/raw", "statistics=9", "clip.name=x", "out=y"]
    ):
        assert str(Command("text")) == "c2srt text data=openimages data.root=/raw clip.name=x"
        assert (
            str(Command("figures", statistics=None))
            == "c2srt figures data=openimages data.root=/raw clip.name=x out=y"
        )
        assert (
            str(Command("train", "data.root=/other", out="z"))
            == "c2srt train data=openimages clip.name=x data.root=/other out=z"
        )
        with running("relations-mine", ["seed=3"]):
            assert (
                str(Command("relations")) == "c2srt relations seed=3"
                and str(Command("relations-mine")) == "c2srt relations mine seed=3"
            )
    with running("plan", ["workers=8"]):
        assert str(Command("shard")) == "c2srt shard data=openimages workers=8"
        assert str(Command("shard", data="nuswide")) == "c2srt shard workers=8 data=nuswide"
    assert str(Command("shard")) == "c2srt shard", "nothing runs: a library"
    assert flag("relations-mine", "--help") == "c2srt relations mine --help" and not hints.RUNNING


def test_a_worker_prints_commands_as_the_verb_that_sent_it():
    with running("teacher", ["data=openimages", "batch=3"]):
        sent = hints.as_here(lambda item: f"{item}: {Command('shard')}")
    assert sent(3) == "3: c2srt shard data=openimages" and not hints.RUNNING


@pytest.mark.parametrize("command", those(DOCUMENTED, RUN, STUB, LONG, COMPOSED))
def test_documented_commands_are_understood(command, capsys):
    found = [words(filled(command), one) for one in SHELLS]
    assert found[0] and all(one == found[0] for one in found), (
        "shells disagree: something needs quotes"
    )
    for arguments in found[0]:
        understood(arguments)


@pytest.mark.parametrize("command", those(DOCUMENTED, SHELL))
def test_other_documented_commands_are_read_by_bash(command):
    form = re.sub(r"<[\w ]+>", "given", command)
    assert subprocess.run(["bash", "-n", "-c", form], capture_output=True, text=True).stderr == ""
    for script in re.findall(r"slurm/\w+\.sh", command):
        assert (
            subprocess.run(
                ["bash", "-n", printed.ROOT / script], capture_output=True, text=True
            ).stderr
            == ""
        )


def example(source: str) -> str:
    """A printed command, of values such as its place in the code has."""
    config = SimpleNamespace(neighbours=8, budget=1.0, checkpoint=FULL, out="runs/hint")
    known = {
        "config": config,
        "verb": "train",
        "overrides": ["steps=2"],
        "kind": "random",
        "folder": Path("runs/hint/none"),
        "k": 4,
        "made_from": {"kind": "random", "neighbours": 3},
        "out": Path("runs/miniature/relations/mined"),
        "RELATIONS": "relations.jsonl",
        "training": Path("runs/miniature/train"),
        "model": Path(FULL),
        "name": "neighbours",
        "neighbours": 4,
        "key": "shards",
        "following": "text",
        "chosen": [],
        "own": {
            "checkpoint": FULL,
            "images": [Path("photo (1).jpg")],
            "labels": ["red car", "disc"],
        },
        "inputs": SimpleNamespace(work=Path("runs/miniature")),
        "workspace": SimpleNamespace(work=Path("runs/miniature")),
        "self": SimpleNamespace(model=SimpleNamespace(kind="mkt")),
        "exported": SimpleNamespace(templates=["a photo of a {}."]),
        "command": SimpleNamespace(verb="text", overrides=['templates=["a {}"]']),
        "shown": "sqlite:////a b/mlflow.db",
        "is_typed": lambda key: True,
        "trained_with": lambda config: ["engine.zero=2"],
        "Path": Path,
        "max": max,
    }
    if "kind.figures" in source:
        known["kind"] = SimpleNamespace(figures="model")
    with running(
        *(
            ("plan", [*TYPED, "calibration=here.json"])
            if source.startswith("Command('plan'")
            else ("report", TYPED)
        )
    ):
        return str(
            eval(
                source, {"Command": Command, "flag": flag, "shell": shell, "typed": typed, **known}
            )
        )


@pytest.mark.parametrize("source", those(PRINTED, RUN, STUB, LONG, COMPOSED))
def test_printed_commands_are_understood(source, capsys):
    command = example(source)
    found = [words(command, one) for one in SHELLS]
    assert len(found[0]) == 1 and all(one == found[0] for one in found)
    if source != "flag(None, '--help')":
        understood(found[0][0])


def test_the_hint_after_mining_names_its_data_set_and_leaves_the_others_alone(
    tmp_path, monkeypatch, capsys
):
    """As in the report: run literally it replaced the graph of another data set by one without
    neighbours.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ours, theirs = (
        Vocabulary(names, names, 2)
        for names in (("disc", "ring", "blue disc"), ("Dog", "Cat", "Festival"))
    )
    ours.save(tmp_path / "runs/miniature/shards")
    theirs.save(tmp_path / "runs/openimages/shards")
    assert main(["relations", "graph=none"]) == 0
    shutil.move("runs/miniature/relations/none", "runs/miniature/relations/llm")
    before = {
        path: path.read_bytes() for path in Path("runs/miniature").rglob("*") if path.is_file()
    }
    one = ("Dog", next(iter(TYPES)), "High")
    related = {"Dog": [], "Cat": [one], "Festival": [one]}
    with LlmServer(related) as server:
        assert (
            main(
                [
                    "relations",
                    "mine",
                    "data=openimages",
                    'data.root="/a raw folder"',
                    f"url={server.url}",
                    f"model={MODEL}",
                    "sources=[words]",
                    "price_input=0",
                    "price_output=0",
                    "backoff_s=0.01",
                ]
            )
            == 0
        )
    command = re.search(r"build the graph from it with `(.*)`", capsys.readouterr().out)[1]
    for one in SHELLS:
        done = paste(command, tmp_path, one)
        assert done.returncode == 0, done.stderr
    assert {
        path: path.read_bytes() for path in Path("runs/miniature").rglob("*") if path.is_file()
    } == before
    assert [
        path.parent.name for path in Path("runs/openimages/relations").glob("*/neighbours.npy")
    ] != []


def test_a_finished_verb_says_what_comes_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Vocabulary(("a", "b", "c"), ("a", "b", "c"), 2).save(tmp_path / "my shards")
    assert main(["relations", "graph=none", 'shards="my shards"', 'out="my graph"']) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "next: c2srt teacher graph=none 'shards=\"my shards\"' 'relations=\"my graph\"'"


@pytest.mark.parametrize(
    "verb, overrides, expected",
    [
        (
            "shard",
            ["data=openimages", "data.root=/raw", "out=/packed"],
            "text data=openimages data.root=/raw shards=/packed",
        ),
        ("shard", ["shards=/packed"], "text shards=/packed"),
        ("audit", [], "text"),
        ("text", ["out=/t"], "relations text=/t"),
        ("teacher", ["seed=3"], "train seed=3"),
        ("train", [], "evaluate"),
        ("train", ["out=/t", "seed=3"], "evaluate seed=3 checkpoint=/t/model out=/t/evaluation"),
        (
            "tune",
            [],
            "evaluate checkpoint=runs/miniature/tuned out=runs/miniature/tuned/evaluation",
        ),
        (
            "messages",
            ["out=/m"],
            "evaluate checkpoint=/m out=/m/evaluation",
        ),
        ("export", ["out=/m"], "evaluate checkpoint=/m out=/m/evaluation"),
        (
            "tables",
            ["data=openimages", "data.root=/raw", "out=/t", "seeds=3"],
            "figures data=openimages data.root=/raw tables_folder=/t",
        ),
        ("tables", ["part=1/2"], None),
        ("relations-report", [], "tables 'tables=[graphs]'"),
        (
            "plan",
            ["workers=8", "gpus=[1,8]", "cluster=cpu", "zero=2"],
            "train data=openimages workers=8 engine.zero=2",
        ),
        ("plan", ["json=true"], None),
        ("evaluate", ["checkpoint=clip"], None),
    ],
)
def test_the_road_goes_on_from_what_was_made(verb, overrides, expected):
    composed = compose_verb(verb, overrides)
    for key in OmegaConf.missing_keys(composed):
        OmegaConf.update(composed, key, "/given")
    config_of = config_class(verb)
    if "given" in {field.name for field in fields(config_of)}:
        OmegaConf.update(composed, "given", [], force_add=True)
    with running(verb, overrides):
        found = workflow.after(verb, compose.to_config(config_of, composed))
        assert (str(found) if found else None) == (f"c2srt {expected}" if expected else None)
    if expected:
        understood(words(f"c2srt {expected}", SHELLS[0])[0])


@pytest.mark.parametrize("verb", workflow.STARTING)
def test_what_is_loaded_is_said_at_once(verb):
    composed = compose_verb(verb, ["work=/w"])
    assert workflow.starting(verb, composed).startswith(f"c2srt {verb}: loading ")


def test_the_first_line_comes_before_the_imports(tmp_path, monkeypatch, capsys):
    def imports():
        said = capsys.readouterr().err
        raise UserError(f"said before: {said.strip()}")

    monkeypatch.setitem(VERBS, "predict", replace(VERBS["predict"], work=imports))
    assert main(["predict", f"checkpoint={tmp_path}/m", "images=[x.jpg]"]) == 2
    assert (
        f"said before: c2srt predict: loading the model of {tmp_path}/m …"
        in capsys.readouterr().err
    )


# Running
# --------------------------------------------------------------------------------------------------


def paste(
    command: str, folder: Path, one: str = "sh", **environment: str
) -> subprocess.CompletedProcess:
    """A command as a person pastes it, in a folder; `c2srt` is the one under test."""
    found = f'c2srt() {{ {shlex.quote(sys.executable)} -m c2srt.cluster.cli "$@"; }}; {command}'
    paths = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(printed.ROOT),
    }
    flags = ["-f"] if one.endswith("zsh") else []
    return subprocess.run(
        [one, *flags, "-c", found],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **paths, **environment},
    )


SMALL = """
import sys
from c2srt.cluster.cli import main
from c2srt.demo import pretrain
pretrain.IMAGES, pretrain.STEPS, pretrain.BATCH = 512, 10, 32
sys.exit(main(["demo", "images={train:120,validation:20,test:60}", "workers=1", \
'commands.train=["steps=2"]']))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder as after `c2srt demo`, small, with some pictures and arrays of a person's own."""
    folder = tmp_path_factory.mktemp("a world")
    made = subprocess.run(
        [sys.executable, "-c", SMALL],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(printed.ROOT)},
    )
    assert made.returncode == 0, made.stderr[-3000:]
    for name in ("dog.jpg", "photo.jpg", "photo (1).jpg", "holiday/beach.jpg", "photos/one.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.effect_noise((80, 60), 50).convert("RGB").save(folder / name)
    random = np.random.default_rng(0)
    (folder / "labels.txt").write_text("disc\nring\n", encoding="utf-8")
    np.save(folder / "S.npy", random.random((50, 60), np.float32))
    np.save(folder / "L.npy", random.integers(-1, 2, (50, 60)))
    np.save(folder / "M.npy", np.arange(60) < 30)
    return folder


FEW = {
    "train": " steps=2",
    "tune": " steps=2",
    "relations mine": " form=text",
    "plan calibrate=true": " turns=1",
    "tables 'tables": " 'commands.train=[\"steps=2\"]' 'commands.tune=[\"steps=2\"]'",
    "text 'templates": " out=runs/miniature/text-own",
    "train engine.zero": " out=runs/miniature/offload",
}
"""What makes a command small, or leaves alone what later ones read, by how it begins."""


def on_miniature(command: str, folder: Path) -> str:
    """The command with the paths, names and sizes of the small miniature."""
    image = next((folder / "runs/miniature/raw/images/test").glob("*.jpg")).stem
    for pattern, instead in (
        ("data=openimages", "data=miniature"),
        (r" data\.root=\S+", ""),
        ("runs/openimages", "runs/miniature"),
        (r" (resources\.)?gpus_per_worker=1", ""),
        (r" workers=\d+(?! engine\.precision)", " workers=1"),
        ("runs/x/train", "runs/miniature/full/seed-0"),
        ("checkpoint=…", f"checkpoint={FULL}"),
        (r"\[Vehicle\]", "[disc]"),
        (r"\[Dog,Festival\]", "[opera,yoga]"),
        (r'\[Dog,"Red car"\]', '[disc,"ring"]'),
        ("0a1b2c3d4e5f6071", image),
        (r"(targets=\S+) …", r"\1 price_input=0 price_output=0"),
        (" …", ""),
    ):
        command = re.sub(pattern, instead, command)
    return command + next(
        (
            more
            for start, more in sorted(FEW.items(), reverse=True)
            if command.startswith(f"c2srt {start}") and "--help" not in command
        ),
        "",
    )


def ran(command: str, folder: Path, **environment: str) -> None:
    done = paste(
        command, folder, next((one for one in SHELLS if one.endswith("zsh")), "sh"), **environment
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    for following in re.findall(r"^next: (.*)$", done.stdout, re.M):
        understood(words(following, "sh")[0])


@pytest.fixture(scope="module")
def model_server(world):
    """The environment in which a stub answers from the miniature's own relations."""
    vocabulary = load_vocabulary(world / "runs/miniature/shards")
    related = relations_by_label(
        read_answers(world / "runs/miniature/raw/relations.jsonl"),
        vocabulary,
        make_labels(vocabulary),
    )
    with LlmServer(related) as server:
        yield {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY, "OPENAI_MODEL": MODEL}


def by_hand(rows: list[str], in_ci: int) -> list:
    """The first ones run in CI, all of them by hand: together they take most of an hour on two
    cores.
    """
    return [
        pytest.param(row, marks=pytest.mark.slow if number < in_ci else pytest.mark.long)
        for number, row in enumerate(rows)
    ]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", by_hand(those(DOCUMENTED, RUN, STUB), 8))
def test_documented_commands_run(world, request, command):
    environment = request.getfixturevalue("model_server") if DOCUMENTED[command][0] == STUB else {}
    ran(on_miniature(command, world), world, **environment)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("source", by_hand(those(PRINTED, RUN, STUB), 0))
def test_printed_commands_run(world, request, source):
    environment = request.getfixturevalue("model_server") if PRINTED[source][0] == STUB else {}
    more = (
        " price_input=0 price_output=0 form=text"
        if "relations-mine'" in source and "flag" not in source
        else ""
    )
    ran(example(source) + more, world, **environment)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", those(DOCUMENTED, LONG))
def test_documented_commands_that_take_long_run(world, command):
    if command == "c2srt demo":
        world = world / "demo"
        world.mkdir()
        ran(command, world)
    else:
        ran(on_miniature(command, world), world)
