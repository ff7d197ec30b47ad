"""Graphs to compare the mined one with, and new words' neighbours: `similarity` of text features,
and `random`.

Letters: C categories, S seen, K neighbours, D width.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from c2srt.progress import Progress
from c2srt.relations.neighbours import ABSENT
from c2srt.vocabulary import Vocabulary

# cosines that agree to six decimals are ties: duplicate names must not be ordered by rounding noise
SAME_TO = 1_000_000


def random_neighbours(vocabulary: Vocabulary, k: int, seed: int) -> np.ndarray:
    """Table [C, k]: k seen categories drawn without replacement, a pure function of (seed, MID, S,
    own column).

    Each category has its own generator, so adding or reordering unseen categories changes no other
    row.
    """
    seen = vocabulary.seen_count
    table = np.full((len(vocabulary), k), ABSENT, np.int32)
    for row, mid in enumerate(vocabulary.mids):
        digest = hashlib.sha256(f"{seed} {mid}".encode()).digest()
        drawn = np.random.default_rng(list(digest)).choice(seen, min(k + 1, seen), replace=False)
        drawn = drawn[drawn != row][:k]
        table[row, : len(drawn)] = drawn
    return table


def text_neighbours(features: Tensor, seen_count: int, k: int) -> np.ndarray:
    """Table [C, k] from text features [C, D] (L2-normalised): the k most similar other seen
    categories.
    """
    progress = Progress("similarity", len(features), "categories")
    table = np.full((len(features), k), ABSENT, np.int32)
    step = rows_per_chunk(seen_count)
    for start in range(0, len(features), step):
        rows = torch.arange(start, min(start + step, len(features)))
        own = torch.arange(seen_count) == rows[:, None]
        best = most_similar(features[rows], features[:seen_count], k, own)
        table[start : start + len(rows), : best.shape[1]] = best.numpy()
        progress.update(len(rows))
    progress.close()
    return table


def rows_per_chunk(columns: int, budget: int = 128 << 20) -> int:
    """Rows of a similarity chunk so that cosines and integer keys (about 24 bytes a pair) stay
    within `budget` bytes.
    """
    return max(1, budget // (24 * max(columns, 1)))


def most_similar(queries: Tensor, seen: Tensor, k: int, excluded: Tensor) -> Tensor:
    """Columns [n, min(k, S)] of the most similar `seen` [S, D] for `queries` [n, D], −1 where all
    others are excluded [n, S].

    Ties (cosines that agree to six decimals) go to the lower column. Cosine and column are packed
    in one integer, so that top-k has no ties left to break.
    """
    cosine = (queries.float() @ seen.float().T).mul_(SAME_TO).round_().long() + 2 * SAME_TO
    keys = (cosine * len(seen) + (len(seen) - 1 - torch.arange(len(seen)))).masked_fill_(
        excluded, -1
    )
    best = keys.topk(min(k, len(seen)), dim=1).values
    return torch.where(best < 0, ABSENT, len(seen) - 1 - best % max(len(seen), 1))


def similar_neighbours(
    new: Tensor,
    seen: Tensor,
    k: int,
    new_names: list[str] | None = None,
    seen_names: list[str] | None = None,
) -> Tensor:
    """Neighbours of words outside the vocabulary: [n, k] int64 columns of seen categories, best
    first, −1 absent.

    `new` [n, D] and `seen` [S, D] are L2-normalised text features. With both lists of names a word
    is no neighbour of a category of the same name (letter case aside): that would be a self-loop,
    which is the model's switch.
    """
    same = torch.zeros(len(new), len(seen), dtype=torch.bool)
    if new_names is not None and seen_names is not None:
        folded = [name.casefold() for name in seen_names]
        for row, name in enumerate(new_names):
            same[row] = torch.tensor(
                [other == name.casefold() for other in folded], dtype=torch.bool
            )
    step = rows_per_chunk(len(seen))
    chunks = [
        most_similar(new[start : start + step].cpu(), seen.cpu(), k, same[start : start + step])
        for start in range(0, len(new), step)
    ]
    best = torch.cat(chunks) if chunks else torch.empty(0, min(k, len(seen)), dtype=torch.long)
    return torch.nn.functional.pad(best, (0, k - best.shape[1]), value=ABSENT)


def cosines(features: Tensor, table: np.ndarray) -> np.ndarray:
    """Cosine of every edge: `features` [C, D] and a table [C, K] -> float32 [C, K], NaN where
    absent.
    """
    values = np.full(table.shape, np.nan, np.float32)
    for row in range(
        len(table)
    ):  # a row at a time: gathering all sources at once would need C·K·D floats
        kept = np.flatnonzero(table[row] != ABSENT)
        sources = torch.from_numpy(table[row][kept]).long()
        values[row, kept] = (features[sources] @ features[row]).numpy()
    return values
