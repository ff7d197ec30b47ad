"""Which seen categories a language model is shown for a target: 7,186 names fit no prompt.

A shortlist of size S merges ranked sources: text similarity, shared words, co-occurrence (seen
targets only). They take turns: a candidate's place is the best place that any source gives it, the
earlier source first among equals. Places that the sources leave free (names that share no word with
any other) are drawn from the rest at random, with a fixed seed.

`coverage` measures, against relations that are known, what share of the true neighbours a shortlist
holds. Letters: C categories, S seen, n size.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from torch import Tensor

from c2srt.relations.answers import Answers
from c2srt.relations.baselines import SAME_TO
from c2srt.relations.cooccurrence import Counts, most_together
from c2srt.relations.neighbours import ABSENT
from c2srt.vocabulary import Vocabulary

ROWS = 256  # of the similarity matrix held at once
WORD = re.compile(r"[^\W_]+")


def merge(rankings: Iterable[np.ndarray], size: int) -> np.ndarray:
    """One target's rankings (columns, best first, −1 = none) -> at most `size` different columns,
    sources taking turns.
    """
    rankings = list(rankings)
    depth = max((len(ranking) for ranking in rankings), default=0)
    turns = np.full((depth, len(rankings)), ABSENT, np.int64)
    for source, ranking in enumerate(rankings):
        turns[: len(ranking), source] = ranking
    flat = turns.ravel()
    flat = flat[flat != ABSENT]
    _, first = np.unique(flat, return_index=True)
    return flat[np.sort(first)][:size]


def by_similarity(
    features: Tensor, seen_count: int, rows: list[int], depth: int
) -> list[np.ndarray]:
    """The `depth` most similar other seen categories of each row, from text features [C, D]; ties
    go to the lower column.

    As `most_similar` of baselines.py, but numpy's partition is several times faster than a top-k of
    a thousand.
    """
    found, seen = [], features[:seen_count].float()
    columns = np.arange(seen_count)
    for start in range(0, len(rows), ROWS):
        part = np.array(rows[start : start + ROWS])
        cosine = (
            np.rint((features[part].float() @ seen.T).numpy() * SAME_TO).astype(np.int64)
            + 2 * SAME_TO
        )
        keys = np.where(
            columns == part[:, None], -1, cosine * seen_count + (seen_count - 1 - columns)
        )
        best = -np.sort(
            -np.partition(keys, seen_count - depth, axis=1)[:, seen_count - depth :], axis=1
        )
        found += [seen_count - 1 - row[row >= 0] % seen_count for row in best]
    return found


def by_cooccurrence(counts: Counts, rows: list[int], depth: int) -> list[np.ndarray]:
    """The seen categories that most often come with each row; nothing for an unseen one."""
    none = np.zeros(0, np.int32)
    return [
        most_together(counts.together[row] if row < len(counts.together) else none, depth)
        for row in rows
    ]


def by_words(vocabulary: Vocabulary, rows: list[int], depth: int) -> list[np.ndarray]:
    """Seen categories whose names share words with the row's, rare words weighing more (cosine of
    idf weights).

    Words are compared without case and without a plural's ending; ties go to the lower column.
    """
    words = [words_of(name) for name in vocabulary.names]
    seen = vocabulary.seen_count
    holders: dict[str, list[int]] = defaultdict(list)
    for column in range(seen):
        for word in words[column]:
            holders[word].append(column)
    weight = {word: math.log(1 + seen / len(columns)) for word, columns in holders.items()}
    length = [math.sqrt(sum(weight[word] ** 2 for word in words[column])) for column in range(seen)]
    found = []
    for row in rows:
        score: defaultdict[int, float] = defaultdict(float)
        for word in words[row]:
            for column in holders.get(word, ()):
                if column != row:
                    score[column] += weight[word] ** 2 / length[column]
        ranked = sorted(score.items(), key=lambda item: (-round(item[1], 9), item[0]))[:depth]
        found.append(np.array([column for column, _ in ranked], np.int64))
    return found


def words_of(name: str) -> set[str]:
    """The words of a name, lower case, singular by rule of thumb."""
    return {singular(word) for word in WORD.findall(name.casefold())}


def singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def shortlists(
    vocabulary: Vocabulary,
    rows: list[int],
    size: int,
    features: Tensor | None = None,
    counts: Counts | None = None,
    words: bool = True,
) -> list[np.ndarray]:
    """For each row at most `size` columns of seen categories, most promising first; sources that
    are not given are left out.
    """
    sources = []
    if features is not None:
        sources.append(
            by_similarity(features, vocabulary.seen_count, rows, min(size, vocabulary.seen_count))
        )
    if words:
        sources.append(by_words(vocabulary, rows, size))
    if counts is not None:
        sources.append(by_cooccurrence(counts, rows, size))
    drawn = np.random.default_rng(0).permutation(vocabulary.seen_count)
    merged = [merge(rankings, size) for rankings in zip(*sources, strict=True)]
    return [
        filled(candidates, row, drawn, size) for row, candidates in zip(rows, merged, strict=True)
    ]


def filled(candidates: np.ndarray, row: int, drawn: np.ndarray, size: int) -> np.ndarray:
    """The candidates and, where there are fewer than `size`, others in the order of `drawn`."""
    if len(candidates) >= size:
        return candidates
    others = drawn[~np.isin(drawn, candidates) & (drawn != row)]
    return np.concatenate([candidates, others[: size - len(candidates)]]).astype(np.int64)


def coverage(
    lists: list[np.ndarray],
    rows: list[int],
    vocabulary: Vocabulary,
    answers: Answers,
    sizes: Iterable[int],
) -> dict[int, float]:
    """Share of the known relations (seen ones, of these rows) that the first n candidates hold, for
    each n of `sizes`.
    """
    places, total = [], 0
    for row, candidates in zip(rows, lists, strict=True):
        place = {int(column): number for number, column in enumerate(candidates)}
        for answer in answers.related.get(vocabulary.mids[row], ()):
            column = vocabulary.index.get(answer.key)
            if column is not None and column < vocabulary.seen_count and column != row:
                total += 1
                if column in place:
                    places.append(place[column])
    return {size: sum(place < size for place in places) / max(total, 1) for size in sizes}
