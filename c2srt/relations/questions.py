"""What a mining run asks: targets × queries × pages, each a pure function of the settings.

`candidates=shortlist` shows each target the `size` most promising seen categories in one prompt;
`candidates=pages` shows it the whole list, `size` at a time. Either way the list is shuffled anew
for every query. Letters: C categories, S seen.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2srt.errors import UserError
from c2srt.files import hash_of
from c2srt.relations.config import SOURCES, MineConfig
from c2srt.relations.cooccurrence import count_labels, labels_identity
from c2srt.relations.prompt import VERSION, Labels, make_labels, prompt_text
from c2srt.relations.shortlist import shortlists
from c2srt.vocabulary import Vocabulary, load_vocabulary


@dataclass(frozen=True)
class Question:
    """One request: `row` is the target's column; its candidates are `Questions.candidates`."""

    id: str
    row: int
    query: int
    page: int


@dataclass(frozen=True, repr=False)
class Questions:
    """All questions of a run. `pools`: each target's candidates before shuffling, by row;
    `identity` fixes them all.
    """

    vocabulary: Vocabulary
    labels: Labels
    rows: list[int]
    pools: dict[int, np.ndarray] | None
    size: int
    queries: int
    seed: int
    identity: dict

    @property
    def count(self) -> int:
        return self.queries * sum(self.pages(row) for row in self.rows)

    def pages(self, row: int) -> int:
        if (
            self.pools is not None
        ):  # a shortlist is one page, that of a row whose pool was not made, too
            return 1
        return max(
            1, -(-(self.vocabulary.seen_count - (row < self.vocabulary.seen_count)) // self.size)
        )

    def pool(self, row: int) -> np.ndarray:
        """Candidates of a target: its shortlist, or every other seen category."""
        if self.pools is not None:
            return self.pools[row]
        everyone = np.arange(self.vocabulary.seen_count)
        return everyone[everyone != row]

    def __iter__(self) -> Iterator[Question]:
        """Query by query, so that a run that the budget stops has asked about every target once
        before any twice.
        """
        base = hash_of(self.identity)
        for query in range(self.queries):
            for row in self.rows:
                for page in range(self.pages(row)):
                    yield Question(
                        hash_of([base, self.vocabulary.mids[row], query, page]), row, query, page
                    )

    def candidates(self, question: Question) -> np.ndarray:
        """Columns [n] in the order shown: this page of the pool as the query shuffles it."""
        digest = hashlib.sha256(
            f"{self.seed} {question.query} {self.vocabulary.mids[question.row]}".encode()
        ).digest()
        shuffled = np.random.default_rng(np.frombuffer(digest, np.uint32)).permutation(
            self.pool(question.row)
        )
        return shuffled[question.page * self.size : (question.page + 1) * self.size]

    def prompt(self, question: Question, candidates: np.ndarray, form: str) -> str:
        return prompt_text(
            self.labels.shown[question.row], self.labels.shown[candidates].tolist(), form
        )


def label_list(shards: str, seen: str | None, unseen: str | None) -> Vocabulary:
    """The vocabulary of the shards, or that of two lists with a name, or `MID<tab>name`, a line.
    Raises UserError.
    """
    if seen is None:
        if unseen is not None:
            raise UserError("unseen=… needs seen=… too: only seen categories can be related")
        return load_vocabulary(Path(shards))
    known = read_list(Path(seen))
    lines = known + (read_list(Path(unseen)) if unseen else [])
    return Vocabulary(tuple(mid for mid, _ in lines), tuple(name for _, name in lines), len(known))


def read_list(path: Path) -> list[tuple[str, str]]:
    """(MID, name) of each line; without a tab the name is its own MID. Raises UserError on an empty
    name or file.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the label list {path} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        mid, tab, name = line.partition("\t")
        if not (name if tab else mid).strip() or not mid.strip():
            raise UserError(
                f"{path}, line {number}: an empty name; write a name, or MID<tab>name, on every"
                " line"
            )
        found.append((mid.strip(), (name if tab else mid).strip()))
    if not found:
        raise UserError(f"the label list {path} is empty")
    return found


def find_rows(vocabulary: Vocabulary, targets: list[str] | None) -> list[int]:
    """Columns of the targets (MIDs or names; None: all). A name stands for every category that
    bears it. Raises UserError.
    """
    if targets is None:
        return list(range(len(vocabulary)))
    rows: dict[int, None] = {}
    for target in targets:
        named = (
            [vocabulary.index[target]]
            if target in vocabulary.index
            else [
                column
                for column, name in enumerate(vocabulary.names)
                if name.casefold() == str(target).casefold()
            ]
        )
        if not named:
            raise UserError(f"targets: the label list has no category {target!r}")
        rows |= dict.fromkeys(named)
    return list(rows)


def make_questions(config: MineConfig, model: str) -> Questions:
    """The questions of a mining config. Raises UserError."""
    vocabulary = label_list(config.shards, config.seen, config.unseen)
    labels, rows = make_labels(vocabulary), find_rows(vocabulary, config.targets)
    if vocabulary.seen_count < 2:
        raise UserError(
            "the label list has fewer than two seen categories: there is nothing to relate"
        )
    identity = {
        "vocabulary": vocabulary.hash,
        "model": model,
        "prompt": VERSION,
        "candidates": config.candidates,
        "size": config.size,
        "seed": config.seed,
        "temperature": config.temperature,
    }
    pools = None
    if config.candidates == "shortlist" and vocabulary.seen_count > config.size:
        pools, identity["sources"] = shortlisted(config, vocabulary, rows)
    return Questions(
        vocabulary, labels, rows, pools, config.size, config.queries, config.seed, identity
    )


def shortlisted(
    config: MineConfig, vocabulary: Vocabulary, rows: list[int]
) -> tuple[dict[int, np.ndarray], dict]:
    """Each row's shortlist, and what the lists were made from."""
    made_from: dict[str, str] = {source: "" for source in SOURCES if source in config.sources}
    features = counts = None
    if "similarity" in made_from:
        from c2srt.text import (
            load_text,
            text_identity,
        )  # open_clip takes seconds to import, and only this source needs it

        made_from["similarity"] = text_identity(Path(config.text), vocabulary)
        features = load_text(Path(config.text), vocabulary)
    if "cooccurrence" in made_from:
        made_from["cooccurrence"] = labels_identity(Path(config.shards), vocabulary)
        counts = count_labels(Path(config.shards), vocabulary)
    lists = shortlists(vocabulary, rows, config.size, features, counts, "words" in made_from)
    return dict(zip(rows, lists, strict=True)), made_from
