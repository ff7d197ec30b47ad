"""`c2srt <verb> [key=value …]`: composes a verb's YAML, makes its dataclass of it, runs it.

This is the only file that imports hydra or omegaconf. A verb is a module with a `Config` dataclass
and `run(config)`; it is named here as a string and imported when called, so that `c2srt --help` is
instant and this package does not import `cluster`.
"""

import difflib
import importlib
import sys
from dataclasses import fields
from importlib.resources import files
from itertools import takewhile
from typing import Any, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from c2srt import hints, road
from c2srt.errors import UserError
from c2srt.interrupts import ended_by, heard
from c2srt.overrides import NO_TEXT, keep_text, resolver_in, split_key, uninterpolated
from c2srt.shown import shown
from c2srt.surroundings import (
    check_surroundings,
    flush_stdout,
    full_place,
    give_up,
    say,
    show_everything,
)

VERBS = {
    "demo": ("c2srt.demo.run", "draw the miniature and run the whole road on it, no downloads"),
    "shard": (
        "cluster.shard",
        "raw images + label CSVs → webdataset tar shards, index, vocabulary",
    ),
    "audit": ("cluster.audit", "re-read shards against the CSVs and name every disagreement"),
    "text": ("c2srt.text", "text features of every category from the frozen text tower"),
    "relations": ("c2srt.relations.build", "the neighbour table of the relation graph"),
    "relations-mine": (
        "c2srt.relations.mine",
        "ask a language model for the relations between categories",
    ),
    "relations-report": (
        "c2srt.relations.report",
        "compare relation graphs, draw them, look categories up",
    ),
    "teacher": (
        "cluster.teacher",
        "cache the frozen CLIP's global feature of every image and view",
    ),
    "plan": (
        "c2srt.plan.run",
        "memory, time, disk and network of a training before anyone pays for it",
    ),
    "train": ("cluster.train", "train the student with DeepSpeed under Ray"),
    "tune": (
        "c2srt.tune",
        "prompt tuning: learn the template of a trained model (MKT's second stage)",
    ),
    "evaluate": ("cluster.evaluate", "ZSL and GZSL mAP and F1@K, from a checkpoint or from arrays"),
    "tables": (
        "c2srt.tables.run",
        "the paper's tables and sweeps: train and evaluate what is missing, collect",
    ),
    "figures": (
        "c2srt.figures.run",
        "the paper's figures as PNG and PDF, from models, shards and tables",
    ),
    "predict": ("c2srt.predict", "rank your own words for your own photos"),
    "bench": (
        "c2srt.bench.run",
        "time and memory of the head and its parts against their literal forms",
    ),
    "check": (
        "c2srt.check.run",
        "what this machine's GPU shows: kernels against literal forms, times, memory",
    ),
    "export": ("cluster.export", "one plain safetensors + config from a training checkpoint"),
}
NETWORKS = dict.fromkeys(("train", "plan"), ("hydra.searchpath=[pkg://configs.networks]",))
"""Verbs in which model=… chooses one of configs/networks/model; elsewhere a key may be called so
(relations-mine has one).
"""
WORDS = {"bench": ("what",), "check": ("what", "length")}
"""Verbs whose first keys may be given as bare words."""
PASSED_ON = ("data", "clip", "views", "work", "shards", "workers", "topk")
"""Keys that a verb which runs others (its Config has `given`) passes on as they were typed."""
USAGE = "usage: c2srt <verb> [key=value …] [--help | --cfg job]"
BAD_INPUT, BROKEN_PIPE = 2, 141


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0 done, 2 bad input or a full disk with one sentence
    on stderr, 130 or 143 ended by Ctrl-C or SIGTERM (75 for a training)."""
    show_everything()
    arguments = joined(sys.argv[1:] if arguments is None else arguments)
    try:
        status = told(arguments)
        flush_stdout()
        return status
    except BrokenPipeError:  # `c2srt … | head` closed the pipe: what is left to flush has no reader
        give_up(sys.stdout)
        return BROKEN_PIPE
    except OSError as error:
        if not (place := full_place(error)):
            raise
        complain(
            arguments,
            f"{place} cannot be written ({error.strerror}): free some space and run "
            "the same command again",
        )
        return BAD_INPUT


def told(arguments: list[str]) -> int:
    """Runs one verb, and says in a sentence what was wrong with the input, or that it was
    interrupted.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else BAD_INPUT
    try:
        with heard(arguments[0]):
            return run_verb(arguments[0], arguments[1:])
    except UserError as error:
        complain(arguments, str(error))
        return BAD_INPUT
    except KeyboardInterrupt as error:
        return ended_by(arguments[0], error)


def complain(arguments: list[str], sentence: str) -> None:
    """What was wrong, on a line of its own."""
    say(" ".join(["c2srt", *arguments[:1]]) + f": {sentence}")


def joined(arguments: list[str]) -> list[str]:
    """`relations mine …` as the verb `relations-mine`; `relations build …` is `relations …`; `bench
    head` is `bench what=head`, and `check gpu full` is `check what=gpu length=full`.
    """
    if arguments and arguments[0] in WORDS:
        words = list(
            takewhile(
                lambda word: "=" not in word and not word.startswith(("-", "~")), arguments[1:]
            )
        )
        named = [f"{key}={word}" for key, word in zip(WORDS[arguments[0]], words, strict=False)]
        return [arguments[0], *named, *arguments[1 + len(named) :]]
    if arguments[1:2] == ["build"] and arguments[0] == "relations":
        return [arguments[0], *arguments[2:]]
    if "-".join(arguments[:2]) in VERBS and len(arguments) > 1:
        return ["-".join(arguments[:2]), *arguments[2:]]
    return arguments


def run_verb(verb: str, arguments: list[str]) -> int:
    """Composes and runs one verb; a non-zero int that the verb returns becomes the exit status.
    Raises UserError.
    """
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, 1)
        raise UserError(
            f"there is no verb {verb!r}{f', did you mean {close[0]!r}?' if close else ''} (see"
            f" `{hints.flag(None, '--help')}`)"
        )
    check_surroundings()
    if "--help" in arguments or "-h" in arguments:
        print(help_of(verb))
        return 0
    overrides, print_only = split_flags(arguments)
    composed = compose_verb(verb, overrides)
    if print_only:
        print(OmegaConf.to_yaml(composed, resolve=True), end="")
        return 0
    called = not hints.RUNNING  # by a person, not by another verb
    with hints.running(verb, overrides):
        if called and (line := road.starting(verb, composed)):
            print(line, file=sys.stderr, flush=True)
        module = importlib.import_module(VERBS[verb][0])
        if "given" in {field.name for field in fields(module.Config)}:
            OmegaConf.update(
                composed,
                "given",
                [override for override in overrides if is_shared(override)],
                force_add=True,
            )
        config = to_config(module.Config, composed)
        status = module.run(config) or 0
        if called and not status and (following := road.after(verb, config)):
            print(f"next: {following}")
    return status


def is_shared(override: str) -> bool:
    """Whether an override means the same in every verb, so that a verb which runs others passes it
    on.
    """
    return override.split("=")[0].split(".")[0] in PASSED_ON


def split_flags(arguments: list[str]) -> tuple[list[str], bool]:
    """Separates `--cfg job` from the overrides; `--some-key value` and `--some-key=value` are
    `some_key=value`.

    Raises UserError on any other flag.
    """
    overrides = [
        argument for argument in arguments if not argument.startswith("--cfg") and argument != "job"
    ]
    print_only = len(overrides) != len(arguments)
    for position in range(len(overrides) - 1, -1, -1):
        key, equals, _ = overrides[position].partition("=")
        value = overrides[position + 1 : position + 2]
        if key.startswith("--") and equals:
            overrides[position] = key[2:].replace("-", "_") + overrides[position][len(key) :]
        elif key.startswith("--") and value and not value[0].startswith("--"):
            overrides[position : position + 2] = [f"{key[2:].replace('-', '_')}={value[0]}"]
    for argument in overrides:
        if "=" not in argument and not argument.startswith("~"):
            raise UserError(
                f"{argument!r} is not an override: write key=value (see"
                f" `{hints.flag(None, '--help')}`)"
            )
    return overrides, print_only


def compose_verb(verb: str, overrides: list[str]) -> DictConfig:
    """The verb's resolved configuration. Raises UserError on an unknown key, group choice or bad
    value.

    Text is what was typed (c2srt/overrides.py).
    """
    GlobalHydra.instance().clear()
    with initialize_config_module("configs", version_base="1.3"):
        try:
            defaults = leaves(defaults_of(verb, overrides))
            typed = [
                keep_text(override, lambda key: defaults.get(key, NO_TEXT))
                for override in overrides
            ]
            refuse_resolvers(typed)
            composed = compose(verb, [*NETWORKS.get(verb, ()), *typed])
            composed = OmegaConf.create(literal(OmegaConf.to_container(composed, resolve=True)))
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(readable(error, verb)) from error
    return composed


def refuse_resolvers(typed: list[str]) -> None:
    """Raises UserError on `${oc.env:…}` and the like: a key may name another key, and nothing else
    is looked up for it.
    """
    for override in typed:
        if found := resolver_in(override):
            raise UserError(
                f"{split_key(override)[0]}: {shown(found)} is not looked up here: let the shell put"
                f" the value in, or write '{shown(found).replace('$', chr(92) + '$', 1)}' for the"
                " text itself"
            )


def defaults_of(verb: str, overrides: list[str]) -> DictConfig:
    """What the verb's keys hold, unresolved, when only the groups (data=…, model=…) are chosen as
    in `overrides`.
    """
    plain = compose(verb, list(NETWORKS.get(verb, ())))
    keys = leaves(plain)
    typed = {override: split_key(override) for override in overrides}
    groups = [
        override
        for override, (key, value) in typed.items()
        if key and "." not in key and key not in keys and not value.startswith("{")
    ]
    return compose(verb, [*NETWORKS.get(verb, ()), *groups]) if groups else plain


def readable(error: Exception, verb: str) -> str:
    """Hydra's message as one sentence, with the nearest known key when a key is unknown."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice} does not exist: choose one of {', '.join(sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} is not a valid override: write key=value, with odd values quoted"
            " twice, 'key=\"a value\"'"
        )
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    first = str(cause).strip().splitlines()[0].rstrip(".")
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    if "is not in struct" in first and key is not None:
        close = difflib.get_close_matches(
            str(key), leaves(compose(verb, list(NETWORKS.get(verb, ())))), 1, 0.5
        )
        return (
            f"unknown key {str(key)!r}{f', did you mean {close[0]!r}?' if close else ''}"
            f" (`{hints.flag(verb, '--cfg job')}` prints all)"
        )
    return f"{first} (`{hints.flag(verb, '--cfg job')}` prints the defaults)"


def leaves(config: DictConfig, prefix: str = "") -> dict[str, object]:
    """Every key of a nested configuration as `a.b.c`, with its unresolved value (a list is one
    value).
    """
    found = {}
    for key in config:
        node = config._get_node(key)
        if isinstance(node, DictConfig):
            found |= leaves(node, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = (
                OmegaConf.to_container(node) if isinstance(node, ListConfig) else node._value()
            )
    return found


def to_config(cls: type, composed: DictConfig) -> object:
    """Fills the verb's dataclass; types are checked and unknown nested keys refused. Raises
    UserError.

    Shared keys of configs/base.yaml that the verb does not use are dropped; any other extra key is
    an error.
    """
    names = {field.name for field in fields(cls)}
    shared = set(
        OmegaConf.create(files("configs").joinpath("base.yaml").read_text(encoding="utf-8"))
    ) | {"data", "clip", "topk"}
    if unknown := set(composed) - names - shared:
        raise UserError(f"unknown key {sorted(unknown)[0]!r}: {cls.__module__} has no such field")
    try:
        values = {name: composed[name] for name in names if name in composed}
        values = {
            name: (
                OmegaConf.to_container(value)
                if isinstance(value, (DictConfig, ListConfig))
                else literal(value)
            )
            for name, value in values.items()
        }
        return OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(cls), as_annotated(cls, values))
        )
    except MissingMandatoryValue as error:
        raise UserError(
            f"{missing_key(composed)}=… is needed: give it on the command line"
        ) from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise UserError(
            f"{key + ': ' if key else ''}{str(error).strip().splitlines()[0]}"
        ) from error


def literal(value: object) -> object:
    """A resolved value as OmegaConf must be given it again: `${` that are left are text."""
    if isinstance(value, dict):
        return {key: literal(below) for key, below in value.items()}
    if isinstance(value, list):
        return [literal(below) for below in value]
    return uninterpolated(value, always=True) if isinstance(value, str) and "${" in value else value


def as_annotated(cls: type, values: dict[str, object]) -> dict[str, object]:
    """The values for a dataclass, where an annotation tells more than OmegaConf uses of it: `a,b`
    for a list is [a, b], and what is text or a list of text (Any, None by default) has no numbers.
    """
    kinds, found = get_type_hints(cls), dict(values)
    for key in fields(cls):
        value, kind = found.get(key.name), kinds[key.name]
        if list in (get_origin(part) for part in (kind, *get_args(kind))) and isinstance(
            value, str
        ):
            found[key.name] = [part.strip() for part in value.split(",") if part.strip()]
        elif kind is Any and key.default is None:
            found[key.name] = only_text(value)
    return found


def only_text(value: object) -> object:
    """Numbers as text, in lists too."""
    if isinstance(value, (list, ListConfig)):
        return [only_text(part) for part in value]
    return str(value) if isinstance(value, (int, float)) else value


def missing_key(composed: DictConfig) -> str:
    """The first key that has no value yet (`???` in the YAML)."""
    return next(iter(sorted(OmegaConf.missing_keys(composed))), "a key")


def overview() -> str:
    lines = [f"  {verb:<16} {line}" for verb, (_, line) in VERBS.items()]
    return "\n".join(
        [
            USAGE,
            "",
            *lines,
            "",
            "`c2srt <verb> --help` explains a verb's keys; run a command again to resume it.",
        ]
    )


def help_of(verb: str) -> str:
    """The verb's commented YAML, then the shared keys: the configuration files are the manual."""
    folder = files("configs")
    own, base = (
        folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8") for name in (verb, "base")
    )
    return f"c2srt {verb}: {VERBS[verb][1]}\n{USAGE}\n\n{own}\n# Shared by all verbs:\n{base}"


if __name__ == "__main__":
    sys.exit(main())
