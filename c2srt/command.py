"""`c2srt <verb> [key=value …]`: composes a verb's YAML, makes its dataclass of it, runs it.

Which verbs there are it is told (cluster/cli.py).
"""

import difflib
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from itertools import takewhile
from typing import TypeAlias

from c2srt import extras, hints, progress
from c2srt.console import QUIET, show_log
from c2srt.errors import UserError
from c2srt.interrupts import ended_by, handling_signals
from c2srt.jobs import Jobs
from c2srt.lazily import uncollected
from c2srt.node_folder import compile_on_node
from c2srt.overrides import as_list
from c2srt.surroundings import (
    check_surroundings,
    flush_stdout,
    full_place,
    give_up,
    say,
    show_everything,
)
from c2srt.verb import Verb
from c2srt.version import VERSION

log = logging.getLogger(__name__)
Verbs: TypeAlias = Mapping[str, Verb]
"""The verbs by their names."""
PASSED_ON = ("data", "clip", "views", "work", "shards", "workers", "topk")
"""Keys that a verb which runs others (its Config has `given`) passes on as they were typed."""
USAGE = "usage: c2srt <verb> [key=value …] [--help | --cfg job]"
BAD_INPUT, BROKEN_PIPE = 2, 141


def main(verbs: Verbs, arguments: list[str]) -> int:
    """Runs one of the verbs; returns the exit status: 0 done, 2 bad input or a full disk with one
    sentence on stderr, 130 or 143 ended by Ctrl-C or SIGTERM (75 for a training).
    """
    show_everything()
    show_log(logging.WARNING if {*QUIET} & {*arguments} else logging.INFO)
    arguments = joined(verbs, [argument for argument in arguments if argument not in QUIET])
    try:
        status = told(verbs, arguments)
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


def told(verbs: Verbs, arguments: list[str]) -> int:
    """Runs one verb, and says in a sentence what was wrong with the input, or that it was
    interrupted.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(verbs))
        return 0 if arguments else BAD_INPUT
    if arguments == ["--version"]:
        print(f"c2srt {VERSION}")
        return 0
    saves = arguments[0] in verbs and verbs[arguments[0]].saves
    try:
        with handling_signals(arguments[0], saves):
            return run_verb(verbs, arguments[0], arguments[1:])
    except UserError as error:
        complain(arguments, str(error))
        return BAD_INPUT
    except ModuleNotFoundError as error:
        if not (sentence := extras.missing(error)):
            raise
        complain(arguments, sentence)
        return BAD_INPUT
    except KeyboardInterrupt as error:
        return ended_by(arguments[0], saves, error)


def complain(arguments: list[str], sentence: str) -> None:
    """What was wrong, on a line of its own."""
    say(" ".join(["c2srt", *arguments[:1]]) + f": {sentence}")


def joined(verbs: Verbs, arguments: list[str]) -> list[str]:
    """`relations mine …` as the verb `relations-mine`; `relations build …` is `relations …`; `bench
    head` is `bench what=head`, and `check gpu full` is `check what=gpu length=full`.
    """
    verb = verbs.get(arguments[0]) if arguments else None
    if verb and verb.may_follow and arguments[1:2] == [verb.may_follow]:
        return [arguments[0], *arguments[2:]]
    if verb and verb.words:
        words = list(
            takewhile(
                lambda word: "=" not in word and not word.startswith(("-", "~")), arguments[1:]
            )
        )
        named = [f"{key}={word}" for key, word in zip(verb.words, words, strict=False)]
        return [arguments[0], *named, *arguments[1 + len(named) :]]
    if "-".join(arguments[:2]) in verbs and len(arguments) > 1:
        return ["-".join(arguments[:2]), *arguments[2:]]
    return arguments


def run_verb(verbs: Verbs, name: str, arguments: list[str]) -> int:
    """Composes and runs one verb; a non-zero int that the verb returns becomes the exit status.
    Raises UserError.
    """
    if name not in verbs:
        close = difflib.get_close_matches(name, verbs, 1)
        raise UserError(
            f"there is no verb {name!r}{f', did you mean {close[0]!r}?' if close else ''} (see"
            f" `{hints.flag(None, '--help')}`)"
        )
    check_surroundings()
    verb = verbs[name]
    if "--help" in arguments or "-h" in arguments:
        print(help_of(verb, [each for each in arguments if "=" in each]))
        return 0
    # Hydra and numpy take most of a second, which `c2srt --help` need not pay.
    with uncollected():
        from c2srt import compose, workflow

    overrides, print_only = split_flags(arguments)
    composed = compose.compose_verb(verb, overrides)
    if print_only:
        print(compose.as_yaml(composed), end="")
        return 0
    called = not hints.RUNNING  # by a person, not by another verb
    compile_on_node()
    with hints.running(name, overrides):
        if called and (line := workflow.starting(name, composed)):
            progress.log.info(line)
        keys = verb.keys()
        if "given" in {field.name for field in fields(keys)}:
            composed["given"] = [override for override in overrides if is_shared(override)]
        compose.bring_here(verb, composed)
        config = compose.to_config(keys, composed)
        status = verb.work()(config, *([jobs(verbs)] if verb.takes_jobs else [])) or 0
        if called and not status and (following := workflow.after(name, config)):
            log.info(f"next: {following}")
    return status


def jobs(verbs: Verbs) -> Jobs:
    """The verbs of an experiment as functions that take what would be typed behind them."""
    return Jobs(**{field.name: partial(run_verb, verbs, field.name) for field in fields(Jobs)})


def is_shared(override: str) -> bool:
    """Whether an override means the same in every verb, so that a verb which runs others passes it
    on.
    """
    return override.split("=")[0].split(".")[0] in PASSED_ON


def split_flags(arguments: list[str]) -> tuple[list[str], bool]:
    """Separates `--cfg job` from the overrides; `--some-key value` and `--some-key=value` are
    `some_key=value`, and `--images a.jpg b.jpg`, as a shell's *.jpg becomes, a list.

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
            more = list(takewhile(os.path.lexists, overrides[position + 2 :]))
            given = as_list([*value, *more]) if more else value[0]
            overrides[position : position + 2 + len(more)] = [
                f"{key[2:].replace('-', '_')}={given}"
            ]
    for argument in overrides:
        if "=" not in argument and not argument.startswith("~"):
            raise UserError(
                f"{argument!r} is not an override: write key=value (see"
                f" `{hints.flag(None, '--help')}`)"
            )
    return overrides, print_only


def overview(verbs: Verbs) -> str:
    lines = [f"  {name:<16} {verb.about}" for name, verb in verbs.items()]
    return "\n".join(
        [
            USAGE,
            "",
            *lines,
            "",
            "`c2srt <verb> --help` explains a verb's keys; run a command again to resume it.",
            "`--quiet` (`-q`) leaves its results and warnings.",
        ]
    )


def help_of(verb: Verb, typed: list[str]) -> str:
    """What the verb does, how it is called, and its keys with their defaults (c2srt/manual.py),
    those of the data set that is `typed`.
    """
    from c2srt import compose, manual

    about = manual.manual(verb.name, verb.keys(), compose.plain_defaults(verb, typed))
    return f"c2srt {verb.name}: {verb.about}\n{USAGE}\n\n{about}"
