"""What a journal holds, in short, so that a restart after weeks need not read it: noted in run.json
(journal.py) with the byte up to which it says so.
"""

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class Seen:
    """`upto`: bytes of the journal that were looked at. `steps`: the greatest step of each metric;
    attempts record their steps in increasing order, and those of an attempt before are not recorded
    again, so this says all of it. `opening`: the byte where the last entry begins that opens a run.
    `registered`: the "register" of every model entry. `marks`: those of all entries.
    """

    upto: int = 0
    steps: dict[str, int] = field(default_factory=dict)
    opening: int | None = None
    status: str | None = None
    registered: list[str | None] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

    @classmethod
    def noted(cls, values: Any, size: int) -> "Seen":
        """As it was noted; of nothing, where it was not (a journal of an earlier version), or the
        journal has fewer bytes by now.
        """
        names = {each.name for each in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names or values["upto"] > size:
            return cls()
        return cls(**values)

    def add(self, entry: dict[str, Any], start: int, end: int) -> None:
        """Counts an entry in, whose line lies between two bytes."""
        if "open" in entry:
            self.opening = start
        elif "metrics" in entry:
            step, steps = entry.get("step", 0), self.steps
            for name in entry["metrics"]:
                if step >= steps.get(name, step):
                    steps[name] = step
        elif "model" in entry and entry.get("register") not in self.registered:
            self.registered.append(entry.get("register"))
        elif "status" in entry:
            self.status = entry["status"]
        if (mark := entry.get("mark")) and mark not in self.marks:
            self.marks.append(mark)
        self.upto = end
