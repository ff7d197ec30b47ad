"""The record of a check: lines that are only added, and what is made of them at the end."""

import json
from datetime import datetime
from pathlib import Path

from c2srt.check.nodes.facts import git_commit
from c2srt.code import source_hash
from c2srt.errors import UserError
from c2srt.files import raise_if_storage, write_json, write_text
from c2srt.opened import parse_json

KEPT = ("ok", "wrong")
"""What is known and not looked at again: a skipped, failed or unfinished part is tried again by the
next run.
"""
SAME = ("source", "card", "torch")


class Record:
    """`<folder>/check.jsonl`; `machine` is written into every line, and lines of another source or
    card do not count.
    """

    def __init__(self, folder: Path, commit: str, machine: dict[str, str]) -> None:
        self.folder, self.path = folder, folder / "check.jsonl"
        self.machine = {**machine, "commit": commit or git_commit(), "source": source_hash()}

    def read(self) -> list[dict]:
        """The whole lines; a line that a kill cut off is left out."""
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                content = parse_json(line)
            except ValueError:
                continue
            if isinstance(content, dict) and content.keys() >= {
                "part",
                "status",
                "why",
                "seconds",
                "machine",
                "rows",
            }:
                found.append(content)
        return found

    def ours(self) -> dict[str, dict]:
        """The newest line of each part, of this source, card and torch."""
        lines = [
            line
            for line in self.read()
            if all(line["machine"].get(name) == self.machine.get(name) for name in SAME)
        ]
        return {line["part"]: line for line in lines}

    def newest(self, part: str) -> dict | None:
        """The part's line if there is nothing to do for it."""
        line = self.ours().get(part)
        return line if line and line["status"] in KEPT else None

    def add(self, line: dict) -> dict:
        """Appends a line and flushes it. Behind a line that was cut off it starts a new one."""
        try:
            with self.path.open("rb+") as file:
                file.seek(0, 2)
                if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                    file.write(b"\n")
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise_if_storage(error, self.path)
            raise
        return line

    def lines(self, parts: list[str]) -> list[dict]:
        """The newest lines of these parts, in their order."""
        found = self.ours()
        return [found[part] for part in parts if part in found]

    def finish(self, lines: list[dict], text: str) -> None:
        """check.json and check.txt."""
        content = {
            "date": datetime.now().isoformat(timespec="seconds"),
            "machine": self.machine,
            "parts": lines,
        }
        write_json(self.folder / "check.json", content)
        write_text(self.folder / "check.txt", text)


def open_folder(folder: Path) -> Path:
    """Makes the folder of a record. Raises UserError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "check.jsonl").touch()
    except OSError as error:
        raise_if_storage(error, folder / "check.jsonl")
        raise UserError(
            f"out={folder} cannot be written ({error.strerror}): choose another"
        ) from error
    return folder
