"""One field of a verb's dataclass: its default, its help, its unit, and what it is to the result.

The dataclasses are the one source of these: Hydra composes the defaults (`defaults`), `--help`
prints them (c2srt/manual.py), and what a checkpoint or an export must agree with follows from the
marks (`deciding`). The files in configs/ only choose groups and hold what a group sets otherwise.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import MISSING, Field, asdict, field, fields, is_dataclass, replace
from enum import Enum
from typing import Any, TypeVar, cast

from c2srt.errors import UserError

T = TypeVar("T")
NEEDED = "???"
"""Hydra's and OmegaConf's word for a value that must be given."""


class Mark(Enum):
    """What another value of a key does to what the verb makes."""

    DECIDES = "decides the result"
    HARMLESS = "does not change the result: how fast, how often, how long, where to"
    CONTENT = "where it lies changes nothing; what lies there decides, by its hash"


class Takes(Enum):
    """What `://` in a key's value may be; in any other key it is refused (c2srt/locations.py)."""

    PLACE = "a folder in a store, too: what lies there is fetched"
    ABOVE = "the same, but others lie below it: nothing is fetched for its own sake"
    ADDRESS = "an address by its nature"
    COMMANDS = "overrides of other verbs, which look themselves"


def key(
    default: Any = MISSING,
    about: str = "",
    *,
    unit: str = "",
    mark: Mark = Mark.DECIDES,
    takes: Takes | None = None,
    follows: str | None = None,
    composed: bool = True,
) -> Any:
    """A field. `default` may be a class, a list or a dictionary: every config gets its own.

    `follows` is the default on the command line, where that follows from other keys or is needed
    (`???`); `<default>` in it stands for `default`. `composed=False`: the value comes from a group
    in configs/, or the field is no key at all.
    """
    metadata = {
        "about": about,
        "unit": unit,
        "mark": mark,
        "takes": takes,
        "follows": follows,
        "composed": composed,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: deepcopy(default), metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def same_as(cls: type, name: str, default: Any = None, needed: bool = False) -> Any:
    """The field `name` of another dataclass, composed there: its help and mark, and its default
    (or this one, or none at all: `needed`).
    """
    known = next(each for each in fields(cls) if each.name == name)
    metadata = {**known.metadata, "composed": False}
    if needed:
        return field(metadata=metadata)
    if default is not None:
        return field(default=default, metadata=metadata)
    if known.default_factory is not MISSING:
        return field(default_factory=known.default_factory, metadata=metadata)
    return field(default=known.default, metadata=metadata)


def defaults(cls: type, beside: type | None = None) -> dict[str, Any]:
    """What Hydra composes for a dataclass, nested ones included, in the order of the fields;
    without those that `beside`, a parent, has.
    """
    other = {each.name for each in fields(beside)} if beside else set()
    return {
        each.name: default_of(each)
        for each in fields(cls)
        if each.metadata.get("composed") and each.name not in other
    }


def default_of(each: Field) -> Any:
    """One field's default on the command line."""
    follows = each.metadata["follows"]
    if follows is not None:
        return follows.replace("<default>", str(each.default))
    if each.default_factory is MISSING:
        return NEEDED if each.default is MISSING else plain(each.default)
    factory: Callable[[], Any] = each.default_factory
    return defaults(factory) if is_dataclass(factory) else plain(factory())


def plain(value: Any) -> Any:
    """A word of an enumeration as text."""
    return str(value) if isinstance(value, str) else value


def deciding(config: Any) -> dict[str, Any]:
    """The keys of a config that decide the result, as plain values."""
    marked = {each.name for each in fields(config) if each.metadata["mark"] is Mark.DECIDES}
    return {name: value for name, value in asdict(config).items() if name in marked}


def mark_of(cls: Any, name: str) -> Mark:
    """The mark of a key, which may be one of a group (`a.b`)."""
    first, _, below = name.partition(".")
    found = next(each for each in fields(cls) if each.name == first)
    return mark_of(found.default_factory, below) if below else found.metadata["mark"]


def changed(config: T, values: Mapping[str, Any]) -> T:
    """The config with other values, by their keys (`a.b.c`). Raises TypeError on an unknown one."""
    own = {name: value for name, value in values.items() if "." not in name}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group, dot, key = name.partition(".")
        if dot:
            groups.setdefault(group, {})[key] = value
    for group, below in groups.items():
        own[group] = changed(getattr(config, group), below)
    return cast(T, replace(cast(Any, config), **own))


def refuse_below(config: object, least: int, group: str, *names: str) -> None:
    """Raises UserError if a number is below the least that it can be; `group`: what its key stands
    under.
    """
    for name in names:
        if getattr(config, name) < least:
            key = f"{group}.{name}" if group else name
            raise UserError(f"{key}={getattr(config, name)} must be at least {least}")


def from_plain(cls: type[T], values: dict[str, Any]) -> T:
    """The config that `asdict` made these values of. Raises TypeError on other names."""
    nested: dict[str, Any] = {
        each.name: each.default_factory
        for each in fields(cast("type[Any]", cls))
        if is_dataclass(each.default_factory)
    }
    return cls(
        **{
            name: from_plain(nested[name], value) if name in nested else value
            for name, value in values.items()
        }
    )
