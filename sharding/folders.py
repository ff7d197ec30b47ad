"""Images as single files, `<id>.jpg` in one folder a split."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from c2srt.scratch import origin
from c2srt.sharding.config import Config
from c2srt.sharding.outcome import Outcome, attempts, too_large
from c2srt.sharding.pack import ShardTask
from c2srt.storage import mirror
from c2srt.threads import map_in_order

AHEAD = 64


@dataclass(frozen=True)
class FolderSource:
    """Reads `folders[split]/<id>.jpg`."""

    folders: dict[str, str]
    kind: str = "folders"

    def outcomes(self, rows: pl.DataFrame, task: ShardTask) -> Iterator[Outcome]:
        """One Outcome for each row (columns id, rotation), in order."""
        folder = self.folders[task.split]
        paths = [os.path.join(folder, f"{image_id}.jpg") for image_id in rows["id"]]
        found = fetched(paths, task.config) if origin(folder) else asked_for(paths)
        yield from attempts(zip(found, rows["rotation"], strict=True), task.config)


@dataclass(frozen=True)
class FileSource:
    """Reads `<folder>/<file>`; `place` is where such a path lies on the disk."""

    folder: str
    kind: str
    place: Callable[[str], str] = str

    def outcomes(self, rows: pl.DataFrame, task: ShardTask) -> Iterator[Outcome]:
        """One Outcome for each row (column file), in order."""
        paths = [self.place(f"{self.folder}/{file}") for file in rows["file"]]
        yield from attempts(((each, None) for each in asked_for(paths)), task.config)


def asked_for(paths: list[str]) -> Iterator[str]:
    """The paths. The decoder's process reads the files (sharding/decode.py); the disk may begin
    while it has the picture before.
    """
    for path in paths:
        with suppress(OSError):  # the decoder says what is wrong
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(file)
        yield path


def fetched(paths: list[str], config: Config) -> Iterator[bytes | Outcome]:
    """The bytes of images in a store, or why there are none; they are fetched at most AHEAD of what
    is taken.
    """

    def fetch(path: str) -> bytes | Outcome:
        try:
            size, data = mirror.content_of(Path(path), config.max_bytes)
        except FileNotFoundError:
            return missing(path)
        return data if size <= config.max_bytes else too_large(size, config)

    pool = ThreadPoolExecutor(mirror.AT_A_TIME)
    try:
        yield from map_in_order(pool, fetch, paths, AHEAD)
    finally:
        pool.shutdown(cancel_futures=True)


def missing(path: str) -> Outcome:
    return Outcome("missing", f"there is no file {os.path.basename(path)}")


def find_folders(roots: list[Path], splits: list[str]) -> dict[str, str]:
    """For each split the first of `images/<split>`, `<split>`, `images` and `.` that holds a .jpg,
    in any of `roots`.
    """
    found = {}
    for split in splits:
        candidates = [
            root / below for root in roots for below in (f"images/{split}", split, "images", ".")
        ]
        if folder := next((folder for folder in candidates if holds_jpg(folder)), None):
            found[split] = str(folder.resolve())
    return found


def holds_jpg(folder: Path) -> bool:
    if place := origin(folder):
        return any(name.endswith(".jpg") for name in mirror.names_at(place))
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(".jpg") and entry.is_file() for entry in entries)
    except OSError:
        return False
