"""Commands that we print, complete: pasted into sh, bash or zsh they do what the sentence around
them says.

A verb that runs is entered with `running`; a `Command` is a further one, and gets what was typed
for keys that mean the same in every verb (data=, data.root=, work=, …), or, for the same verb, all
that was typed. It is put together when it is shown, so that it can be a constant.
`tests/test_commands.py` runs them.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from c2srt.console import show_log, shown_from
from c2srt.old_names import as_today

CARRIED = (
    "data",
    "clip",
    "views",
    "topk",
    "seed",
    "workers",
    "work",
    "shards",
    "text",
    "relations",
    "graph",
    "teacher",
)
"""The keys of c2srt/shared_keys.py and of configs/datasets, which every verb takes."""
LARGE = "openimages"
"""What `plan` is about where no data=… is typed; in every other verb that is the miniature."""
PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./:@%+-]*")
WORDS = ("null", "true", "false", "nan", "inf")
"""Text that Hydra would read as something else."""

RUNNING: list[tuple[str, tuple[str, ...]]] = []
"""The verb that was called and what was typed, then the one that it runs, …"""


@contextmanager
def running(verb: str, overrides: list[str] | tuple[str, ...] = ()) -> Iterator[None]:
    """Meanwhile `verb` runs with these overrides."""
    RUNNING.append((verb, tuple(as_today(verb, overrides))))
    try:
        yield
    finally:
        RUNNING.pop()


def as_here(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function for another process, where it prints commands and shows its log as here."""
    verb, overrides = RUNNING[-1] if RUNNING else ("", ())
    level = shown_from()

    def within(item: Any) -> Any:
        if level is not None:
            show_log(level)
        with running(verb, overrides):
            return function(item)

    return within


class Command:
    """`c2srt <verb> …`: what was typed here, as far as it belongs there, and `overrides`; `values`
    are overrides by key, quoted.

    An override or value takes the place of what was typed for the same key; None as a value takes
    that away.
    """

    def __init__(
        self, verb: str, *overrides: str, values: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        self.verb, self.values = verb, {**(values or {}), **more}
        self.overrides = [
            *overrides,
            *(override(key, value) for key, value in self.values.items() if value is not None),
        ]

    def __str__(self) -> str:
        return typed(self.verb, [*self.carried(), *self.overrides])

    def carried(self) -> list[str]:
        """What was typed for the verb that runs, as far as it belongs here."""
        here, overrides = RUNNING[-1] if RUNNING else (self.verb, ())
        taken = {*self.values, *map(key_of, self.overrides)}
        given = [
            one
            for one in overrides
            if key_of(one) not in taken and (here == self.verb or is_shared(one))
        ]
        if here == "plan" != self.verb and not any(
            key_of(one) == "data" for one in [*given, *self.overrides]
        ):
            given.insert(0, f"data={LARGE}")
        return given


def typed(verb: str, overrides: list[str]) -> str:
    """The line that a person types: `relations-mine` is `relations mine`, and whatever a shell
    would take for its own is quoted.
    """
    return " ".join(["c2srt", verb.replace("-", " "), *map(shlex.quote, overrides)])


def shell(*words: str) -> str:
    """Another program's command."""
    return shlex.join(words)


def flag(verb: str | None, option: str) -> str:
    """`c2srt <verb> --help` and the like, which need nothing that was typed."""
    return " ".join(["c2srt", *([typed(verb, []).partition(" ")[2]] if verb else []), option])


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def is_shared(override: str) -> bool:
    return key_of(override).partition(".")[0] in CARRIED


def override(key: str, value: Any) -> str:
    """`key=value` as Hydra reads it; the shell's quotes come with `typed`."""
    return f"{key}={quoted(value)}"


def quoted(value: Any) -> str:
    """A number, text, path, None or list in Hydra's grammar: text that it could read as anything
    else stands in its quotes.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(quoted, value))}]"
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    return (
        '"'
        + re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + found[2].replace('"', '\\"'), text)
        + '"'
    )
