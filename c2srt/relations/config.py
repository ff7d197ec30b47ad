"""The keys of the verbs `relations mine` and `relations report`, and of new words; those of
`relations` stand beside the kinds of graphs (c2srt/relations/kinds.py).

Nothing heavy is imported here: what reads a config need not load what it configures.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Optional

from c2srt.errors import UserError
from c2srt.relations.kinds import KINDS

CANDIDATES = ("shortlist", "pages")
SOURCES = ("similarity", "words", "cooccurrence")  # of a shortlist
FORMS = ("json", "text")  # of a reply
WORD_KINDS = ("similarity", "llm")


@dataclass
class MineConfig:
    """Keys of `c2srt relations mine`, explained in configs/relations-mine.yaml."""

    model: Optional[str] = None
    url: Optional[str] = None
    price_input: Optional[float] = None
    price_output: Optional[float] = None
    budget: float = 10.0
    seen: Optional[str] = None
    unseen: Optional[str] = None
    targets: Optional[list[str]] = None
    candidates: str = "shortlist"
    size: int = 1000
    sources: list[str] = field(default_factory=lambda: ["similarity", "words"])
    queries: int = 1
    form: str = "auto"
    temperature: Optional[float] = None
    max_output: int = 4000
    concurrency: int = 16
    attempts: int = 3
    tries: int = 8
    backoff_s: float = 1.0
    timeout_s: float = 120.0
    batch_export: Optional[str] = None
    batch_import: Any = None
    shards: str = ""
    text: str = ""
    out: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "queries", "max_output", "concurrency", "attempts", "tries"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        for name, value, choices in (
            ("candidates", self.candidates, CANDIDATES),
            ("form", self.form, ("auto", *FORMS)),
        ):
            if value not in choices:
                raise UserError(f"{name}={value} is not known: choose one of {', '.join(choices)}")
        if bad := next((source for source in self.sources if source not in SOURCES), None):
            raise UserError(f"sources: {bad} is not known: choose among {', '.join(SOURCES)}")
        if self.candidates == "shortlist" and not self.sources:
            raise UserError(
                f"sources is empty: choose among {', '.join(SOURCES)}, or set candidates=pages"
            )
        if not 0 < self.budget < math.inf:
            raise UserError(
                f"budget={self.budget} must be an amount of USD above zero: it is the most that"
                " mining may cost"
            )
        if min(self.backoff_s, self.timeout_s) <= 0:
            raise UserError(
                f"backoff_s={self.backoff_s} and timeout_s={self.timeout_s} must be above zero"
            )
        self.batch_import = (
            [self.batch_import] if isinstance(self.batch_import, str) else self.batch_import
        )
        if self.batch_export and self.batch_import:
            raise UserError("batch_export and batch_import are two steps: give one of them")


@dataclass
class ReportConfig:
    """Keys of `c2srt relations report`, explained in configs/relations-report.yaml."""

    graphs: Optional[list[str]] = None
    folder: str = ""
    neighbours: Optional[int] = None
    draw: list[str] = field(default_factory=list)
    shards: str = ""
    text: str = ""
    out: str = ""

    def __post_init__(self) -> None:
        if self.neighbours is not None and self.neighbours < 1:
            raise UserError(f"neighbours={self.neighbours} must be at least 1")
        if bad := next((kind for kind in self.graphs or () if kind not in KINDS), None):
            raise UserError(
                f"graphs: {bad} is not a kind of relation graph: choose among {', '.join(KINDS)}"
            )


@dataclass
class WordsConfig:
    """How new words find their neighbours; the keys of `llm` are those of `c2srt relations
    mine`.
    """

    neighbours: str = "similarity"
    cache: Optional[str] = None
    model: Optional[str] = None
    url: Optional[str] = None
    price_input: Optional[float] = None
    price_output: Optional[float] = None
    budget: float = 1.0
    size: int = 1000
    queries: int = 1

    def __post_init__(self) -> None:
        if self.neighbours not in WORD_KINDS:
            raise UserError(
                f"words.neighbours={self.neighbours} is not known: choose one of"
                f" {', '.join(WORD_KINDS)}"
            )
