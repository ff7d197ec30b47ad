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
                              journal that the tracker has}

Times are milliseconds since 1970. Every entry may be sent twice without harm: a metric point is its
name, step, time and value, the run is found again by its token, so a kill between sending and
noting leaves no trace. Secrets are not written.
"""

import json
from pathlib import Path
from typing import Any

from c2srt.files import remove_leftovers, write_json
from c2srt.hints import Command
from c2srt.opened import parse_json, read_json
from c2srt.redact import redacted

JOURNAL, RUN = "tracking.jsonl", "run.json"
READ_AT_ONCE = 1 << 20


class Journal:
    """The two files in `folder`, which exists. One process writes; a second one may append (an
    evaluation while training).
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / JOURNAL
        remove_leftovers(folder, RUN)
        if self.size and not self.path.read_bytes().endswith(
            b"\n"
        ):  # a line cut short by a power cut
            with self.path.open("ab") as file:
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
        with self.path.open("ab") as file:
            file.write(
                (json.dumps(redacted(entry), ensure_ascii=False, default=str) + "\n").encode(
                    errors="backslashreplace"
                )
            )

    def read(self, start: int) -> list[tuple[dict[str, Any], int]]:
        """Some entries from byte `start` on, each with the byte behind it; [] at the end. A broken
        line is an empty entry.
        """
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
                found.append((parsed(line), start))
        return found

    def all(self, place: int = 0) -> list[dict[str, Any]]:
        """Every entry so far, from byte `place` on."""
        entries = []
        while found := self.read(place):
            entries += [entry for entry, _ in found]
            place = found[-1][1]
        return entries

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
