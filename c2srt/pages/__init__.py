"""Kept pages: what a check found on a card, a folder each, `<date>-<card>`, with check.json,
check.txt and, from a full run, calibration.json and cluster.yaml.

    c2srt check keep out=runs/check       copies a finished record here
    c2srt plan calibration=<folder> …     plans with a kept calibration
    c2srt bench head                      prints what kept pages say of the same part below its own
                                          table

No GPU was at hand until 2026-11-29: none is kept yet.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from c2srt.errors import UserError
from c2srt.files import whole_folder
from c2srt.hints import Command
from c2srt.opened import parse_json, read_json

FOLDER = Path(__file__).parent
PAGE, CALIBRATION = "check.json", "calibration.json"
FILES = (PAGE, "check.txt", CALIBRATION, "cluster.yaml")


@dataclass(frozen=True)
class Machine:
    """What a page must say of its machine."""

    card: str


@dataclass(frozen=True)
class Page:
    """What check.json must have to name a kept page."""

    date: str
    machine: Machine

    def __post_init__(self) -> None:
        if not re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}", self.date):
            raise UserError("date: not YYYY-MM-DD")


def keep(out: Path, folder: Path = FOLDER) -> Path:
    """Copies a finished record into a folder named after its date and card. Raises UserError
    without one, or if it is kept.
    """
    machine = read_json(out / PAGE, Command("check")).get("machine")
    if not isinstance(machine, dict) or "capability" not in machine:
        raise UserError(f"{out / PAGE} was made without a GPU: only what a card showed is kept")
    content = read_json(out / PAGE, Command("check"), Page)
    place = (
        folder
        / f"{content['date'][:10]}-{re.sub(r'[^a-z0-9]+', '-', machine['card'].lower()).strip('-')}"
    )
    if place.exists():
        raise UserError(f"{place} is kept already: remove it first if this one is better")
    with whole_folder(place) as temporary:
        for name in FILES:
            if (out / name).exists():
                shutil.copy(out / name, temporary / name)
    return place


def kept(folder: Path = FOLDER) -> dict[str, Path]:
    """The kept pages by name, newest last."""
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{PAGE}"))}


def calibration_of(name: str, folder: Path = FOLDER) -> Path:
    """The calibration that a kept page of this name holds, else `name` as a path."""
    place = kept(folder).get(name)
    return place / CALIBRATION if place else Path(name)


def rows_of(part: str, folder: Path = FOLDER) -> list[tuple[str, str, dict]]:
    """(page, card, row) for every figure that kept pages have of a part."""
    found = []
    for name, place in kept(folder).items():
        content = parse_json((place / PAGE).read_text(encoding="utf-8"))
        found += [
            (name, content["machine"]["card"], row)
            for line in content["parts"]
            if line["part"] == part
            for row in line["rows"]
        ]
    return found
