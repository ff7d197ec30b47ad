"""Addresses among the values of a verb's keys: a key that is not known to take one refuses it, so
that `s3://bucket/x` never becomes a folder called `s3:` in the working directory.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from c2srt.errors import UserError
from c2srt.keys import Takes
from c2srt.redact import redacted
from c2srt.shown import shown

SIGN = "://"


def refuse_addresses(cls: Any, values: dict[str, Any]) -> None:
    """Raises UserError if an address stands where a verb's dataclass `cls` takes none; `values` are
    those of its keys, nested as its groups are.
    """
    for name, takes, value in keys_of(cls, values):
        if takes is None and (found := next((text for text in texts(value) if SIGN in text), None)):
            raise UserError(
                f"{name}={shown(redacted(found))} is an address, and {name} takes none: give a"
                " file or folder of this machine"
            )


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


def refuse_address(path: str, what: str) -> None:
    """Raises UserError if what a program gives as the path of a `what` is an address."""
    if SIGN in path:
        raise UserError(
            f"{shown(redacted(path))} is an address, and no {what} is read from one: give a file or"
            " folder of this machine"
        )
