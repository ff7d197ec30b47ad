"""What a reader must know beside a result: the published positives per image, and unseen names that
a seen one gives away.

The constant is what most published rows imply, not all: tables/published.py says which do not.
"""

import numpy as np

from c2srt.datasets import Published, data_sets
from c2srt.vocabulary import Vocabulary


def published(vocabulary: Vocabulary) -> Published | None:
    """The constants that belong to a vocabulary; None for any other list, on which they would mean
    nothing. Where ours differ, the labels are not those of the published tables.
    """
    every = (known.published for known in data_sets().values())
    return next((one for one in every if one and one.vocabulary == vocabulary.hash), None)


def as_recorded(zsl: float, gzsl: float) -> Published | None:
    """The constants that a results.json names."""
    every = (known.published for known in data_sets().values())
    return next((one for one in every if one and (one.zsl, one.gzsl) == (zsl, gzsl)), None)


def twins_heard(vocabulary: Vocabulary, table: np.ndarray) -> int:
    """How many unseen categories that a seen one gives away have that one among their neighbours in
    table [C, K] (−1 absent): what ZSL measures of these is no transfer from other categories.
    """
    return len({unseen for unseen, seen in given_away(vocabulary) if (table[unseen] == seen).any()})


def given_away(vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """(unseen, seen) columns whose names are equal but for a plural's s (and capitals), in the
    order of the unseen ones: of such an unseen category the training saw the word.
    """
    names = [name.casefold() for name in vocabulary.names]
    seen: dict[str, int] = {}
    for column in range(vocabulary.seen_count):
        seen.setdefault(names[column], column)
    pairs = []
    for column in range(vocabulary.seen_count, len(vocabulary)):
        forms = (names[column], f"{names[column]}s", names[column].removesuffix("s"))
        pairs += [(column, seen[form]) for form in dict.fromkeys(forms) if form in seen]
    return pairs
