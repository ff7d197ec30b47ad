"""The keys of `c2srt tables`."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from c2srt.errors import UserError
from c2srt.evaluation.config import PROTOCOLS
from c2srt.keys import Mark, Takes, key
from c2srt.model.config import check_choice
from c2srt.shared_keys import shared
from c2srt.tables.commands import Workspace
from c2srt.tables.rows import Table

F1_OVER = ("positive", "all", "annotated")


@dataclass
class Config:
    """Keys of `c2srt tables`."""

    work: str = shared("work", needed=True)
    out: str = key(
        MISSING,
        "<table>.md, .tex, .csv, .json, and tables.md with all, those of earlier calls too",
        mark=Mark.HARMLESS,
        follows="${work}/tables",
    )
    data: dict[str, Any] = key({}, "the data set", composed=False)
    tables: dict[str, Table] = key(
        {},
        "the tables, as the files of configs/tables describe them: 'tables=[parts]'; further"
        " ones: time, settings",
        composed=False,
    )
    seeds: int = key(1, "fine-tuning seeds on the first CLIP")
    clips: list[list[str]] = key(
        [[]],
        (
            "an entry for each CLIP: its overrides, as in "
            "clips='[[],[\"clip.name=ViT-L-14\"]]'; number n lies in "
            "${work}/clip-n"
        ),
        takes=Takes.COMMANDS,
    )
    seed: int = shared("seed")
    train: bool = key(True, "false: no training, only what is there", mark=Mark.HARMLESS)
    gpus_per_worker: float = key(0, "of every training: 1 on a GPU cluster", mark=Mark.HARMLESS)
    part: str | None = key(
        None,
        "2/8: this process takes the second eighth of the rows and writes no table",
        mark=Mark.HARMLESS,
    )
    protocol: str = key(
        "per_class",
        ("mAP that is shown: per_class | lesa | biam_legacy | qks | dense (the CSV holds all)"),
    )
    f1_over: str = key(
        "positive",
        (
            "F1@K over images with a positive label, over all (NUS-WIDE's published tables), or"
            " over annotated columns only (QKS's)"
        ),
    )
    groups: str | None = key(
        None,
        "CSV with the columns mid and group: mAP of groups of unseen categories, too",
        follows="${data.groups}",
    )
    shards: str = shared("shards")
    topk: list[int] = key([10, 20], "(from data) K of F1@K", composed=False)
    commands: dict[str, list[str]] = key(
        {"text": [], "relations": [], "teacher": [], "train": [], "tune": [], "evaluate": []},
        "further overrides of the verbs, as in commands.train='[\"schedule.epochs=4\"]'",
        takes=Takes.COMMANDS,
    )
    given: list[str] = key(
        [],
        "What was typed for keys that every verb shares: passed on to each command",
        takes=Takes.COMMANDS,
        composed=False,
    )

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, PROTOCOLS)
        check_choice("f1_over", self.f1_over, F1_OVER)
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
    def workspace(self) -> Workspace:
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
                "train": [
                    f"resources.gpus_per_worker={self.gpus_per_worker:g}",
                    *commands.get("train", []),
                ]
            }
        return Workspace(
            Path(self.work),
            given,
            commands,
            self.clips,
            self.seed,
            self.data.get("root"),
            self.shards,
        )
