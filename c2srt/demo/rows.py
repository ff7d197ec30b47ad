"""The rows of the demo's tables: which are trained, with which overrides of `c2srt train`, graph and prompt."""

from dataclasses import dataclass

PRIOR, CLIP, NEIGHBOURS = "prior only", "CLIP zero-shot", "CLIP, events by their neighbours"
SIMPLE, ENSEMBLE, TUNED = "simple", "ensemble", "tuned"


@dataclass(frozen=True)
class Row:
    """A trained row: `name` as printed, `folder` below the work folder, `overrides` of `c2srt train`, its graph and prompt.

    `tuned` is not trained: `c2srt tune` goes on from the row with the simple prompt.
    """

    name: str
    folder: str
    overrides: tuple[str, ...] = ()
    graph: str = "llm"
    prompt: str = ENSEMBLE


@dataclass(frozen=True)
class Table:
    """Rows that are compared: first `untrained` ones, then trained ones in order. `caption` says what differs."""

    caption: str
    untrained: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.untrained, *(row.name for row in self.rows))


FULL = Row("full C²SRT", "full")
SIMPLE_PROMPT = Row("full, simple prompt", "simple-prompt", prompt=SIMPLE)
TABLES = {
    "main": Table("The full model", (PRIOR, CLIP), (FULL,)),
    "parts": Table("Parts (the paper's table 3): distillation, ISR, IST", (PRIOR, CLIP), (
        Row("distillation only", "distillation", ("model.isr=false", "model.ist=false")),
        Row("+ ISR", "isr", ("model.ist=false",)),
        Row("+ IST", "ist", ("model.isr=false",)),
        FULL,
        Row("distillation only, λ = 0", "no-distillation", ("model.isr=false", "model.ist=false", "loss.distillation=0")),
    )),
    "graphs": Table("Relation graphs (the paper's table 4); full C²SRT has the mined graph, `llm`", (PRIOR, CLIP, NEIGHBOURS), (
        FULL,
        Row("full, similarity graph", "similarity-graph", graph="similarity"),
        Row("full, co-occurrence graph", "cooccurrence-graph", graph="cooccurrence"),
        Row("full, random graph", "random-graph", graph="random"),
        Row("full, no neighbours", "no-graph", graph="none"),
    )),
    "prompts": Table("Prompts (the paper's table 5); CLIP zero-shot and full C²SRT have the ensemble", (PRIOR, CLIP), (
        SIMPLE_PROMPT,
        Row("full, tuned prompt", "tuned-prompt", prompt=TUNED),
        FULL,
    )),
}
ALL = "all"
CHOICES = (*TABLES, ALL)


def chosen_tables(rows: str) -> dict[str, Table]:
    """One table by its name; `all`: the three that compare."""
    return {name: table for name, table in TABLES.items() if name == rows or (rows == ALL and name != "main")}


def rows_of(tables: dict[str, Table]) -> tuple[Row, ...]:
    """Every trained row once, in an order in which `tuned` follows what it starts from."""
    return tuple(dict.fromkeys(row for table in tables.values() for row in table.rows))


def trials(seeds: int) -> list[tuple[int, int]]:
    """(CLIP seed, fine-tuning seed): `seeds` fine-tuning seeds on the first CLIP, then one on each further CLIP.

    The two sources of spread stay apart, and the cost is 2 · seeds − 1 runs a row.
    """
    return [(0, seed) for seed in range(seeds)] + [(clip, 0) for clip in range(1, seeds)]
