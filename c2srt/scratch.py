"""What lies in a store, and where it stands on this machine meanwhile: each tells the other, with
no register, so that any process on any node knows of a path alone which address it stands for.

    <root>/c2srt-objects/s3+bucket/a/b    s3://bucket/a/b
    <root>/c2srt-notes/s3+bucket/a/b.note what the store said of it (c2srt/storage/mirror.py)

<root> is $C2SRT_STORE, else $XDG_CACHE_HOME/c2srt, else ~/.cache/c2srt. Standard library only.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

OBJECTS, NOTES = "c2srt-objects", "c2srt-notes"
SCHEMES = ("s3", "https", "http")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
HERE = re.compile(rf"/{OBJECTS}/({'|'.join(SCHEMES)})\+([^/\s]+)(?:/(.*))?", re.DOTALL)
NAMED = re.compile(rf"(?:[^\s'\"=,:]*)/{OBJECTS}/({'|'.join(SCHEMES)})\+([^/\s'\"]+)")
UNFINISHED = re.compile(r"\.tmp-[^/]*(/|$)|(^|/)(lock|staging)(/|$)")
"""Temporary names, locks and what waits to be packed: never in a store."""
LONGEST = 255  # bytes of a file's name


class Place(NamedTuple):
    """One address: what `key` names in a bucket, or on a server."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}{f'/{self.key}' if self.key else ''}"

    @property
    def writable(self) -> bool:
        return self.scheme == "s3"


class Meta(NamedTuple):
    """An object of a store: `tag` changes when it does ("" where the server gives none)."""

    size: int
    tag: str


def place_of(url: str) -> Place:
    """The place that an address names. Raises ValueError, saying why it names none."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"no store is known by {scheme}://, only by s3:// and https://")
    parts = urlsplit(url) if scheme != "s3" else None
    bucket, _, key = (parts.netloc, "", unquote(parts.path[1:])) if parts else rest.partition("/")
    if "@" in bucket or parts and (parts.query or parts.fragment):
        raise ValueError(
            "an address holds no password, key or query: credentials come from the environment"
        )
    if not (bucket if parts else BUCKET.fullmatch(bucket)):
        raise ValueError(f"'{bucket}' is no {'host' if parts else 'bucket'}")
    key = key.removesuffix("/")
    if key and (odd := odd_names(key)):
        raise ValueError(f"'{odd[0]}' in it can be no name of a file")
    return Place(scheme, bucket, key)


def odd_names(key: str) -> list[str]:
    """The parts of a key that lead out of its folder, or that no file can be called."""
    return [name for name in key.split("/") if not is_name(name)]


def is_name(name: str) -> bool:
    return (
        name not in ("", ".", "..")
        and name.isprintable()
        and len(name.encode()) <= LONGEST - len(".note")
    )


def root() -> Path:
    """Where what is read from stores is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("C2SRT_STORE") or os.path.join(cache, "c2srt")).absolute()


def path_of(place: Place) -> Path:
    """Where a place stands on this machine."""
    return root() / OBJECTS / f"{place.scheme}+{place.bucket}" / place.key


def origin(path: str | os.PathLike) -> Place | None:
    """The place that a path stands for; None for any other path, and for what never leaves this
    machine.
    """
    text = os.fspath(path)
    if OBJECTS not in text or not (found := HERE.search(text)):
        return None
    place = Place(found[1], found[2], (found[3] or "").rstrip("/"))
    return None if UNFINISHED.search(place.key) else place


def note_of(path: str | os.PathLike) -> Path:
    """Where the note of an object's path lies."""
    head, _, tail = os.fspath(path).rpartition(f"/{OBJECTS}/")
    return Path(f"{head}/{NOTES}/{tail}.note")


def beside(folder: Path) -> Path:
    """Where something may be kept about a folder: in it, but for one that stands for a place."""
    if origin(folder) is None:
        return folder
    head, _, tail = str(folder).rpartition(f"/{OBJECTS}/")
    return Path(head, "c2srt-kept", tail)


def named(text: str) -> str:
    """A text for people, in which paths that stand for places are their addresses."""
    return NAMED.sub(r"\1://\2", text) if OBJECTS in text else text
