"""Names of categories that differ by capitals, white space or an English plural alone: one of the
two is mostly a slip, and a model is told that the other is absent.

A plural is one that a rule makes: dog/dogs, bus/buses, berry/berries, leaf/leaves, of any one word
of a name. What only a dictionary knows (man/men, mouse/mice), other languages, synonyms and typing
errors are not found; nor is one right to join what it finds (glass/glasses may be two things).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SAME, CAPITALS, BLANKS, PLURAL = KINDS = ("same name", "capitals", "white space", "plural")
BETWEEN = re.compile(r"[\s_\-\u2010-\u2015]+")
"""What may stand between the words of a name: white space, underscores, hyphens and dashes."""
HISSING = ("s", "x", "z", "ch", "sh", "o")
"""Ends of words whose plural is -es."""


@dataclass(frozen=True)
class Twins:
    """Two columns, the earlier one first, and how their names differ: one of KINDS."""

    first: int
    second: int
    kind: str


def twins(names: Sequence[str]) -> list[Twins]:
    """The pairs among C names, sorted; each name is paired with the first one that it equals."""
    texts: dict[str, int] = {}
    folded: dict[str, int] = {}
    joined: dict[str, int] = {}
    found: dict[tuple[int, int], str] = {}
    words = [BETWEEN.split(unicodedata.normalize("NFKC", name).casefold()) for name in names]
    for column, name in enumerate(names):
        text = unicodedata.normalize("NFKC", name)
        for kind, known, form in (
            (SAME, texts, text),
            (CAPITALS, folded, text.casefold()),
            (BLANKS, joined, "".join(words[column])),
        ):
            first = known.setdefault(form, column)
            if first != column:
                found.setdefault((first, column), kind)
                break
    for column, own in enumerate(words):
        for form in singulars(own):
            other = joined.get(form, column)
            if other != column:
                found.setdefault((min(column, other), max(column, other)), PLURAL)
    return [Twins(*pair, kind) for pair, kind in sorted(found.items())]


def singulars(words: Sequence[str]) -> Iterator[str]:
    """A name's words, joined, with one of them in the singular that a rule makes of it."""
    for at, word in enumerate(words):
        for single in singulars_of(word):
            yield "".join([*words[:at], single, *words[at + 1 :]])


def singulars_of(word: str) -> Iterator[str]:
    """What a word may be the plural of."""
    if word.endswith("s") and not word.endswith("ss"):
        yield word[:-1]
    if word.endswith("es") and word[:-2].endswith(HISSING):
        yield word[:-2]
    if word.endswith("ies"):
        yield f"{word[:-3]}y"
    if word.endswith("ves"):
        yield from (f"{word[:-3]}f", f"{word[:-3]}fe")
