"""A training that is finished: known at once when it is asked for again.

    <out>/finished.json     {"run": hash, "steps", "files": {path: [bytes, mtime, ctime, inode]}}

The first time everything is read and checked (prepare.py), and what was looked at is written down.
From then on it is trusted while the settings and the libraries that make a CLIP are the same, and
every file below the folders that are read, the CLIP's, the newest checkpoint's and the export's has
the same size, times and inode. No program can set a file's ctime, so new content shows; a file that
changed less than RACE_S before the check began could hide a further change in the same tick of the
clock, so nothing is written down then. Anything else than that is checked in full again.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from c2srt.errors import UserError
from c2srt.files import hash_of, write_json
from c2srt.opened import read_json
from c2srt.storage import mirror
from c2srt.tracking import Journal, Tracker, unsent
from c2srt.train.config import Config
from c2srt.versions import version_of

FILE = "finished.json"
RACE_S = 2.0
OUTPUTS = ("checkpoints", "model")
LIBRARIES = ("torch", "open_clip_torch", "timm")

Seen = dict[str, list[int]]


def known_finished(config: Config) -> int | None:
    """The steps of a finished training, if nothing has changed since it was checked in full."""
    path = config.folder / FILE
    if not path.is_file():
        return None
    with suppress(OSError, UserError, ValueError, KeyError, TypeError, AttributeError):
        record = read_json(path, "")
        below = seen_below(config)
        others = seen(Path(name) for name in record["files"].keys() - below.keys())
        if record["run"] == run_of(config) and record["files"] == below | others:
            return int(record["steps"])
    return None


def is_exported(config: Config) -> bool:
    """Whether there is the export that a training leaves at its end."""
    return (config.folder / "model" / "config.json").exists()


class Look:
    """What lay there before a training was checked in full. Without an export it is not finished,
    and no file is looked at: there are thousands, on shared storage.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.begun = config, time.time()
        self.before = seen_below(config) if is_exported(config) else None

    def remember(self, steps: int, clip_files: Iterable[str] | None) -> None:
        """Notes that the training was found finished; `clip_files` are those that its CLIP was read
        from, None where they are not known. Nothing is noted that could not be trusted, or where
        nothing can be written.
        """
        below = seen_below(self.config)
        if clip_files is None or below != self.before:
            return
        files = below | seen(Path(name) for name in clip_files)
        if any(ctime > (self.begun - RACE_S) * 1e9 for _, _, ctime, _ in files.values()):
            return
        with suppress(OSError, UserError):
            record = {"run": run_of(self.config), "steps": steps, "files": files}
            write_json(self.config.folder / FILE, record)


def run_of(config: Config) -> str:
    """Changes with any setting, and with the libraries that build and draw a CLIP."""
    return hash_of([config.settings(), [version_of(name) for name in LIBRARIES]])


def seen_below(config: Config) -> Seen:
    """Every file below the folders that are read, and below those that a training leaves."""
    read = [getattr(config, name) for name in config.folders_read]
    folders = [Path(folder) for folder in read] + [config.folder / name for name in OUTPUTS]
    return seen(path for folder in folders for path in folder.rglob("*"))


def seen(paths: Iterable[Path]) -> Seen:
    """[bytes, mtime, ctime, inode] of files, folders left out."""
    found = {}
    for path in paths:
        if not path.is_dir():
            stat = path.stat()
            found[str(path)] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return found


def send_rest(config: Config, step: int) -> None:
    """Sends what the tracker missed of a finished training, and registers the model if that is
    asked for by now.
    """
    journal, name = Journal(config.folder), config.tracking.register
    wanted = name is not None and name not in journal.seen().registered
    if not journal.path.exists() or not (wanted or unsent(config.folder)):
        return
    tracker = Tracker(config.folder)
    if wanted:
        mirror.fetched(config.folder / "model" / "model.safetensors")
        tracker.model(config.folder / "model", step, name)
    tracker.close(None)
