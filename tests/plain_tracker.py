"""A tracker of another kind, in a file of its own: what a sink needs, and nothing else."""

import json
from pathlib import Path
from typing import Any

from c2srt.tracking.sinks import Kind


class PlainFile:
    """Runs in one file of lines: plain:<file>."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.path, self.folder = Path(uri.partition(":")[2]), folder

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def open(self, opening: dict[str, Any]) -> str:
        self.append({"run": opening["token"]} | opening)
        return opening["token"]

    def knows(self, run_id: str) -> bool:
        return self.path.exists() and any(line["run"] == run_id for line in self.lines())

    def send(self, run_id: str, batch: list[dict[str, Any]]) -> None:
        for entry in batch:
            if "artifact" in entry:
                entry = entry | {"bytes": len((self.folder / entry["artifact"]).read_bytes())}
            self.append({"run": run_id} | entry)

    def refused(self, error: Exception) -> bool:
        return isinstance(error, FileNotFoundError)


class Down(PlainFile):
    def open(self, opening: dict[str, Any]) -> str:
        raise ZeroDivisionError("division by zero")


PLAIN = Kind("tests.plain_tracker:PlainFile", lambda uri: f"less {uri.partition(':')[2]}")
