"""What a table holds: its rows, and which of them are trained, with which overrides of `c2srt
train`, graph and prompt.

The experiments themselves are the files of configs/tables/. A trial is (CLIP, fine-tuning seed),
both counted from 0.
"""

from dataclasses import dataclass, field, replace

from c2srt.datasets import data_set, published_names
from c2srt.errors import UserError
from c2srt.model.config import check_choice
from c2srt.old_names import old

PRIOR, CLIP, CLIP_SOFTMAX, SPARC = UNTRAINED = ("prior", "clip", "clip-softmax", "sparc")
SIMPLE, ENSEMBLE, SMOOTHED = "simple", "ensemble", "smoothed"
SMOOTHED_BY = 4
"""Neighbours of a category whose features its own are averaged with."""
Trial = tuple[int, int]


@dataclass
class Row:
    """One row: trained, tuned from another row's model, trained as long as another one, or not
    trained at all.
    """

    name: str
    """As printed."""
    name_on: dict[str, str] = field(default_factory=dict)
    """By data set, as printed there instead."""
    run: str = ""
    """Folder below the work folder. Rows of several tables with the same run are the same row,
    trained once.
    """
    untrained: str = ""
    """prior, clip, clip-softmax or sparc, instead of `run`."""
    neighbours: int = 0
    """Of `graph`: scores of unseen categories are the means of so many neighbours' (`c2srt evaluate
    neighbours=…`), without another training; of sparc its compound prompts. 0: their own.
    """
    train: list[str] = field(default_factory=list)
    """Overrides of `c2srt train`."""
    train_on: dict[str, list[str]] = field(default_factory=dict)
    """By data set, overrides after those: a schedule of the row's own."""
    graph: str = "llm"
    keeps: int | None = None
    """Neighbours that its graph has to keep, where the data set's keeps fewer: a graph of its own.
    """
    text: str = ENSEMBLE
    """Which list of prompt templates: ensemble or simple. smoothed: the features of the ensemble,
    averaged with the neighbours' in `graph` (`c2srt text smooth=…`).
    """
    tuned: str = ""
    """The run whose model `c2srt tune` goes on from (MKT's second stage)."""
    steps_of: str = ""
    """The run that this row repeats, with as many steps as fit into the training seconds of the run
    `seconds_of`.
    """
    seconds_of: str = ""
    x: float | None = None
    """The row's place on the table's axis."""
    only: list[str] = field(default_factory=list)
    """Data sets for which the row is there; empty: all."""
    published: dict[str, list[float]] = field(default_factory=dict)
    """By data set, in percent as printed in the paper: ZSL and GZSL mAP, ZSL and GZSL F1 at the
    first K, both at the second K (3 and 5 on NUS-WIDE, 10 and 20 on Open Images).
    """
    published_pr: dict[str, list[float]] = field(default_factory=dict)
    """By data set, P and R of each of these four F1: what published.py checks them by."""

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.untrained):
            raise UserError(f"row {self.name!r} needs either run=… or untrained=…")
        if self.untrained:
            check_choice(f"row {self.name!r}: untrained", self.untrained, UNTRAINED)
        check_choice(f"row {self.name!r}: text", self.text, (SIMPLE, ENSEMBLE, SMOOTHED))
        if self.neighbours < 0 or (self.untrained == SPARC and not self.neighbours):
            raise UserError(
                f"row {self.name!r}: neighbours={self.neighbours} must be at least"
                f" {int(self.untrained == SPARC)}"
            )
        if bool(self.steps_of) != bool(self.seconds_of):
            raise UserError(f"row {self.name!r} needs both steps_of=… and seconds_of=…, or neither")
        if any(len(values) != 6 for values in self.published.values()) or not set(
            self.published
        ) <= set(published_names()):
            raise UserError(
                f"row {self.name!r}: published needs six numbers for"
                f" {' or '.join(published_names())}: ZSL and GZSL mAP, then F1 at both K"
            )
        if any(len(values) != 8 for values in self.published_pr.values()) or not set(
            self.published_pr
        ) <= set(self.published):
            raise UserError(
                f"row {self.name!r}: published_pr needs eight numbers for data sets that"
                " `published` has: P and R of each of its four F1"
            )

    @property
    def after(self) -> list[str]:
        """Runs that must be there before this one."""
        return [run for run in (self.tuned, self.steps_of, self.seconds_of) if run]

    @property
    def heard(self) -> str:
        """Of a use of the graph without training: the end of its results' name; "" of others."""
        return f"-{self.graph}-{self.neighbours}" if self.neighbours else ""

    @property
    def recipe(self) -> tuple:
        """What makes two rows the same run; however its scores are used."""
        return (
            self.run,
            tuple(map(old, self.train)),
            self.graph,
            self.text,
            self.tuned,
            self.steps_of,
            self.seconds_of,
            *([self.keeps] if self.keeps else []),
            *([SMOOTHED_BY] if self.text == SMOOTHED else []),
        )


@dataclass
class Table:
    """Rows that are compared. `axis` names what `x` of the rows is: the table is a sweep, and a
    figure's curve.
    """

    caption: str = ""
    rows: list[Row] = field(default_factory=list)
    axis: str | None = None

    def __post_init__(self) -> None:
        if not self.rows:
            raise UserError(f"the table {self.caption!r} has no rows")
        if self.axis is not None and any(row.x is None for row in self.rows):
            raise UserError(
                f"the table {self.caption!r} has the axis {self.axis}, so each of its rows"
                " needs x=…"
            )


def for_data(tables: dict[str, Table], data: str) -> dict[str, Table]:
    """The tables without the rows, and rows without the overrides, of other data sets; captions
    name a graph that is an oracle.
    """

    def of_data(row: Row) -> Row:
        return replace(
            row,
            name=row.name_on.get(data, row.name),
            name_on={},
            train=row.train + row.train_on.get(data, []),
            train_on={},
        )

    oracle = data_set(data).oracle
    graph = f" · {oracle}" if oracle else ""
    return {
        name: Table(
            table.caption + graph,
            [of_data(row) for row in table.rows if not row.only or data in row.only],
            table.axis,
        )
        for name, table in tables.items()
    }


def trained_rows(tables: dict[str, Table]) -> list[Row]:
    """Every trained row once, with its own scores, in an order in which each follows those that it
    needs.

    Raises UserError if two different rows claim one run, or a row needs a run that no table has.
    """
    found: dict[str, Row] = {}
    for row in (row for table in tables.values() for row in table.rows if row.run):
        if found.setdefault(row.run, replace(row, neighbours=0)).recipe != row.recipe:
            raise UserError(
                f"rows {found[row.run].name!r} and {row.name!r} are different, and both are"
                f" run={row.run}"
            )
    ordered: dict[str, Row] = {}

    def add(row: Row, needed_by: tuple[str, ...] = ()) -> None:
        for run in row.after:
            if run not in found or run in needed_by:
                raise UserError(
                    f"row {row.name!r} needs the run {run!r}, and none of the chosen tables has it"
                )
            add(found[run], (*needed_by, row.run))
        ordered.setdefault(row.run, row)

    for row in found.values():
        add(row)
    return list(ordered.values())


def controls_of(tables: dict[str, Table]) -> list[Row]:
    """Every row that is evaluated without a training of its own, once: the class prior, CLIP, and
    the uses of a graph on CLIP's or a trained row's scores.
    """
    rows = [row for table in tables.values() for row in table.rows]
    found = {
        (row.run or row.untrained, row.heard): row for row in rows if row.untrained or row.heard
    }
    return list(found.values())


def groups_of(rows: list[Row]) -> list[list[Row]]:
    """Rows in groups that need nothing of each other: what can be trained side by side."""
    groups: list[list[Row]] = []
    for row in rows:
        joined = [group for group in groups if any(other.run in row.after for other in group)]
        groups = [group for group in groups if group not in joined] + [[*sum(joined, []), row]]
    return groups


def trials(seeds: int, clips: int) -> list[Trial]:
    """`seeds` fine-tuning seeds on the first CLIP, then one on each further CLIP.

    The two sources of spread stay apart, and a row costs seeds + clips − 1 trainings.
    """
    return [(0, seed) for seed in range(seeds)] + [(clip, 0) for clip in range(1, clips)]
