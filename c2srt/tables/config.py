"""The keys of `c2srt tables`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c2srt.errors import UserError
from c2srt.evaluation.config import PROTOCOLS
from c2srt.model.config import check_choice
from c2srt.tables.commands import Place
from c2srt.tables.rows import Table


@dataclass
class Config:
    """Keys of `c2srt tables`, explained in configs/tables.yaml."""

    work: str
    out: str
    data: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    seeds: int = 1
    clips: list[list[str]] = field(default_factory=lambda: [[]])
    seed: int = 0
    train: bool = True
    gpus_per_worker: float = 0
    part: str | None = None
    protocol: str = "per_class"
    f1_over: str = "positive"
    groups: str | None = None
    shards: str = ""
    topk: list[int] = field(default_factory=lambda: [10, 20])
    commands: dict[str, list[str]] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)
    """What was typed for keys that every verb shares: passed on to each command."""

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, PROTOCOLS)
        check_choice("f1_over", self.f1_over, ("positive", "all"))
        if self.seeds < 1 or not self.clips:
            raise UserError(
                f"seeds={self.seeds} must be at least 1, and clips needs an entry for each CLIP ([]"
                " for the first)"
            )
        if not self.tables:
            raise UserError("tables=[] leaves nothing to do: name some of configs/tables")
        _ = self.share  # refuses what is no part

    @property
    def share(self) -> tuple[int, int]:
        """`part` as (number from 1, of)."""
        number, slash, of = (self.part or "1/1").partition("/")
        if not (slash and number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
            raise UserError(
                f"part={self.part} must be like 2/8: the second of eight processes that share the"
                " rows"
            )
        return int(number), int(of)

    @property
    def place(self) -> Place:
        given = [
            override
            for override in self.given
            if override.partition("=")[0] not in ("work", "topk")
        ]
        given += (
            [f"data={self.data['name']}"]
            if not any(override.startswith("data=") for override in given)
            else []
        )
        commands = self.commands
        if self.gpus_per_worker:
            commands = commands | {
                "train": [f"gpus_per_worker={self.gpus_per_worker:g}", *commands.get("train", [])]
            }
        return Place(
            Path(self.work),
            given,
            commands,
            self.clips,
            self.seed,
            self.data.get("root"),
            self.shards,
        )
