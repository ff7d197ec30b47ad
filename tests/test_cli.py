"""The command line: help, printed configuration, one clear sentence and an exit code for bad
input.
"""

import subprocess
import sys
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.resources import files
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml
from omegaconf import OmegaConf

from c2srt.cluster.cli import VERBS, main
from c2srt.compose import leaves, to_config
from c2srt.errors import UserError
from tests.verbs import compose_verb, config_class

WRITTEN = [verb for verb in VERBS if files("c2srt.configs").joinpath(f"{verb}.yaml").is_file()]


@dataclass
class NeedsRoot:
    data: dict[str, Any] = field(default_factory=dict)
    graph: str = ""
    neighbours: int = 0
    relations_file: str | None = None
    root: str | None = None
    out: str = ""


def refused(capsys, *arguments: str) -> str:
    """The one line that a bad command prints on stderr, after checking that it exits with 2 and
    prints nothing else.
    """
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith(f"c2srt {arguments[0]}: ")
    return printed.err


def test_overview_names_every_verb(capsys):
    assert main(["--help"]) == 0
    assert set(VERBS) <= set(capsys.readouterr().out.split())
    assert main([]) == 2


@pytest.mark.parametrize("verb", WRITTEN)
def test_help_explains_every_key_of_the_verb(capsys, verb):
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    composed, lines = compose_verb(verb, []), text.splitlines()
    assert all(
        each.metadata["about"] for each in fields(config_class(verb)) if each.name != "given"
    )
    for key in {each.name for each in fields(config_class(verb))} & set(composed):
        assert any(line.startswith((f"{key}:", f"# {key} ")) for line in lines), key
    assert "seed:" in text and text.startswith(f"c2srt {verb}: ")


@pytest.mark.parametrize("verb", WRITTEN)
def test_help_fits_a_hundred_columns(capsys, verb):
    assert main([verb, "--help"]) == 0 and main(["--help"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 100] == []


@pytest.mark.parametrize("verb", WRITTEN)
def test_printed_configuration_is_the_resolved_one(capsys, verb):
    assert main([verb, "--cfg", "job", "work=/w", "seed=3"]) == 0
    printed = capsys.readouterr().out
    assert "${" not in printed
    config = yaml.safe_load(printed)
    assert (config["shards"], config["relations"], config["seed"]) == (
        "/w/shards",
        "/w/relations/llm",
        3,
    )


@pytest.mark.parametrize("verb", WRITTEN)
def test_defaults_of_the_yaml_fit_the_verb_s_dataclass(verb):
    composed = compose_verb(verb, [])
    for key in OmegaConf.missing_keys(composed):
        OmegaConf.update(composed, key, "/given")
    to_config(config_class(verb), composed)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["txet"], "there is no verb 'txet', did you mean 'text'?"),
        (["text", "batsh=3"], "unknown key 'batsh', did you mean 'batch'?"),
        (["text", "clip.nam=x"], "unknown key 'clip.nam', did you mean 'clip.name'?"),
        (["text", "+foo=1"], "unknown key 'foo'"),
        (["text", "+clip.foo=1"], "foo"),
        (["text", "batch=abc"], "batch: Value 'abc'"),
        (["text", "batch=0"], "at least 1"),
        (
            ["text", "data=opnimages"],
            "data=opnimages does not exist: choose one of coco, csv, miniature, nuswide",
        ),
        (["text", "out=${nope}"], "'nope' not found"),
        (["text", "a=b=c"], "'a=b=c' is not a valid override"),
        (["text", "foo"], "'foo' is not an override"),
        (["text", "--verbose"], "'--verbose' is not an override"),
        (["text", "--batch", "0"], "at least 1"),
        (["text", "--bat-ch", "3", "out=x"], "unknown key 'bat_ch', did you mean 'batch'?"),
        (["text", "templates=[a photo]"], "must contain {} exactly once"),
        (["text", "templates=tuned"], "choose one of simple, ensemble"),
        (
            ["relations", "graph=foo"],
            "choose one of llm, mined, similarity, cooccurrence, random, none",
        ),
        (
            ["relations", "work=/nowhere"],
            (
                "/nowhere/shards/vocabulary.json does not exist: make it with `c2srt shard"
                " work=/nowhere`"
            ),
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(capsys, arguments, sentence):
    assert sentence in refused(capsys, *arguments)


def test_a_missing_required_key_is_named():
    with pytest.raises(UserError, match=r"data\.root=… is needed"):
        to_config(NeedsRoot, compose_verb("relations", ["data=openimages"]))
    config = to_config(NeedsRoot, compose_verb("relations", ["data=openimages", "data.root=/x"]))
    assert config.data["root"] == "/x"


@pytest.mark.parametrize(
    "typed",
    [
        "2024_11_28",
        "93e4512",
        "1e5",
        "1_1_1",
        "007",
        "+5",
        ".5",
        "1.50",
        "0x10",
        "True",
        "false",
        "Inf",
        "1984",
        "1.5",
        "nan",
        "yes",
        "a=b",
        "photo (1).jpg",
        "it's",
        "a,b",
        "a: b",
        "[1",
        "50%",
        "a\\b",
        "ünï",
        "~x",
    ],
)
def test_text_is_what_was_typed(typed):
    """Whatever Hydra's grammar would make of it: as one value, in a list, and in a nested key
    without a default.
    """
    from c2srt.train.config import Config

    if typed != "[1":  # the start of a list
        config = to_config(
            Config,
            compose_verb("train", [f"out={typed}", f"tracking.name={typed}", f"data.root={typed}"]),
        )
        assert (config.out, config.tracking.name) == (typed, typed)
    if "," not in typed and typed != "[1":
        assert words(f"[dog,{typed}]") == ["dog", typed] and words(f"[ {typed} , 'red, car']") == [
            typed,
            "red, car",
        ]


@pytest.mark.parametrize("verb", WRITTEN)
def test_every_key_of_text_keeps_what_was_typed(verb):
    """By the annotations of the verb's dataclasses: text and lists of text, nested ones too."""

    def text_keys(cls: type, prefix: str = "") -> dict[str, bool]:
        found = {}
        for name, kind in get_type_hints(cls).items():
            origins = [get_origin(part) for part in (kind, *get_args(kind))]
            if is_dataclass(kind):
                found |= text_keys(kind, f"{prefix}{name}.")
            elif str in (kind, *get_args(kind)) and dict not in origins:
                found[f"{prefix}{name}"] = list in origins
        return found

    known = leaves(compose_verb(verb, []))
    keys = {key: several for key, several in text_keys(config_class(verb)).items() if key in known}
    assert keys
    typed = leaves(
        compose_verb(
            verb,
            [f"{key}={'[007,null]' if several else '93e4512'}" for key, several in keys.items()],
        )
    )
    assert {key: typed[key] for key in keys} == {
        key: ["007", "null"] if several else "93e4512" for key, several in keys.items()
    }


def test_pairs_in_braces():
    from c2srt.train.config import Config

    typed = [
        "tracking={name: 1e5, parent: null, model: false}",
        "model={max_patches: 1_0}",
        "views={count: 2}",
    ]
    config = to_config(Config, compose_verb("train", typed))
    assert (
        config.tracking.name,
        config.tracking.parent,
        config.tracking.model,
        config.model.max_patches,
    ) == ("1e5", None, False, 10)
    quoted = to_config(Config, compose_verb("train", ["tracking={name: 'a, b', parent: x}"]))
    assert (quoted.tracking.name, quoted.tracking.parent) == ("a, b", "x")


def words(typed: str) -> list[str] | None:
    """What `c2srt relations mine targets=…` is given."""
    from c2srt.relations.mine import Config

    return to_config(Config, compose_verb("relations-mine", [f"targets={typed}"])).targets


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("[yes,no,null,1e5,0x10]", ["yes", "no", "null", "1e5", "0x10"]),
        ("[1984,747]", ["1984", "747"]),
        ("[]", []),
        ("null", None),
        ("dog,cat", ["dog", "cat"]),
        ("dog", ["dog"]),
        ("[ \"red car\" , don't,a (b), c [d], 'e']", ["red car", "don't", "a (b)", "c [d]", "e"]),
        ("[${graph},x]", ["${graph}", "x"]),
        (r"[a\,b]", ["a,b"]),
        (r"['it\'s']", ["it's"]),
        ("['${oc.env:HOME}']", ["${oc.env:HOME}"]),
        ("[a ${oc.env:HOME}]", ["a ${oc.env:HOME}"]),
        (r"['\${graph}', \${graph}]", ["${graph}", "${graph}"]),
    ],
)
def test_lists_of_text(typed, found):
    assert words(typed) == found


@pytest.mark.parametrize(
    "typed",
    [
        "targets=${oc.env:HOME}",
        "out=${oc.env:HOME}/x",
        "size=${oc.env:HOME}",
        "targets={a: '${oc.env:HOME}'}",
    ],
)
def test_nothing_but_keys_is_looked_up(capsys, monkeypatch, typed):
    monkeypatch.setenv("HOME", "/secret")
    message = refused(capsys, "relations-mine", typed)
    assert "is not looked up here" in message and "/secret" not in message


@pytest.mark.parametrize("broken", ["[dog,cat", "[a,,b]", "[a,]b]", "'dog", "[a,'b]"])
def test_a_broken_list_is_refused_not_ranked(capsys, broken):
    assert "is not a valid override" in refused(capsys, "relations-mine", f"targets={broken}")


def test_numbers_switches_groups_and_interpolations_are_no_text():
    from c2srt.train.config import Config

    config = to_config(
        Config,
        compose_verb(
            "train",
            [
                "lr=1e-3",
                "warmup=.1",
                "steps=1_0",
                "offload=True",
                "zero=1",
                "data=nuswide",
                "data.root=1_0",
                "model=mkt",
                "work=w",
                "out=${work}/1_0",
                "min_workers=null",
            ],
        ),
    )
    assert (config.optimizer.lr, config.schedule.warmup, config.schedule.steps) == (1e-3, 0.1, 10)
    assert (config.engine.offload, config.faults.min_workers) == (True, None)
    assert (config.out, config.model.kind) == ("w/1_0", "mkt")
    assert list(compose_verb("evaluate", ["topk=3,10"]).topk) == [3, 10]


def test_data_sets_change_the_defaults():
    miniature, openimages = (
        compose_verb("relations", [f"data={name}"]) for name in ("miniature", "openimages")
    )
    assert miniature.shards == "runs/miniature/shards" and miniature.root == "runs/miniature/raw"
    assert openimages.shards == "runs/openimages/shards" and openimages.root is None
    assert (list(miniature.topk), list(openimages.topk)) == ([3, 10], [10, 20])


def test_the_installed_command_exits_with_the_status(tmp_path):
    command = [
        sys.executable,
        "-c",
        "import sys; from c2srt.cluster.cli import main; sys.exit(main())",
    ]
    good = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=tmp_path)
    bad = subprocess.run(
        [*command, "relations", "graf=llm"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (good.returncode, bad.returncode) == (0, 2)
    assert "Traceback" not in bad.stderr and "did you mean 'graph'?" in bad.stderr


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    import c2srt.relations.build

    monkeypatch.setattr(c2srt.relations.build, "load_vocabulary", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["relations", f"work={tmp_path}"])
