"""The journal of a run: what its tracker is to hold, in a file of the run's own folder, and how
much of it was sent.

    <folder>/tracking.jsonl   one entry a line, only ever appended to:
                              {"open": {"token", "experiment", "name", "parent", "params", "tags",
                               "time"}}    once, and once more with another experiment
                              {"tags": {…}}    what a further attempt adds
                              {"metrics": {name: value}, "step", "time"}
                              {"artifact": path, "folder": str | null}    paths inside the folder
                                                                          are relative to it
                              {"model": path, "register": name | null, "step"}
                              a "mark" in an entry tells whoever wrote it that it need not be
                              written again
                              {"status": "RUNNING" | "FINISHED" | "FAILED" | "KILLED", "time"}
    <folder>/run.json         {"uri", "run_id": str | null, "config_hash", "sent": bytes of the
                              journal that the tracker has, "seen": what the journal holds up to
                              some byte, in short (seen.py)}

Times are milliseconds since 1970. Every entry may be sent twice without harm: a metric point is its
name, step, time and value, the run is found again by its token, so a kill between sending and
noting leaves no trace. Secrets are not written. After weeks a journal is larger than what a process
should hold: it is read in pieces, and from `seen` on.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from c2srt.files import remove_leftovers, write_json
from c2srt.hints import Command
from c2srt.opened import parse_json, read_json
from c2srt.redact import redacted
from c2srt.tracking.seen import Seen

JOURNAL, RUN = "tracking.jsonl", "run.json"
READ_AT_ONCE = 1 << 20


class Journal:
    """The two files in `folder`, which exists. One process appends, and its sender notes; a second
    one may do so, too (an evaluation while training).
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / JOURNAL

    def mend(self) -> None:
        """Ends a line that a power cut left short, and removes what a kill left. For a process that
        begins to append.
        """
        remove_leftovers(self.folder, RUN)
        if not self.size:
            return
        with self.path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def state(self) -> dict[str, Any]:
        """The content of run.json, with {} for none."""
        return (
            read_json(self.folder / RUN, Command("train")) if (self.folder / RUN).exists() else {}
        )

    def note(self, **values: Any) -> None:
        """Changes values of run.json."""
        write_json(self.folder / RUN, redacted(self.state() | values))

    def append(self, entry: dict[str, Any]) -> None:
        # numbers, and names that we gave them, hold no secrets, and looking for some in each takes
        # longer than writing it
        safe = entry if "metrics" in entry else redacted(entry)
        line = json.dumps(safe, ensure_ascii=False, default=str) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode(errors="backslashreplace"))

    def lines(self, start: int) -> list[tuple[bytes, int]]:
        """Some whole lines from byte `start` on, each with the byte behind it; [] at the end."""
        if self.size <= start:
            return []
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(READ_AT_ONCE)
            text += b"" if text.endswith(b"\n") else file.readline()
        found = []
        for line in text.splitlines(keepends=True):
            start += len(line)
            if line.endswith(b"\n"):
                found.append((line, start))
        return found

    def read(self, start: int) -> list[tuple[dict[str, Any], int]]:
        """The same lines as entries. A broken one is an empty entry."""
        return [(parsed(line), end) for line, end in self.lines(start)]

    def every_line(self, place: int = 0) -> Iterator[tuple[bytes, int]]:
        """All whole lines from byte `place` on, a piece of the file at a time."""
        while found := self.lines(place):
            yield from found
            place = found[-1][1]

    def seen(self) -> Seen:
        """What the journal holds by now."""
        seen = Seen.noted(self.state().get("seen"), self.size)
        self.catch_up(seen)
        return seen

    def catch_up(self, seen: Seen) -> None:
        """Adds what was appended since."""
        for line, end in self.every_line(seen.upto):
            seen.add(parsed(line), end - len(line), end)

    def opening(self, seen: Seen) -> dict[str, Any] | None:
        """What opens the run, as it was written last."""
        if seen.opening is None:
            return None
        with self.path.open("rb") as file:
            file.seek(seen.opening)
            return parsed(file.readline()).get("open")

    def relative(self, path: Path) -> str:
        path = path.absolute()
        return str(
            path.relative_to(self.folder.absolute())
            if path.is_relative_to(self.folder.absolute())
            else path
        )


def parsed(line: bytes) -> dict[str, Any]:
    try:
        entry = parse_json(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
