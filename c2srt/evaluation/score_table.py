"""Anybody's scores as a table keyed by image and MID.

    long    columns image, mid, score: a row for each image and category, in any order
    wide    columns image and every MID of the vocabulary, in any order: a row for each image

As .parquet or .csv. It has exactly the images of the split and the categories of the vocabulary:
what is missing, double or unknown is refused in a sentence. It is read a part at a time, into an
array on disk.

Shapes: N images, C categories, r rows of a part.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c2srt.errors import UserError
from c2srt.opened import opening, wrong
from c2srt.opened_tables import NUMBER, TEXT, is_of
from c2srt.progress import Progress
from c2srt.shown import shown
from c2srt.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE, MID, SCORE = LONG = ("image", "mid", "score")
PARQUET = ".parquet"
REMEDY = "give the columns image, mid and score, or image and one for each MID"
LEAVE_OUT = "leave them out, or choose the split=… and shards=… that they are of"
ROWS_AT_ONCE, CELLS_AT_ONCE, BYTES_AT_ONCE = 1 << 20, 1 << 22, 1 << 24
"""Of a table in memory: rows and cells at most, and bytes of a CSV."""


def read_scores(path: Path, ids: list[str], vocabulary: Vocabulary, out: Path) -> np.ndarray:
    """The scores float [N, C] that a table has for the images `ids`, mapped from the new file
    `out`: float32 if it holds such, else float64. Raises UserError if it is another table.
    """
    with opened(path) as (schema, parts):
        long = set(schema.names) == set(LONG)
        check_columns(path, schema, vocabulary, long)
        kinds = {str(field.type) for field in schema if field.name not in (IMAGE, MID)}
        kind = np.float32 if kinds <= {"float", "halffloat"} else np.float64
        scores = np.lib.format.open_memmap(out, "w+", kind, (len(ids), len(vocabulary)))
        scores[:] = np.nan
        filled = (Long if long else Wide)(path, ids, vocabulary, scores)
        progress = Progress("scores", scores.size, "scores")
        for part in parts:
            part.validate(full=True)
            progress.update(filled.add(part))
        progress.close()
    filled.check_complete()
    return scores


@contextmanager
def opened(path: Path) -> Iterator[tuple["pa.Schema", Iterator["pa.RecordBatch"]]]:
    """A table's schema and its parts, read by one thread."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    with opening(path, "a table", REMEDY):
        if path.suffix == PARQUET:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                check_keyed(path, file.schema_arrow.names)
                columns = max(1, len(file.schema_arrow))
                rows = max(1, min(ROWS_AT_ONCE, CELLS_AT_ONCE // columns))
                yield file.schema_arrow, file.iter_batches(rows, use_threads=False)
            return
        read = pc.ReadOptions(use_threads=False, block_size=BYTES_AT_ONCE)
        with pc.open_csv(path, read) as file:
            names = file.schema.names
        check_keyed(path, names)
        kinds = {name: pa.string() if name in (IMAGE, MID) else pa.float64() for name in names}
        convert = pc.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True)
        with pc.open_csv(path, read, convert_options=convert) as file:
            yield file.schema, iter(file)


def check_keyed(path: Path, names: list[str]) -> None:
    """Raises UserError unless the rows are those of images."""
    if IMAGE not in names:
        raise wrong(path, f"has no column {IMAGE}", REMEDY)


def check_columns(path: Path, schema: "pa.Schema", vocabulary: Vocabulary, long: bool) -> None:
    """Raises UserError unless the columns are those of a long or a wide table, of their types."""
    import pyarrow.types

    names = Counter(schema.names)
    if (double := names.most_common(1)) and double[0][1] > 1:
        raise wrong(path, f"has two columns {shown(double[0][0])}", REMEDY)
    absent = [] if long else [mid for mid in vocabulary.mids if mid not in names]
    if absent:
        raise wrong(
            path,
            f"has no column for {len(absent):,} of the {len(vocabulary):,} categories of the"
            f" shards, such as {shown(absent[0])}",
            REMEDY,
        )
    unknown = [] if long else [name for name in names if name not in {IMAGE, *vocabulary.index}]
    if unknown:
        raise wrong(
            path,
            f"has columns for {len(unknown):,} MIDs that are no categories of the shards, such as"
            f" {shown(unknown[0])}",
            LEAVE_OUT,
        )
    for field in schema:
        wanted = TEXT if field.name in (IMAGE, MID) else NUMBER
        encoded = pyarrow.types.is_dictionary(field.type)  # as pandas' categories are
        if not is_of(field.type.value_type if encoded else field.type, wanted):
            kind = shown(str(field.type), 30)
            raise wrong(path, f"has {kind} as column {shown(field.name)}", f"give {wanted}")


class Filled:
    """Scores [N, C] that a table's parts are put into; NaN where nothing came yet."""

    def __init__(
        self, path: Path, ids: list[str], vocabulary: Vocabulary, scores: np.ndarray
    ) -> None:
        import pyarrow as pa

        self.path, self.ids, self.mids, self.scores = path, ids, vocabulary.mids, scores
        self.known = {
            IMAGE: pa.array(ids, pa.string()),
            MID: pa.array(self.mids, pa.string()),
        }

    def places(self, part: "pa.RecordBatch", name: str, what: str) -> np.ndarray:
        """int64 [r]: where the texts of a column stand in those that are known. Raises UserError
        with the first that is not.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = part[name].cast(pa.string())
        found = pc.index_in(texts, value_set=self.known[name])
        if not found.null_count:
            return found.to_numpy(zero_copy_only=False).astype(np.int64)
        unknown = texts.filter(pc.is_null(found))[0].as_py()
        if unknown is None:
            raise wrong(self.path, f"has empty cells in column {name}", REMEDY)
        raise wrong(self.path, f"has scores for {what}, such as {shown(unknown)}", LEAVE_OUT)

    def images(self, part: "pa.RecordBatch") -> np.ndarray:
        return self.places(part, IMAGE, "images that are not in the labels")

    def numbers(self, part: "pa.RecordBatch", name: str) -> np.ndarray:
        """float [r] of a column. Raises UserError where a cell is empty."""
        column = part[name]
        if column.null_count:
            raise wrong(self.path, f"has empty cells in column {shown(name)}", REMEDY)
        return column.to_numpy(zero_copy_only=False).astype(self.scores.dtype)

    def check_finite(self, values: np.ndarray, images: np.ndarray, mids: np.ndarray) -> None:
        """Raises UserError with the first of values [n] that is NaN or infinite."""
        if len(at := np.flatnonzero(~np.isfinite(values))):
            raise UserError(
                f"{self.path}: the score of {self.pair(images[at[0]], mids[at[0]])} is"
                f" {values[at[0]]}: scores must be finite"
            )

    def pair(self, image: int, mid: int) -> str:
        return f"image {shown(self.ids[image])} for {shown(self.mids[mid])}"

    def add(self, part: "pa.RecordBatch") -> int:
        """Puts a part's scores where they belong; returns how many there are. Raises UserError."""
        raise NotImplementedError

    def check_complete(self) -> None:
        """Raises UserError where a score is missing."""
        count = np.array([np.isnan(row).sum() for row in self.scores])
        if not count.any():
            return
        whole, some = int((count == len(self.mids)).sum()), int((count > 0).sum())
        image = int(np.argmax(count > 0))
        example = self.pair(image, int(np.argmax(np.isnan(self.scores[image]))))
        raise wrong(
            self.path,
            f"lacks {count.sum():,} scores: {whole:,} of the {len(self.ids):,} images have none and"
            f" {some - whole:,} not all, such as {example}",
            "give one for each image and category",
        )


class Long(Filled):
    """Of rows (image, mid, score)."""

    def add(self, part: "pa.RecordBatch") -> int:
        """As `Filled.add`."""
        images = self.images(part)
        mids = self.places(part, MID, "MIDs that are no categories of the shards")
        values, flat = self.numbers(part, SCORE), self.scores.reshape(-1)
        self.check_finite(values, images, mids)
        place = images * len(self.mids) + mids
        again = np.append(place[~np.isnan(flat[place])], repeated(place))
        if len(again):
            pair = self.pair(*divmod(int(again[0]), len(self.mids)))
            raise wrong(self.path, f"has two scores of {pair}", "leave one of them out")
        flat[place] = values
        return len(place)


class Wide(Filled):
    """Of a row for each image."""

    def add(self, part: "pa.RecordBatch") -> int:
        """As `Filled.add`."""
        images = self.images(part)
        again = np.append(images[~np.isnan(self.scores[images, 0])], repeated(images))
        if len(again):
            image = shown(self.ids[again[0]])
            raise wrong(self.path, f"has two rows of image {image}", "leave one of them out")
        block: Any = np.stack([self.numbers(part, mid) for mid in self.mids], 1)
        if not np.isfinite(block).all():
            row, column = np.argwhere(~np.isfinite(block))[0]
            self.check_finite(block[row, [column]], images[[row]], np.array([column]))
        self.scores[images] = block
        return block.size


def repeated(places: np.ndarray) -> np.ndarray:
    """Those of places [r] that come again after their first time."""
    first = np.unique(places, return_index=True)[1]
    return np.delete(places, first)
