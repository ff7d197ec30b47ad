"""Kind `cooccurrence`: how often two seen categories are verified in one training image.

Counted by columnar code in bounded memory: blocks of images pass through a join and a group-by, and
only the symmetric count matrix [S, S] (int32, 4·S² bytes) stays. The labels are those of
`<shards>/inputs/train.parquet`, which `c2srt shard` leaves; where that is gone (shards copied from
elsewhere), those inside the tars. An edge's strength is P(source | target), the share of the
target's images that also show the source. Letters: C categories, S seen, K neighbours.

Unseen categories get no neighbours: their labels are never training labels, which is the weakness
of this kind (section 1 of the paper).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from c2srt.errors import UserError
from c2srt.files import hash_of, sha256_of_file
from c2srt.hints import Command
from c2srt.progress import Progress
from c2srt.relations.neighbours import Neighbours, no_neighbours
from c2srt.shard_reader import ShardReader
from c2srt.shards import load_index
from c2srt.storage import mirror
from c2srt.vocabulary import Vocabulary, check_same_vocabulary

SPLIT = "train"
LABELS = f"inputs/{SPLIT}.parquet"
IMAGES = 1 << 17  # of a block
PAIRS = 1 << 23  # joined rows held at once; one image has p² of them


@dataclass(frozen=True)
class Counts:
    """`together` int32 [S, S]: images with both, symmetric, zero diagonal; `alone` int64 [S]:
    images with the category.
    """

    together: np.ndarray
    alone: np.ndarray
    images: int


def labels_identity(shards: Path, vocabulary: Vocabulary) -> str:
    """Changes when the training labels do. Raises UserError if there are none, or for another
    vocabulary.
    """
    if mirror.there(shards / LABELS):
        return sha256_of_file(shards / LABELS)
    index = load_index(shards)
    check_same_vocabulary(vocabulary, index.vocabulary, shards, Command("shard"))
    return hash_of([shard.sha256 for shard in index.split(SPLIT)])


def count_labels(shards: Path, vocabulary: Vocabulary) -> Counts:
    """Counts the verified positives of the training images. Raises UserError if the labels cannot
    be read.
    """
    seen = vocabulary.seen_count
    columns = pl.DataFrame(
        {"mid": vocabulary.mids[:seen], "column": np.arange(seen, dtype=np.uint32)},
        schema_overrides={"mid": pl.String},
    )
    together, alone, images = np.zeros((seen, seen), np.int32), np.zeros(seen, np.int64), 0
    for block in label_blocks(shards):
        images += len(block)
        known = (
            block.with_row_index("image")
            .explode("positive")
            .join(columns, left_on="positive", right_on="mid")
        )
        known = known.select("image", "column").unique()
        alone += np.bincount(known["column"].to_numpy(), minlength=seen)
        for part in bounded(known):
            add_pairs(part, together)
    together += together.T
    return Counts(together, alone, images)


def bounded(known: pl.DataFrame) -> list[pl.DataFrame]:
    """Cuts (image, column) rows between images, so that the pairs of a part are about PAIRS at most
    (or one image's).
    """
    sizes = (
        known.group_by("image")
        .len()
        .sort("image")
        .with_columns(part=(pl.col("len").cast(pl.Int64) ** 2).cum_sum() // PAIRS)
    )
    if len(sizes) == 0:
        return []
    return known.join(
        sizes.filter(pl.col("len") > 1).select("image", "part"), on="image"
    ).partition_by("part", include_key=False)


def add_pairs(known: pl.DataFrame, together: np.ndarray) -> None:
    """Adds the pairs (lower column, higher column) of (image, column) rows into the upper
    triangle.
    """
    pairs = known.join(known, on="image").filter(pl.col("column") < pl.col("column_right"))
    counted = pairs.group_by("column", "column_right").len()
    together[counted["column"].to_numpy(), counted["column_right"].to_numpy()] += (
        counted["len"].to_numpy().astype(np.int32)
    )


def label_blocks(shards: Path) -> Iterator[pl.DataFrame]:
    """Frames with a column `positive` (list of MIDs), one row an image."""
    if not mirror.there(shards / LABELS):
        yield from packed_blocks(shards)
        return
    mirror.fetched(shards / LABELS)
    try:
        file = pq.ParquetFile(shards / LABELS)
        progress = Progress("co-occurrence", file.metadata.num_rows)
        for batch in file.iter_batches(IMAGES, columns=["positive"]):
            yield cast(pl.DataFrame, pl.from_arrow(batch))
            progress.update(len(batch))
        progress.close()
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueError and OSError
        raise UserError(
            f"{shards / LABELS} cannot be read ({error}): make it again with `{Command('shard')}`"
        ) from error


def packed_blocks(shards: Path) -> Iterator[pl.DataFrame]:
    """The same from the samples' JSON inside the tars."""
    listed = load_index(shards).split(SPLIT)
    progress = Progress("co-occurrence", sum(shard.count for shard in listed))
    for shard in listed:
        positive = [labels.positive for labels in ShardReader(shards, shard).all_labels()]
        yield pl.DataFrame({"positive": positive}, schema={"positive": pl.List(pl.String)})
        progress.update(len(positive))
    progress.close()


def most_together(together: np.ndarray, k: int) -> np.ndarray:
    """The k categories with the most common images, from one row of counts [S]; ties go to the
    lower column.
    """
    columns = np.flatnonzero(together)
    return columns[np.lexsort((columns, -together[columns]))][:k]


def cooccurrence_neighbours(counts: Counts, categories: int, k: int) -> Neighbours:
    """The k seen categories that most often come with each seen one; ties go to the lower column.
    Unseen rows stay empty.
    """
    found = no_neighbours(categories, k)
    for row, together in enumerate(counts.together):
        best = most_together(together, k)
        found.table[row, : len(best)] = best
        found.strengths[row, : len(best)] = together[best] / counts.alone[row]
    return found
