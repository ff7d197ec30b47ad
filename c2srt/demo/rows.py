"""The rows of the demo's table: which are trained, and with which overrides of `c2srt train`."""

from dataclasses import dataclass

PRIOR, CLIP, NEIGHBOURS, FULL = "prior only", "CLIP zero-shot", "CLIP, events by their neighbours", "full C²SRT"


@dataclass(frozen=True)
class Row:
    """A trained row: `name` as printed, `folder` below the work folder, `overrides` of `c2srt train`, and its graph."""

    name: str
    folder: str
    overrides: tuple[str, ...] = ()
    graph: str = "llm"


TRAINED = (
    Row("distillation only", "distillation", ("model.isr=false", "model.ist=false")),
    Row("+ ISR", "isr", ("model.ist=false",)),
    Row("+ IST", "ist", ("model.isr=false",)),
    Row(FULL, "full"),
    Row("distillation only, λ = 0", "no-distillation", ("model.isr=false", "model.ist=false", "loss.distillation=0")),
    Row("full, similarity graph", "similarity-graph", graph="similarity"),
    Row("full, random graph", "random-graph", graph="random"),
    Row("full, no neighbours", "no-graph", graph="none"),
)


def chosen_rows(rows: str) -> tuple[Row, ...]:
    """`main`: the full model only; `all`: every row of the paper's table 3 and the controls of the graph."""
    return TRAINED if rows == "all" else tuple(row for row in TRAINED if row.name == FULL)


def trials(seeds: int) -> list[tuple[int, int]]:
    """(CLIP seed, fine-tuning seed): `seeds` fine-tuning seeds on the first CLIP, then one on each further CLIP.

    The two sources of spread stay apart, and the cost is 2 · seeds − 1 runs a row.
    """
    return [(0, seed) for seed in range(seeds)] + [(clip, 0) for clip in range(1, seeds)]
