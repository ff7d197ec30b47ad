"""The question about one category, and the strict reading of its answer (supplement B.3 of the
paper).

Two answer forms: `json` (structured output, `SCHEMA`) and `text` (the paper's "Related Category
[Number]: …" blocks). A reply is read in whichever of the two it is written in. A category is named
by its label: its display name, with the MID behind it where several categories of the vocabulary
share the name.
"""

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np

from c2srt.errors import UserError
from c2srt.relations.answers import STRENGTH
from c2srt.vocabulary import Vocabulary

VERSION = "b3-1"
TYPES = {
    "synonymy": "Synonymy/Similarity",
    "is-a": "Is-a/Hypernym",
    "functional": "Functional Relationship",
    "co-occurrence": "Co-occurrence",
    "part-whole": "Part-Whole Relationship",
}
READ_AS = {
    "synonymy": "synonymy",
    "similarity": "synonymy",
    "is-a": "is-a",
    "hypernym": "is-a",
    "functional": "functional",
    "co-occurrence": "co-occurrence",
    "cooccurrence": "co-occurrence",
    "part-whole": "part-whole",
}
NONE = "No related categories"
BLOCK = re.compile(r"(?mi)^[^\w\n]*related category (\d{1,9})[^\w\n]*?:")

# How models mark what they think aloud: <think>, <thinking>, <seed:think>, ◁think▷, [THINK],
# <|begin_of_thought|>, and the channels of harmony (<|channel|>analysis …
# <|channel|>final<|message|>). Some servers' templates swallow the opening mark.
_ALOUD = (
    r"(?:\w+:)?(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad"
    r"|(?:inner|internal)_monologue)"
)
THINKING = re.compile(
    rf"<{_ALOUD}(?:\s[^<>]*)?>|◁{_ALOUD}▷|<\|(?:begin_of_)?{_ALOUD}\|>"
    r"|<\|channel\|>\s*(?:analysis|commentary)"
    r"|(?-i:\[THINK\])",
    re.IGNORECASE,
)
THOUGHT = re.compile(
    rf"<\s*/\s*{_ALOUD}\s*>|◁/{_ALOUD}▷|<\|(?:end_of_|/){_ALOUD}\|>"
    r"|<\|channel\|>\s*final\b.{0,60}?<\|message\|>|(?-i:\[/THINK\])",
    re.IGNORECASE,
)

SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "related_categories",
        "strict": True,
        "schema": {
            "type": "object",
            "additionalProperties": False,
            "required": ["related"],
            "properties": {
                "related": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["category", "type", "strength", "explanation"],
                        "properties": {
                            "category": {"type": "string"},
                            "type": {"type": "string", "enum": list(TYPES.values())},
                            "strength": {"type": "string", "enum": ["High", "Medium", "Low"]},
                            "explanation": {"type": "string"},
                        },
                    },
                }
            },
        },
    },
}

QUESTION = """\
Based on the following list of known categories, please identify all categories that have a \
direct relationship with the new category "{target}". For each related category, provide the type \
of relationship, the association strength (High, Medium, Low), and a brief explanation. Copy the \
names from the list exactly as they stand there; use no other names.

Types of Relationships
1. Synonymy/Similarity: Two categories are conceptually very similar or synonymous.
2. Is-a/Hypernym: One category is a superordinate or subordinate concept of the other.
3. Functional Relationship: The function or use of one category is related to the other.
4. Co-occurrence: Two categories often appear in the same context or environment.
5. Part-Whole Relationship: One category is a component of the other.

{instructions}

List of known categories, one a line:
{candidates}

Focus on associations that would be most relevant for understanding or classifying "{target}", the \
strongest first."""

INSTRUCTIONS = {
    "json": (
        """Answer with one JSON object and nothing else:
{"related": [{"category": "natural", "type": "Synonymy/Similarity", "strength": "High", \
"explanation": "…"}, …]}
The list is empty if no category of the list is related."""
    ),
    "text": (
        """Provide the information for each related category in the following format, and write \
nothing else:

Related Category [Number]: [Category Name]
- Type of Relationship: [Relationship Type]
- Association Strength: High / Medium / Low
- Explanation: [Brief explanation of the relationship and the reason for the assigned strength]

For example, for the new category "nature":

Related Category 1: natural
- Type of Relationship: Synonymy/Similarity
- Association Strength: High
- Explanation: "Natural" is conceptually very similar to "nature" as both refer to elements of the \
physical world not created by humans.

If no category of the list is related, write: """
        + NONE
    ),
}


class Unparsable(ValueError):
    """A reply that is in neither form; says why."""


@dataclass(frozen=True)
class Labels:
    """How the prompt names the categories: `shown` [C] (str objects) by column, and `column` from
    the normalised label.
    """

    shown: np.ndarray
    column: dict[str, int]


def make_labels(vocabulary: Vocabulary) -> Labels:
    """Raises UserError on an empty name."""
    names = [" ".join(name.split()) for name in vocabulary.names]
    if "" in names:
        mid = vocabulary.mids[names.index("")]
        raise UserError(
            f"category {mid!r} of the label list has an empty name: give it one, a language model"
            " cannot guess it"
        )
    shared = Counter(map(normalised, names))
    shown = [
        name if shared[normalised(name)] == 1 else f"{name} ({mid})"
        for name, mid in zip(names, vocabulary.mids, strict=True)
    ]
    return Labels(
        np.array(shown, dtype=object),
        {normalised(label): column for column, label in enumerate(shown)},
    )


def normalised(label: str) -> str:
    """What two spellings of one label have in common: case, width, white space and quotes around it
    are ignored.
    """
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split()).strip("\"'“”‘’«»` ")


def prompt_text(target: str, candidates: list[str], form: str) -> str:
    """The prompt for one target and the labels of its candidates."""
    parts = {
        "target": target,
        "instructions": INSTRUCTIONS[form],
        "candidates": "\n".join(candidates),
    }
    return re.sub(r"\{(target|instructions|candidates)\}", lambda match: parts[match[1]], QUESTION)


def read_reply(text: str) -> list[tuple[str, str, str]]:
    """(label as written, relation type, strength word) of each related category, in order. Raises
    Unparsable.

    What a model thinks aloud before it answers is no part of the answer.
    """
    answer = spoken(text)
    if BLOCK.search(answer):
        return read_blocks(answer)
    if "{" in answer:
        return read_object(answer)
    if normalised(answer).strip(".* \ufeff") == normalised(NONE):
        return []
    raise Unparsable("neither a JSON object nor 'Related Category 1: …'")


def spoken(text: str) -> str:
    """What stands behind the last end of thinking. Raises Unparsable where thinking has no end, or
    nothing follows it.
    """
    ends = list(THOUGHT.finditer(text))
    answer = text[ends[-1].end() :] if ends else text
    if THINKING.search(answer):
        raise Unparsable("the thinking has no end")
    if ends and not answer.strip():
        raise Unparsable("thinking without an answer")
    return answer


def read_object(text: str) -> list[tuple[str, str, str]]:
    """The `json` form: one whole object; text before and behind it (a code fence) is allowed, a
    second object is not.
    """
    try:
        found, end = json.JSONDecoder(object_pairs_hook=once).raw_decode(text, text.index("{"))
    except (ValueError, RecursionError) as error:
        raise Unparsable(f"broken or cut off JSON ({error})") from None
    if "{" in text[end:]:
        raise Unparsable("more than one JSON object")
    try:
        return [
            entry(item["category"], item["type"], item["strength"]) for item in found["related"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise Unparsable(f"not the fields asked for ({type(error).__name__} {error})") from None


def once(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object whose keys all differ. Raises ValueError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def read_blocks(text: str) -> list[tuple[str, str, str]]:
    """The `text` form; markdown's stars, hashes and list marks are ignored, text round the blocks
    is allowed.

    The blocks are numbered from 1: a second list, or one of the other form, would be a draft, and a
    missing number is a loss.
    """
    numbers = [int(number) for number in BLOCK.findall(text)]
    if numbers != list(range(1, len(numbers) + 1)):
        raise Unparsable(
            f"related categories numbered {', '.join(map(str, numbers[:9]))}: a second list, or a"
            " part of one"
        )
    if re.search(r'\{\s*"related"', text):
        raise Unparsable("both a JSON object and 'Related Category 1: …'")
    found = []
    for block in BLOCK.split(text)[2::2]:
        lines = [line.replace("**", "").strip(" \t-–—•*#") for line in block.strip().splitlines()]
        fields = {
            key.strip().casefold(): value.strip()
            for key, _, value in (line.partition(":") for line in lines[1:])
        }
        try:
            found.append(
                entry(lines[0], fields["type of relationship"], fields["association strength"])
            )
        except (KeyError, IndexError) as error:
            raise Unparsable(f"a related category without {error}") from None
    return found


def entry(label: str, kind: str, strength: str) -> tuple[str, str, str]:
    """Checked fields. Raises Unparsable on an unknown relation type or strength."""
    letters = re.match(r"[a-z-]*", kind.casefold().replace("–", "-").strip())
    word = letters[0] if letters else ""
    strength = strength.casefold().strip(" .*")
    if word not in READ_AS:
        raise Unparsable(f"unknown relation type {kind[:40]!r}")
    if strength not in STRENGTH:
        raise Unparsable(f"unknown strength {strength[:40]!r}")
    if not label.strip():
        raise Unparsable("a related category without a name")
    return label.strip(), READ_AS[word], strength
