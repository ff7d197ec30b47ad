"""Files of JSON lines that begin with their step, {"step": 7, …}: read and shortened line by line,
since after weeks they are larger than what a process should hold.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from c2srt.files import whole_file
from c2srt.opened import parse_json

BEGIN = re.compile(rb'\{"step": (\d+)[,}]')


def step_of(line: bytes) -> int | None:
    """None where a kill or a power cut left something else."""
    found = BEGIN.match(line)
    return int(found[1]) if found and line.endswith(b"\n") else None


def forget_after(path: Path, step: int) -> None:
    """Drops the lines of steps that a killed run did after its last checkpoint: they are done
    again.
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.writelines(line for number, line in numbered(path) if number <= step)


def numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file with their steps; none without the file."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if (step := step_of(line)) is not None:
                    yield step, line


def read_step_lines(path: Path) -> Iterator[dict[str, Any]]:
    return (parse_json(line) for _, line in numbered(path))
