"""What naming by the threshold comes to in each category, and which one was named where another
was: "said X where it was Y".

In an image X is said wrongly if it is named and counts as absent, and Y is missed if it is present
and not named. Every such X with every such Y is a pair, counted once an image. It says that both
happened in one picture, not that one thing was taken for the other; where pictures have many labels
some pairs meet by chance. So beside their images stand those to be expected if neither had to do
with the other: images where X was said wrongly · images where Y was missed / all images.

Letters: b images of a batch, C categories, P pairs.
"""

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from c2srt.model.calibration import Calibration
from c2srt.vocabulary import Vocabulary

MOST = 50
"""Categories of an image said wrongly, and missed, of which pairs are made, those with the greatest
margin: a model that names thousands must not fill the memory.
"""
OF_EACH = 10
"""Pairs that the table has of a category said wrongly, those furthest above what is expected."""
WAITING = 1 << 22
"""Pairs that are kept until equal ones are counted together (32 MiB)."""


@dataclass
class Tally:
    """Counts of images, int64 [C]: where a category is `present`, counts as `absent`, and was named
    and is the one (`right`) or the other (`wrong`).
    """

    categories: int
    images: int = 0
    present: np.ndarray = field(init=False)
    absent: np.ndarray = field(init=False)
    right: np.ndarray = field(init=False)
    wrong: np.ndarray = field(init=False)
    pairs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """[P]: X · C + Y, ascending"""
    times: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """[P]: images of each pair"""
    waiting: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.present, self.absent, self.right, self.wrong = np.zeros((4, self.categories), np.int64)

    def add(self, margin: np.ndarray, present: np.ndarray, absent: np.ndarray) -> None:
        """`margin` [b, C]: by how much a category's logit exceeds that of its threshold, named from
        0 on; `present`, `absent` bool [b, C]: neither is not counted.
        """
        named = margin >= 0
        wrong, missed = named & absent, present & ~named
        self.images += len(margin)
        for total, here in (
            (self.present, present),
            (self.absent, absent),
            (self.right, named & present),
            (self.wrong, wrong),
        ):
            total += here.sum(0)
        for image in np.flatnonzero(wrong.any(1) & missed.any(1)):
            said, was = (foremost(margin[image], each[image]) for each in (wrong, missed))
            self.waiting.append((said[:, None] * self.categories + was).ravel())
        if sum(map(len, self.waiting)) >= WAITING:
            self.settle()

    def settle(self) -> None:
        """Counts what is waiting."""
        found, times = np.unique(np.concatenate([*self.waiting, self.pairs]), return_counts=True)
        times[np.searchsorted(found, self.pairs)] += self.times - 1
        self.pairs, self.times, self.waiting = found, times.astype(np.int64), []

    @property
    def missed(self) -> np.ndarray:
        return self.present - self.right


def foremost(margin: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen categories of an image, int64, MOST of them at most: [C], [C] bool."""
    places = np.flatnonzero(chosen)
    return places[np.argsort(-margin[places], kind="stable")[:MOST]]


def category_table(tally: Tally, calibration: Calibration, vocabulary: Vocabulary) -> pl.DataFrame:
    """A row a category: the probability and the score from which it is named, counts of images, P,
    R and F1 (null where nothing is named, present, or either).
    """
    slope, offset, threshold = (
        each.numpy().astype(np.float64)
        for each in (calibration.slope, calibration.offset, calibration.threshold)
    )
    right, wrong, missed = tally.right, tally.wrong, tally.missed
    return pl.DataFrame(
        {
            "mid": vocabulary.mids,
            "name": vocabulary.titles,
            "seen": np.arange(len(vocabulary)) < vocabulary.seen_count,
            "threshold": threshold,
            "score": (np.log(threshold / (1 - threshold)) - offset) / slope,
            "positives": tally.present,
            "negatives": tally.absent,
            "right": right,
            "wrong": wrong,
            "missed": missed,
            "P": share(right, right + wrong),
            "R": share(right, tally.present),
            "F1": share(2 * right, 2 * right + wrong + missed),
        }
    )


def share(part: np.ndarray, of: np.ndarray) -> np.ndarray:
    """NaN where it is of nothing."""
    return np.divide(part, of, where=of > 0, out=np.full(len(of), np.nan))


def confusion_table(tally: Tally, vocabulary: Vocabulary) -> pl.DataFrame:
    """A row a pair, those furthest above what is expected first, OF_EACH at most of a category said
    wrongly.
    """
    tally.settle()
    said, was = np.divmod(tally.pairs, tally.categories)
    expected = tally.wrong[said] * tally.missed[was] / max(tally.images, 1)
    first = np.lexsort((was, said, expected - tally.times))
    by_said = np.argsort(said[first], kind="stable")
    of_said = said[first][by_said]
    place = np.empty(len(first), np.int64)
    place[by_said] = np.arange(len(first)) - np.searchsorted(of_said, of_said)
    kept = first[place < OF_EACH]
    said, was = said[kept], was[kept]
    columns = {
        f"{which}{suffix}": [names[column] for column in columns]
        for which, columns in (("said", said), ("was", was))
        for suffix, names in (("", vocabulary.titles), ("_mid", vocabulary.mids))
    }
    numbers = {
        "images": tally.times[kept],
        "expected": expected[kept],
        "said_wrongly": tally.wrong[said],
        "missed": tally.missed[was],
    }
    texts = dict.fromkeys(columns, pl.String)
    return pl.DataFrame(columns, schema=texts).with_columns(
        pl.Series(name, values) for name, values in numbers.items()
    )
