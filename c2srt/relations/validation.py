"""What a reply is worth: read, checked against the list that its prompt showed, and judged.

A pure function of the reply.
"""

from typing import Any

import numpy as np

from c2srt.relations.answers import STRENGTH
from c2srt.relations.completion import Reply
from c2srt.relations.ledger import now
from c2srt.relations.prompt import Unparsable, normalised, read_reply
from c2srt.relations.questions import Question, Questions

TOKEN_LETTERS = (
    6  # in no tokenizer's prose does a token cover more on average: these prompts have 3.5 to 4.5
)
PROMPT_CUT, CUT = "prompt cut off", "cut off"


def reply_event(
    question: Question,
    candidates: np.ndarray,
    reply: Reply,
    questions: Questions,
    cost: float,
    attempt: int,
) -> dict:
    """The ledger's line for a reply.

    Verdicts: ok, invented (unusable names beside the others), refused, unparsable; cut off, where
    the reply did not end of itself, though what is there may be readable; prompt cut off, where the
    endpoint read far less than was sent, so that the reply answers another question.
    """
    event = {
        "event": "reply",
        "id": question.id,
        "attempt": attempt,
        "time": now(),
        "model": reply.model,
        "finish": reply.finish,
        "tokens": [reply.input_tokens, reply.output_tokens],
        "cost": cost,
        "text": reply.refusal or reply.text,
        "related": None,
        "unusable": [],
    }
    event |= judged(question, candidates, reply, questions)
    return event | {"final": event["verdict"] == "ok"}


def judged(
    question: Question, candidates: np.ndarray, reply: Reply, questions: Questions
) -> dict[str, Any]:
    """What the ledger's line says of a reply's worth: `verdict`, and `related` and `unusable` or a
    `reason`.
    """
    letters = len(questions.prompt(question, candidates, "json"))  # the shorter form
    if reply.input_tokens and reply.input_tokens * TOKEN_LETTERS < letters:
        reason = f"{reply.input_tokens:,} tokens were read of a prompt of {letters:,} characters"
        return {"verdict": PROMPT_CUT, "reason": reason}
    if reply.refusal or reply.filtered and not reply.text.strip():
        return {"verdict": "refused"}
    try:
        named = read_reply(reply.text)
    except Unparsable as error:
        return {"verdict": "unparsable" if reply.whole else CUT, "reason": str(error)}
    related, unusable = resolve(named, question, candidates, questions)
    verdict = "invented" if unusable else "ok"
    return {
        "related": related,
        "unusable": unusable,
        "verdict": verdict if reply.whole else CUT,
    }


def resolve(
    named: list[tuple[str, str, str]],
    question: Question,
    candidates: np.ndarray,
    questions: Questions,
) -> tuple[list[list], list[str]]:
    """[column, type, strength 1–3] of the names that the prompt listed, each once, in order; and
    the names that it did not list.

    The target itself and repeated names are left out without complaint: they are redundant, not
    wrong.
    """
    shown = set(candidates.tolist())
    related: dict[int, list] = {}
    unusable = []
    for label, kind, strength in named:
        column = questions.labels.column.get(normalised(label))
        if column == question.row:
            continue
        if column is None or column not in shown:
            unusable.append(label)
        elif column not in related:
            related[column] = [column, kind, STRENGTH[strength]]
    return list(related.values()), unusable


def settle_event(key: str, best: dict) -> dict:
    """The ledger's line that takes an earlier reply as the answer."""
    return {"event": "settle", "id": key, "time": now(), "final": True, "related": best["related"]}


def taken_without(best: dict) -> str:
    """What is counted when this unclean reply is taken as the answer."""
    missing = "what was cut off" if best["verdict"] == CUT else "their unusable names"
    return f"answers taken without {missing}"
