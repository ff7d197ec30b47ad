"""The keys of the verbs `relations mine` and `relations report`, and of new words; those of
`relations` stand beside the kinds of graphs (c2srt/relations/kinds.py).

Nothing heavy is imported here: what reads a config need not load what it configures.
"""

import math
from dataclasses import dataclass
from typing import Any

from c2srt.errors import UserError
from c2srt.keys import Mark, Takes, key
from c2srt.relations.kinds import KINDS
from c2srt.shared_keys import shared

CANDIDATES = ("shortlist", "pages")
SOURCES = ("similarity", "words", "cooccurrence")  # of a shortlist
FORMS = ("json", "text")  # of a reply
WORD_KINDS = ("similarity", "llm")


@dataclass
class MineConfig:
    """Keys of `c2srt relations mine`."""

    model: str | None = key(None, "the model's name; null: OPENAI_MODEL")
    url: str | None = key(
        None,
        "address of the API, http(s)://host/v1; null: OPENAI_BASE_URL, else OpenAI's own",
        takes=Takes.ADDRESS,
    )
    price_input: float | None = key(
        None, "USD for a million prompt tokens; needed, 0 for a model of your own", unit="USD"
    )
    price_output: float | None = key(
        None, "USD for a million tokens of the reply; needed", unit="USD"
    )
    budget: float = key(
        10.0,
        "USD, a hard limit over all runs of this ledger: no request is sent that could pass it",
        unit="USD",
    )
    seen: str | None = key(
        None,
        (
            "label list of your own: a file with a name, or MID<tab>name, a "
            "line; null: the shards' vocabulary"
        ),
    )
    unseen: str | None = key(None, "… and the categories that only receive")
    targets: list[str] | None = key(None, "only these (MIDs or names); null: every category")
    candidates: str = key(
        "shortlist",
        (
            "shortlist: the `size` most promising seen categories | pages: all "
            "of them, `size` a prompt"
        ),
    )
    size: int = key(
        1000,
        (
            "seen categories in one prompt (what a shortlist of this size "
            "misses: c2srt/DECISIONS.md)"
        ),
    )
    sources: list[str] = key(
        ["similarity", "words"],
        (
            "of the shortlist, taking turns: similarity (run `c2srt text` "
            "first), words, cooccurrence"
        ),
    )
    queries: int = key(
        1, "questions a target, each with the list shuffled anew; strengths are averaged"
    )
    form: str = key(
        "auto",
        (
            "json: structured output | text: the paper's format | auto: json, "
            "text where it is refused"
        ),
    )
    temperature: float | None = key(None, "null: the endpoint's own")
    max_output: int = key(
        4000,
        (
            "tokens that a reply may have, a model's thinking among them; one "
            "that is cut off is asked for again"
        ),
    )
    concurrency: int = key(16, "requests under way at once", mark=Mark.HARMLESS)
    attempts: int = key(
        3,
        (
            "replies asked for until one can be read and invents no name; then "
            "the best of them counts"
        ),
        mark=Mark.HARMLESS,
    )
    tries: int = key(
        8,
        "requests for one reply, over rate limits, 5xx and dropped connections",
        mark=Mark.HARMLESS,
    )
    backoff_s: float = key(
        1.0,
        "wait before the second request, doubling up to 60; a Retry-After is obeyed instead",
        unit="s",
        mark=Mark.HARMLESS,
    )
    timeout_s: float = key(120.0, "how long a reply may take", unit="s", mark=Mark.HARMLESS)
    batch_export: str | None = key(
        None,
        (
            "folder: write the open questions as files for a batch API instead "
            "(--batch-export FOLDER)"
        ),
        mark=Mark.HARMLESS,
    )
    batch_import: Any = key(
        None,
        (
            "files or folders of results to read instead, as in [results.jsonl] "
            "(--batch-import FILE)"
        ),
    )
    shards: str = shared("shards")
    text: str = shared("text")
    out: str = key(
        "",
        "folder written: ledger.jsonl, relations.jsonl",
        mark=Mark.HARMLESS,
        follows="${work}/relations/mined",
    )
    seed: int = shared("seed")

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
    """Keys of `c2srt relations report`."""

    graphs: list[str] | None = key(
        None, "kinds to compare, as in [llm,similarity]; null: all that are there"
    )
    folder: str = key(
        "", "where the graphs lie, a folder each, named by kind", follows="${work}/relations"
    )
    neighbours: int | None = key(None, "K compared; null: as many as every graph keeps")
    draw: list[str] = key(
        [], "categories for figure 10 (MIDs or names); none: the one that most listen to"
    )
    shards: str = shared("shards")
    text: str = shared("text")
    out: str = key("", "folder written", mark=Mark.HARMLESS, follows="${work}/relations/report")

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

    neighbours: str = key(
        "similarity",
        (
            "similarity: by text, offline | llm: asks a language model, as "
            "`c2srt relations mine` does"
        ),
    )
    cache: str | None = key(
        None,
        "folder where they are kept; null: new-words/ in the checkpoint's folder",
        mark=Mark.HARMLESS,
    )
    model: str | None = key(
        None,
        (
            "llm: the keys of `c2srt relations mine` (its --help explains "
            "them); the key is OPENAI_API_KEY"
        ),
    )
    url: str | None = key(None, "as there", takes=Takes.ADDRESS)
    price_input: float | None = key(None, "as there")
    price_output: float | None = key(None, "as there")
    budget: float = key(1.0, "USD, over all words ever asked about", unit="USD")
    size: int = key(1000, "as there")
    queries: int = key(1, "as there")

    def __post_init__(self) -> None:
        if self.neighbours not in WORD_KINDS:
            raise UserError(
                f"words.neighbours={self.neighbours} is not known: choose one of"
                f" {', '.join(WORD_KINDS)}"
            )

    def mining(self) -> MineConfig:
        """The keys of `c2srt relations mine` that new words are asked about with."""
        return MineConfig(
            model=self.model,
            url=self.url,
            price_input=self.price_input,
            price_output=self.price_output,
            budget=self.budget,
            size=self.size,
            queries=self.queries,
        )
