"""What `c2srt <verb> --help` prints: the comments that open the verb's YAML, then each key with its
default, unit and help from the verb's dataclass, as YAML.
"""

import textwrap
from dataclasses import Field, fields, is_dataclass
from importlib.resources import files
from typing import Any, cast, get_type_hints

import yaml

from c2srt.shared_keys import SharedKeys

WIDTH, COLUMN = 100, 31
"""Columns of a page, and where the help of a key begins."""


def manual(verb: str, cls: type, values: dict[str, Any]) -> str:
    """`values`: the defaults as composed, unresolved (c2srt/compose.py)."""
    shared = {each.name: each.metadata["about"] for each in fields(SharedKeys)}
    own = [each.name for each in fields(cls) if each.metadata["about"] != shared.get(each.name)]
    opening = files("c2srt.configs").joinpath(f"{verb}.yaml").read_text(encoding="utf-8")
    return "\n".join(
        [
            *(line for line in opening.splitlines() if line.startswith("#")),
            "",
            *keys_of(cls, values, without=shared.keys() - own),
            "",
            "# Shared by all verbs:",
            *keys_of(SharedKeys, values, without=own),
            "",
        ]
    )


def keys_of(cls: type, values: dict[str, Any], indent: int = 0, without: Any = ()) -> list[str]:
    """The keys of a dataclass, in the order of its fields."""
    known = [each for each in fields(cls) if each.metadata["about"] and each.name not in without]
    kinds = get_type_hints(cls)
    return [line for each in known for line in entry(each, kinds[each.name], values, indent)]


def entry(each: Field, kind: Any, values: dict[str, Any], indent: int) -> list[str]:
    """One key, and those below it. A key that only a group has (tables=…, prompts=…) is a comment,
    since its value is no line.
    """
    value = values.get(each.name)
    if is_dataclass(kind):
        below = value if isinstance(value, dict) else {}
        named = [one for one in fields(kind) if one.name in below and one.metadata.get("about")]
        without = [one.name for one in fields(kind) if one not in named]
        nested = keys_of(cast(type, kind), below, indent + 1, without) if named else []
        return [*described(each, f"{each.name}:" if named else "", indent), *nested]
    if each.name not in values or isinstance(value, dict) and any(map(is_long, value.values())):
        return described(each, "", indent)
    return described(each, f"{each.name}: {flow(value)}", indent)


def is_long(value: Any) -> bool:
    return bool(value) and isinstance(value, (dict, list))


def flow(value: Any) -> str:
    """A value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def described(each: Field, start: str, indent: int) -> list[str]:
    """`start` (the key with its value; nothing: the key as a comment) and its help, wrapped."""
    about = each.metadata["about"]
    if unit := each.metadata["unit"]:
        about = f"[{unit}] {about}"
    start = "  " * indent + (start or f"# {each.name}")
    hang = COLUMN if start.lstrip().startswith("#") else COLUMN + 2
    mark = "" if start.lstrip().startswith("#") else "# "
    wrapped = textwrap.wrap(about, WIDTH - hang - 2, break_on_hyphens=False, break_long_words=False)
    if len(start) >= COLUMN:
        return [start, *(" " * COLUMN + "# " + line for line in wrapped)]
    rest = ["#".ljust(COLUMN) if not mark else " " * COLUMN + "#  "] * (len(wrapped) - 1)
    return [
        f"{start:<{COLUMN}}{mark}{wrapped[0]}",
        *(f"{before} {line}" for before, line in zip(rest, wrapped[1:], strict=True)),
    ]
