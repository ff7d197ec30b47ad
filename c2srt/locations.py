"""Addresses among the values of a verb's keys.

A key that is not known to take one refuses it, so that `s3://bucket/x` never becomes a folder
called `s3:` in the working directory. A folder in a store becomes a path of this machine that
stands for it (c2srt/scratch.py), before anything else sees it; only here are the two exchanged.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from c2srt.errors import UserError
from c2srt.keys import Takes
from c2srt.redact import redacted
from c2srt.scratch import Place, named, path_of, place_of
from c2srt.shown import shown
from c2srt.storage import mirror

SIGN = "://"
ROAD = (
    *("shard", "audit", "text", "relations", "teacher", "train"),
    *("evaluate", "export", "predict"),
)
"""The verbs whose folders may lie in a store; the others work on this machine alone."""
ANY = (Takes.ADDRESS, Takes.COMMANDS)
WRITTEN, LISTED = ("out",), ("data.root", "root")
"""Keys of folders that are written, and of those that are looked through: no web server does."""


def refuse_addresses(cls: Any, values: dict[str, Any]) -> None:
    """Raises UserError if an address stands where a verb's dataclass `cls` takes none; `values` are
    those of its keys, nested as its groups are.
    """
    for name, takes, value in keys_of(cls, values):
        if takes not in ANY and (
            found := next((text for text in texts(value) if SIGN in text), None)
        ):
            raise UserError(
                f"{name}={shown(redacted(found))} is an address, and {name} takes none: give a"
                " file or folder of this machine"
            )


def places_here(cls: Any, values: dict[str, Any]) -> dict[str, str]:
    """The paths that stand for the folders in stores among a verb's keys, by key; what lies below
    them is fetched where it is looked through. Raises UserError where an address is none, or the
    store refuses.
    """
    found = {
        name: (place_in(name, value), takes)
        for name, takes, value in keys_of(cls, values)
        if takes in (Takes.PLACE, Takes.ABOVE) and isinstance(value, str) and SIGN in value
    }
    for place, takes in found.values():
        if takes is Takes.PLACE:
            mirror.pull(path_of(place))
    return {name: str(path_of(place)) for name, (place, _) in found.items()}


def place_in(name: str, url: str) -> Place:
    """The place that a key's value names. Raises UserError."""
    try:
        place = place_of(url)
    except ValueError as error:
        raise UserError(f"{name}={shown(redacted(url))}: {error}") from None
    if not place.writable and name in (*WRITTEN, *LISTED):
        does = "is only read" if name in WRITTEN else "lists no files"
        raise UserError(
            f"{name}={url}: a web server {does}: give a folder of this machine, or s3://bucket/…"
        )
    return place


def keys_of(
    cls: Any, values: dict[str, Any], group: str = ""
) -> Iterator[tuple[str, Takes | None, Any]]:
    """(`a.b.c`, what it takes, value) of every key that has a value."""
    for each in fields(cls):
        value, name = values.get(each.name), f"{group}{each.name}"
        if is_dataclass(each.default_factory) and isinstance(value, dict):
            yield from keys_of(each.default_factory, value, f"{name}.")
        elif value is not None:
            yield name, each.metadata.get("takes"), value


def texts(value: Any) -> Iterator[str]:
    """Every text in a value, nested or not, the names of a dictionary left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for below in value.values() if isinstance(value, dict) else value:
            yield from texts(below)


def here(name: str, path: str) -> str:
    """What a program gives as the path of something that is read: where it stands on this machine.
    Raises UserError as `places_here` does.
    """
    if SIGN not in path:
        return path
    found = path_of(place_in(name, path))
    mirror.pull(found)
    return str(found)


def as_written(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they are written down: folders in stores by their addresses."""
    return {
        name: named(value) if isinstance(value, str) else value for name, value in settings.items()
    }


def as_read(cls: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that were written down, with the paths of this machine."""
    found = dict(settings)
    for name, takes, value in keys_of(cls, settings):
        if takes in (Takes.PLACE, Takes.ABOVE) and isinstance(value, str) and SIGN in value:
            found[name] = str(path_of(place_in(name, value)))
    return found
