"""Reading CSVs of any size in bounded memory: streamed blocks, dealt into 16 buckets by the first
digit of the image id.

ImageIDs are random 64-bit hex, so the buckets are of one size, and the buckets one after another
are the sorted whole. pyarrow does the parsing (quoted newlines, BOM, CRLF, gzip); no row ever
becomes a Python object.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from c2srt.errors import UserError
from c2srt.opened import check_regular, reason
from c2srt.shown import shown

DIGITS = "0123456789abcdef"
BLOCK_BYTES = 16 << 20  # of text held at once; a longer single row is refused
LIST_BYTES = (
    64 << 20
)  # of a small list, unpacked: class-descriptions.csv of Open Images has 0.5 MiB
BOMB_BYTES, BOMB_RATIO = (
    64 << 20,
    200,
)  # label files pack to a tenth; pyarrow would read on through gigabytes of blank lines
READ_ERRORS = (pa.ArrowException, EOFError, gzip.BadGzipFile, zlib.error, UnicodeError, csv.Error)


def existing(path: Path) -> Path | None:
    """`path`, or `path` with `.gz`, whichever exists; None if neither does."""
    return next(
        (file for file in (path, path.with_name(path.name + ".gz")) if file.is_file()), None
    )


def open_text(path: Path, most: int = LIST_BYTES) -> io.StringIO:
    """A small text file, gzipped or not, without its BOM. Raises UserError if it is none, or
    unpacks to more than `most` bytes.
    """
    check_regular(path, "download it again")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise damaged(path, f"it has more than {most >> 20} MiB")
    return io.StringIO(content.decode("utf-8-sig"), newline="")


def read_lines(path: Path) -> list[str]:
    """The lines of a small list, stripped, that are not empty. Raises UserError if it is damaged or
    no UTF-8.
    """
    try:
        with open_text(path) as file:
            return [line.strip() for line in file if line.strip()]
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def read_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line of a small CSV that is not empty. Raises UserError as
    `read_lines` does.
    """
    try:
        with open_text(path) as file:
            lines = csv.reader(file)
            yield from (
                (lines.line_num, row) for row in lines if "".join(row).strip() or len(row) > 1
            )
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged or cut off ({why}): download it again")


def unreadable(path: Path, error: Exception) -> UserError:
    """What one of READ_ERRORS means: text in another encoding with its line, or a damaged file."""
    if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in str(error):
        return not_utf8(path)
    return damaged(path, reason(error))


def not_utf8(path: Path) -> UserError:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(BLOCK_BYTES), b""), 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    begins = shown(line.strip()[:60].decode(errors="backslashreplace"))
                    return UserError(
                        f"{path} is not UTF-8 (line {number:,}: {begins}): save it as UTF-8"
                    )
    except READ_ERRORS as error:
        return damaged(path, reason(error))
    return damaged(path, "not UTF-8")


def check_header(path: Path, required: list[str]) -> None:
    """Raises UserError if the file is empty or its header lacks a required column."""
    check_regular(path, "download it again")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = next(
                csv.reader(io.StringIO(file.readline(BLOCK_BYTES).decode("utf-8-sig"), newline="")),
                [],
            )
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    if not header:
        raise damaged(path, "it is empty")
    if missing := [name for name in required if name not in header]:
        found = shown(", ".join(header), 120)
        raise UserError(
            f"{path} has no column {missing[0]} in its header ({found}): it is not the Open Images"
            " V4 file"
        )


class PackedCsv(gzip.GzipFile):
    """A gzipped CSV that ends with a UserError once it unpacks to what no list of labels does."""

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        packed = cast(BinaryIO, self.fileobj)
        if self.tell() > max(BOMB_BYTES, BOMB_RATIO * packed.tell()):
            raise damaged(Path(self.name), f"it unpacks to over {BOMB_RATIO} times its size")
        return block


def read_blocks(
    path: Path, columns: dict[str, pa.DataType], optional: tuple[str, ...] = ()
) -> Iterator[pl.DataFrame]:
    """Yields the named columns of a CSV block by block; an `optional` column that the file lacks is
    null.

    Raises UserError on a wrong header, a row with a wrong number of fields (a cut last line), a
    value of a wrong type.
    """
    check_header(path, [name for name in columns if name not in optional])
    try:
        reader = pa.csv.open_csv(
            (
                pa.PythonFile(PackedCsv(path), "r")
                if path.suffix == ".gz"
                else pa.input_stream(str(path), compression=None)
            ),
            read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=columns,
                null_values=[""],
                strings_can_be_null=True,
                include_columns=list(columns),
                include_missing_columns=True,
            ),
        )
        for batch in reader:
            if batch.num_rows:
                yield cast(pl.DataFrame, pl.from_arrow(batch))
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def scatter(blocks: Iterator[pl.DataFrame], folder: Path) -> None:
    """Appends blocks (all with one schema and a column `id`) to `folder/<first digit of
    id>.parquet`, in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers: dict[str, pa.parquet.ParquetWriter] = {}
        for block in blocks:
            for (digit,), part in (
                block.with_columns(digit=pl.col("id").str.head(1))
                .partition_by("digit", maintain_order=True, include_key=False, as_dict=True)
                .items()
            ):
                table = part.to_arrow(compat_level=pl.CompatLevel.oldest())
                if digit not in writers:
                    writers[digit] = stack.enter_context(
                        pa.parquet.ParquetWriter(
                            folder / f"{digit}.parquet", table.schema, compression="lz4"
                        )
                    )
                writers[digit].write_table(table)


def bucket(folder: Path, digit: str, schema: pl.Schema) -> pl.DataFrame:
    """One bucket of `scatter`; a bucket that got no row is an empty frame."""
    path = folder / f"{digit}.parquet"
    return (
        pl.read_parquet(path, glob=False).cast(schema)
        if path.exists()
        else pl.DataFrame(schema=schema)
    )
