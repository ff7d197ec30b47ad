"""Images as single files, `<id>.jpg` in one folder a split."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from c2srt.sharding.config import Config
from c2srt.sharding.outcome import Outcome, attempt
from c2srt.sharding.pack import ShardTask


@dataclass(frozen=True)
class FolderSource:
    """Reads `folders[split]/<id>.jpg`."""

    folders: dict[str, str]
    kind: str = "folders"

    def outcomes(self, rows: pl.DataFrame, task: ShardTask) -> Iterator[Outcome]:
        """One Outcome for each row (columns id, rotation), in order."""
        folder = self.folders[task.split]
        for image_id, rotation in rows.select("id", "rotation").iter_rows():
            yield read(os.path.join(folder, f"{image_id}.jpg"), rotation, task.config)


def read(path: str, rotation: int | None, config: Config) -> Outcome:
    """Converts one file; its size is checked before it is read."""
    try:
        if os.path.getsize(path) > config.max_bytes:
            return Outcome(
                "too_large",
                f"{os.path.getsize(path):,} bytes, more than max_bytes={config.max_bytes:,}",
            )
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return Outcome("missing", f"there is no file {os.path.basename(path)}")
    except OSError as error:
        return Outcome("unreadable", f"{os.path.basename(path)}: {error.strerror}")
    return attempt(data, rotation, config)


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
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(".jpg") and entry.is_file() for entry in entries)
    except OSError:
        return False
