"""A job's folders as a node sees them: there, readable, writable, and the same files everywhere.

In a folder that is written each node leaves a file with a word of its own, and looks for the
others'. One that is only read is compared by its entries' names and sizes and by the contents of
its small records (the index of the shards is one). Standard library only.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

LEFT = ".c2srt-check-"
LISTED = 1000
"""Entries of a folder that are compared; of a larger one the first by name."""
RECORDS, RECORD_BYTES = 8, 64 << 20
LOOK_S = 6.0
"""For another node's new file to be seen: network file systems keep listings for seconds."""
STORE = "://"


class Places:
    """The files that this node leaves in a check."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.left: dict[Path, dict[str, Any]] = {}

    def look(self, reads: dict[str, str], writes: dict[str, str], check: str) -> dict[str, Any]:
        """{key: what this node sees}; in each folder that is written it leaves its word."""
        found = {key: seen(Path(place)) for key, place in reads.items() if STORE not in place}
        for key, place in writes.items():
            if STORE not in place:
                folder = nearest(Path(place))
                found[key] = seen(folder) | {"nearest": str(folder)} | self.leave(folder, check)
        return found

    def leave(self, folder: Path, check: str) -> dict[str, Any]:
        """Writes this node's word into the folder, once, and reads it again."""
        path = folder / f"{LEFT}{check}-{self.name}"
        if path not in self.left:
            self.left[path] = {}
            self.left[path] = self.written(path)
        return self.left[path]

    def written(self, path: Path) -> dict[str, Any]:
        """{"word"}, or {"unwritable": why}."""
        word = secrets.token_hex(8)
        try:
            path.write_text(word, encoding="utf-8")
            with path.open("rb") as file:
                os.fsync(file.fileno())
            again = path.read_text(encoding="utf-8")
        except OSError as error:
            return {"unwritable": error.strerror or str(error)}
        if again != word:
            return {"unwritable": "what was written there is not what is read again"}
        return {"word": word}

    def find(
        self, folders: dict[str, str], words: dict[str, dict[str, str]], check: str
    ) -> dict[str, Any]:
        """{key: the nodes whose words are found in its folder}, of {key: {node: word}}."""
        deadline = time.monotonic() + LOOK_S
        return {
            key: [
                node
                for node, word in words[key].items()
                if is_there(Path(folder) / f"{LEFT}{check}-{node}", word, deadline)
            ]
            for key, folder in folders.items()
        }

    def remove(self) -> dict[str, Any]:
        """Takes back what this node left."""
        for path in self.left:
            with suppress(OSError):
                path.unlink()
        return {}


def is_there(path: Path, word: str, deadline: float) -> bool:
    """Whether the file holds the word, before the deadline."""
    while True:
        with suppress(OSError):
            if path.read_text(encoding="utf-8") == word:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def nearest(place: Path) -> Path:
    """The folder, or the lowest one above it that is there: there it would be made."""
    place = place.absolute()
    return next(folder for folder in (place, *place.parents) if folder.is_dir())


def seen(folder: Path) -> dict[str, Any]:
    """Whether it is there, and what lies in it."""
    folder = folder.absolute()
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except FileNotFoundError:
        return {"path": str(folder), "there": False}
    except OSError as error:
        return {"path": str(folder), "there": True, "unreadable": error.strerror or str(error)}
    try:
        marks = list(marks_of(folder, [name for name in names if not name.startswith(".")]))
    except OSError as error:
        return {
            "path": str(folder),
            "there": True,
            "unreadable": f"{error.filename or folder}: {error.strerror or error}",
        }
    text = "\n".join(marks)
    print_ = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
    return {"path": str(folder), "there": True, "entries": len(names), "fingerprint": print_}


def marks_of(folder: Path, names: list[str]) -> Iterator[str]:
    """What a folder is compared by."""
    records = [name for name in names if name.endswith(".json")][:RECORDS]
    for name in names[:LISTED]:
        path = folder / name
        size = path.stat().st_size if path.is_file() else -1
        yield f"{name} {size}"
        if name in records and 0 <= size <= RECORD_BYTES:
            yield hashlib.sha256(path.read_bytes()).hexdigest()
    yield str(len(names))
