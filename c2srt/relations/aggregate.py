"""Ledger → relations file: several queries and pages of a target become one line.

The strength of a relation is its mean over the target's answered queries, 0 where a query does not
name it (supplement B.3). Order: mean strength, then how many queries name it, then its mean place
in their answers, then the column.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from c2srt.errors import UserError
from c2srt.files import hash_of, whole_file
from c2srt.relations.answers import read_answers
from c2srt.relations.ledger import REMEDY, events
from c2srt.relations.questions import Questions
from c2srt.vocabulary import Vocabulary


def check_before(ledger: Path, path: Path, questions: Questions) -> None:
    """Raises UserError, before a question is paid for, if the relations file has answers that would
    be lost.
    """
    if path.exists():
        found, _, _ = collect(ledger, everything(questions))
        check_others(path, {*found, *questions.rows}, questions)


def check_others(path: Path, rows: Iterable[int], questions: Questions) -> None:
    """Raises UserError if a relations file that is to be written anew has answers for other targets
    than `rows`.
    """
    known = {questions.vocabulary.mids[row] for row in rows}
    if others := [mid for mid in answered_in(path) if mid not in known]:
        raise UserError(
            f"{path} was left as it is: it has answers for {len(others):,} categories, such as"
            f" {others[0]}, that the ledger beside it has not; choose another out=…, or ask about"
            " them, too"
        )


def answered_in(path: Path) -> Iterable[str]:
    """The MIDs that a relations file answers for; none where it cannot be read: it is about to be
    made anew.
    """
    with suppress(UserError):
        return read_answers(path).related if path.exists() else ()
    return ()


def everything(questions: Questions) -> Questions:
    """The same questions about every category."""
    return replace(questions, rows=list(range(len(questions.vocabulary))))


def write_relations(ledger: Path, path: Path, questions: Questions) -> dict:
    """Writes the relations file; returns {"answered": targets of these questions, "others": the
    file's further lines, "open": questions without an answer, "relations", "provenance"}.

    Every target of which the ledger has an answer gets a line, even an empty one, whether this run
    asks about it or not: a trial on a few categories takes nothing out of a file that holds more.
    """
    found, answered, summary = collect(ledger, everything(questions))
    check_others(path, found, questions)
    provenance, relations = summary.provenance(questions), 0
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"provenance": provenance}, ensure_ascii=False) + "\n")
        for row in sorted(found):
            line = line_of(row, found[row], questions.vocabulary)
            relations += len(line["related"])
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    own = sum(row in found for row in questions.rows)
    return {
        "answered": own,
        "others": len(found) - own,
        "open": sum(question.id not in answered for question in questions),
        "relations": relations,
        "provenance": provenance,
    }


def line_of(row: int, answers: dict[tuple[int, int], list], vocabulary: Vocabulary) -> dict:
    """A line of the relations file (c2srt/relations/answers.py), from the target's answers."""
    return {
        "mid": vocabulary.mids[row],
        "name": vocabulary.names[row],
        "split": "seen" if row < vocabulary.seen_count else "unseen",
        "queries": len({query for query, _ in answers}),
        "related": [
            {
                "mid": vocabulary.mids[column],
                "name": vocabulary.names[column],
                "type": relation_type,
                "strength": strength,
            }
            for column, relation_type, strength in averaged(answers)
        ],
    }


def collect(
    ledger: Path, questions: Questions
) -> tuple[dict[int, dict[tuple[int, int], list]], set[str], "LedgerSummary"]:
    """Answers of these questions in the ledger: row → (query, page) → related; the ids that have
    one; the ledger's summary.
    """
    wanted = {question.id: question for question in questions}
    found: dict[int, dict[tuple[int, int], list]] = defaultdict(dict)
    answered: set[str] = set()
    summary = LedgerSummary()
    for event in events(ledger):
        summary.take(event)
        if (
            event.get("final")
            and event["id"] not in answered
            and (question := wanted.get(event["id"]))
        ):
            answered.add(question.id)
            related = event["related"] or []
            if any(column >= len(questions.vocabulary) for column, _, _ in related):
                raise UserError(f"{ledger} names categories that the label list has not: {REMEDY}")
            found[question.row][question.query, question.page] = related
    return found, answered, summary


def averaged(answers: dict[tuple[int, int], list]) -> list[tuple[int, str, float]]:
    """(query, page) -> its relations, in the ledger's form, becomes (column, most frequent type,
    mean strength) of every category named, in the order of this module's docstring.
    """
    queries = len({query for query, _ in answers})
    strengths: defaultdict[int, float] = defaultdict(float)
    places: defaultdict[int, list[int]] = defaultdict(list)
    types: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for _, related in sorted(answers.items()):
        for place, (column, kind, strength) in enumerate(related):
            strengths[column] += strength / queries
            places[column].append(place)
            types[column][kind] += 1
    order = sorted(
        strengths,
        key=lambda column: (
            -round(strengths[column], 9),
            -len(places[column]),
            sum(places[column]) / len(places[column]),
            column,
        ),
    )
    return [
        (column, types[column].most_common(1)[0][0], round(strengths[column], 4))
        for column in order
    ]


class LedgerSummary:
    """What the provenance says of a ledger, from its events in order."""

    def __init__(self) -> None:
        self.models: Counter[str] = Counter()
        self.endpoints: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.unusable = 0
        self.requests = self.faults = self.input_tokens = self.output_tokens = 0
        self.spent, self.last = 0.0, ""

    def take(self, event: dict) -> None:
        kind = event["event"]
        self.requests += kind == "ask"
        self.faults += kind == "fault"
        if kind == "reply":
            self.models[event["model"]] += 1
            self.endpoints[event["endpoint"]] += 1
            self.outcomes[event["verdict"]] += 1
            self.unusable += len(event["unusable"])
            self.spent, self.last = self.spent + event["cost"], event["time"]
            self.input_tokens += event["tokens"][0] or 0
            self.output_tokens += event["tokens"][1] or 0

    def provenance(self, questions: Questions) -> dict:
        identity = questions.identity
        return {
            "model": ", ".join(sorted(self.models)),
            "asked_for": identity["model"],
            "endpoint": ", ".join(sorted(self.endpoints)),
            "prompt": identity["prompt"],
            "queries": questions.queries,
            "mined": self.last,
            "settings": identity,
            "settings_hash": hash_of(identity),
            "requests": self.requests,
            "faults": self.faults,
            "replies": dict(sorted(self.outcomes.items())),
            "unusable_names": self.unusable,
            "tokens": [self.input_tokens, self.output_tokens],
            "spent_usd": round(self.spent, 6),
        }
