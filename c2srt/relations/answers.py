"""Mined relations → neighbour table (kinds `llm` and `mined`).

A relations file is JSONL, a line a category:

    {"mid", "name", "split": "seen" | "unseen", "related": [{"mid", "name", "type", "strength"}…]}

`strength` is high, medium or low (3, 2, 1), or a number in (0, 3]: the mean over several queries, a
query that does not name the category counting 0 (supplement B.3). A first line {"provenance": {…}}
may say where the relations come from. Where the data set has no MIDs (NUS-WIDE) `mid` is left out
and the name is the key.

Order of a category's neighbours: stronger first; equal strengths in the file's order. Letters: C
categories, K neighbours.
"""

import gzip
import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from c2srt.bounds import Within
from c2srt.errors import UserError
from c2srt.hints import Command, flag
from c2srt.opened import check_line, json_line, read_lines, wrong_line
from c2srt.relations.neighbours import Neighbours, no_neighbours
from c2srt.scratch import named
from c2srt.shown import printable, shown
from c2srt.storage import mirror
from c2srt.vocabulary import Vocabulary

log = logging.getLogger(__name__)

STRENGTH = {"high": 3, "medium": 2, "low": 1}
STRONGEST = 3
SHIPPED = "relations_provenance.json"
"""The shipped relations files, and what each was made from."""
A_LINE = "a relations line"
REMEDY = (
    "a line needs mid or name, and related with mid or name and a strength of high, medium, low or"
    " a number up to 3"
)


@dataclass(frozen=True)
class Entry:
    """What each of a line's `related` must have; mid or name."""

    strength: str | Annotated[float, Within(gt=0, le=STRONGEST)]
    mid: str | None = None
    name: str | None = None
    type: str | None = None


@dataclass(frozen=True)
class Line:
    """What a line must have; mid or name."""

    related: list[Entry]
    mid: str | None = None
    name: str | None = None


class Relation(NamedTuple):
    """One answer: the related seen category's key (MID, or name without MIDs), its strength in (0,
    3], its relation type.
    """

    key: str
    strength: float
    type: str


@dataclass(frozen=True)
class Answers:
    """Mined relations. `related`: category key -> relations in the file's order. `provenance` is
    what the file's first line, or the project for its own files, says of model, prompt and queries.
    `hash` identifies the content.
    """

    source: str
    related: dict[str, list[Relation]]
    provenance: dict
    hash: str


def find_answers(root: str | None, vocabulary: Vocabulary) -> Answers:
    """`<root>/relations.jsonl`, else the shipped file of this vocabulary. Raises UserError."""
    if root and mirror.there(own := Path(root) / "relations.jsonl"):
        return read_answers(own)
    for name in json.loads(shipped(SHIPPED)):
        answers = shipped_answers(name)
        if 2 * sum(mid in answers.related for mid in vocabulary.mids) >= len(vocabulary) > 0:
            return answers
    raise UserError(
        "no shipped relations fit this vocabulary (they know less than half of its categories):"
        f" give mined ones with relations_file=<file.jsonl> (`{flag('relations-mine', '--help')}`"
        " says how to make them), or choose graph=similarity"
    )


def answers_about(path: Path, vocabulary: Vocabulary, shards: str) -> Answers:
    """The relations of one's own file; `shards` is where the vocabulary came from. Raises
    UserError, also if they are about none of its categories.
    """
    answers = read_answers(path)
    if not any(mid in answers.related for mid in vocabulary.mids):
        raise UserError(
            f"{answers.source} answers for none of the {len(vocabulary):,} categories of {shards}:"
            " give the data set that it belongs to (data=…), or the file of this one"
        )
    return answers


def shipped(name: str) -> bytes:
    """A file that ships with the project."""
    return files("c2srt").joinpath("data_files", name).read_bytes()


def shipped_answers(name: str) -> Answers:
    """Relations that ship with the project, with the provenance that `relations_provenance.json`
    records for them.
    """
    answers = parse_answers(gzip.decompress(shipped(name)), f"shipped {name}", None)
    provenance = json.loads(shipped(SHIPPED))[name]
    return Answers(answers.source, answers.related, provenance, answers.hash)


def read_answers(path: Path) -> Answers:
    """Reads a relations JSONL, gzip-compressed if its name ends in .gz. Raises UserError naming the
    line that is wrong.
    """
    if not mirror.there(path):
        raise UserError(
            f"the relations file {path} cannot be read: there is none;"
            f" `{Command('relations-mine')}` makes one"
        )
    return parse_answers(b"".join(line for _, line in read_lines(path, REMEDY)), str(path))


def parse_answers(content: bytes, source: str, shape: type | None = Line) -> Answers:
    """Lines of a relations file -> Answers; blank lines are skipped. Raises UserError naming the
    line, which must have `shape`.
    """
    related: dict = {}
    provenance: dict = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        row = json_line(line, source, number, A_LINE, REMEDY)
        if isinstance(row.get("provenance"), dict):
            provenance |= row["provenance"]
            continue
        if shape is not None:
            check_line(line, source, number, A_LINE, REMEDY, shape)
        try:
            key, found = key_of(row), [relation(answer) for answer in row["related"]]
        except KeyError as error:
            raise wrong_line(
                source, number, f"not {A_LINE} (what is {shown(error)}?)", REMEDY
            ) from None
        if key in related:
            raise UserError(
                f"{source}, line {number:,}: category {shown(key)} was answered before; keep one"
                " line a category"
            )
        related[key] = found
    return Answers(named(source), related, provenance, hashlib.sha256(content).hexdigest()[:16])


def relation(answer: dict) -> Relation:
    """One entry of `related` that fits `Entry`. Raises KeyError on another word for its strength,
    or without a name.
    """
    strength = answer["strength"]
    value = STRENGTH[strength.lower()] if isinstance(strength, str) else float(strength)
    return Relation(key_of(answer), value, str(answer.get("type") or ""))


def key_of(row: dict) -> str:
    return row["mid"] if row.get("mid") is not None else row["name"]


def llm_neighbours(
    answers: Answers, vocabulary: Vocabulary, k: int
) -> tuple[Neighbours, dict[str, int]]:
    """The k strongest relations of every category, equal strengths in the file's order; and the
    counts of what was dropped.
    """
    empty = no_neighbours(len(vocabulary), k)
    counts: Counter[str] = Counter()
    table, strengths, types = (
        empty.table,
        empty.strengths,
        np.full((len(vocabulary), k), "", dtype=object),
    )
    counts["answers for categories outside the vocabulary"] = sum(
        key not in vocabulary.index for key in answers.related
    )
    for row, mid in enumerate(vocabulary.mids):
        counts["categories without an answer"] += mid not in answers.related
        ranked = sorted(answers.related.get(mid, ()), key=lambda answer: -answer.strength)
        kept = usable(mid, ranked, vocabulary, counts)[:k]
        for place, answer in enumerate(kept):
            table[row, place], strengths[row, place] = vocabulary.index[answer.key], answer.strength
            types[row, place] = answer.type
    return Neighbours(table, strengths, types), dict(counts)


def usable(
    mid: str, related: list[Relation], vocabulary: Vocabulary, counts: Counter
) -> list[Relation]:
    """The relations that may be neighbours of `mid`, in order; counts what is dropped and why."""
    kept: dict[int, Relation] = {}
    for answer in related:
        column = vocabulary.index.get(answer.key)
        if column is None:
            counts["related categories outside the vocabulary"] += 1
        elif answer.key == mid:
            counts["categories related to themselves"] += 1
        elif column >= vocabulary.seen_count:
            counts["related categories that are unseen"] += 1
        elif column in kept:
            counts["related categories named twice"] += 1
        else:
            kept[column] = answer
    return list(kept.values())


def log_dropped(counts: dict[str, int], source: str) -> None:
    log.info(f"relations from {printable(source)}")
    for what, count in counts.items():
        if count:
            log.info(
                f"  dropped, {what}: {count:,}"
                if not what.endswith("answer")
                else f"  {what}: {count:,}"
            )
