"""What a check is told: which folders, which ports, how long, what to leave out."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from c2srt.errors import UserError

SECONDS = 90.0
VERSIONS, CLOCK, MACHINE, PLACES = "versions", "clock", "machine", "places"
REACH, LINKS, LOADER = "reach", "links", "loader"
PARTS = (VERSIONS, CLOCK, MACHINE, PLACES, REACH, LINKS, LOADER)


@dataclass(frozen=True)
class Places:
    """Folders by the names of their keys: those that a job reads, and those that it writes."""

    reads: dict[str, str] = field(default_factory=dict)
    writes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """`ports`: those that the job will use on each node, with what for. `keys`: of the training
    that will follow, from which the first node says the places; else they are given.
    """

    places: Places = Places()
    keys: tuple[str, ...] | None = None
    ports: dict[int, str] = field(default_factory=dict)
    seconds: float = SECONDS
    parts: tuple[str, ...] = PARTS


def chosen(parts: Iterable[str]) -> tuple[str, ...]:
    """The parts to look at, all where none is named. Raises UserError on an unknown one."""
    wanted = tuple(parts)
    if unknown := sorted(set(wanted) - set(PARTS)):
        raise UserError(f"parts={unknown[0]} is not one of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in wanted) if wanted else PARTS
