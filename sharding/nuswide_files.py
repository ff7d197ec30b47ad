"""The files of NUS-WIDE that sharding/nuswide.py reads: lists of names and images, and tables of 0
and 1. Every reader raises UserError on a file that is absent or damaged.
"""

import re
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.opened import check_regular
from c2srt.sharding import csvs
from c2srt.sharding.csvs import damaged
from c2srt.shown import shown

IMAGE = re.compile(r"([^\\/.][^\\/]*)[\\/]((\w+_)?(\w+))\.jpg", re.ASCII)
LINE_BYTES, BLOCK_LINES = 1 << 14, 1 << 12  # of a label file: a line has at most 1,000 labels
LONGEST = 100  # letters of a tag or concept, which names a label file


def require(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: download NUS-WIDE's {path.parent.name} and unpack it in"
            " data.root"
        )


def read_lines(path: Path) -> list[str]:
    """The lines of a list that are not empty (BOM and CRLF allowed)."""
    require(path)
    return csvs.read_lines(path)


def read_names(path: Path) -> list[str]:
    """A name a line. Raises UserError if one comes twice."""
    names = read_lines(path)
    if strange := next(
        (name for name in names if "/" in name or "\0" in name or len(name) > LONGEST), None
    ):
        raise damaged(path, f"'{shown(strange)}' is no name")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise damaged(path, f"'{shown(twice)}' is there twice")
    return names


def read_images(path: Path) -> pl.DataFrame:
    """Columns id, file (both unique), photo (the Flickr id), in the order of the list."""
    lines = read_lines(path)
    matches = [IMAGE.fullmatch(line) for line in lines]
    if None in matches:
        number = matches.index(None)
        raise damaged(
            path, rf"image {number + 1} is '{shown(lines[number])}', not folder\0001_2124494179.jpg"
        )
    whole = [found for found in matches if found]
    images = pl.DataFrame(
        {
            "id": [
                re.sub(r"[^\w-]", "-", f"{found[1]}_{found[2]}", flags=re.ASCII) for found in whole
            ],
            "file": [f"{found[1]}/{found[2]}.jpg" for found in whole],
            "photo": [found[4] for found in whole],
        },
        schema={"id": pl.String, "file": pl.String, "photo": pl.String},
    )
    if not len(images):
        raise damaged(path, "it is empty")
    if len(twice := images.filter(pl.col("id").is_duplicated())):
        raise damaged(path, f"image {shown(twice['file'][0])} is there twice")
    return images


def read_bits(path: Path, columns: int, images: int, image_list: Path) -> np.ndarray:
    """A file of 0 and 1, separated by blanks or tabs → uint8 [images, columns]. Raises UserError if
    it is of another shape.
    """
    check_regular(path, "download it again")
    blocks, lines = [], 0
    with path.open("rb") as file:
        while block := lines_of(file, path):
            rows = b"".join(block).translate(None, b" \t\r").split()
            bits = np.frombuffer(b"".join(rows), np.uint8) - ord("0")
            if (
                bits.size != columns * len(rows)
                or any(len(row) != columns for row in rows)
                or bits.max(initial=0) > 1
            ):
                raise wrong_line(path, block, lines, columns)
            blocks.append(bits.reshape(-1, columns))
            lines += len(rows)
    if lines != images:
        raise UserError(
            f"{path} has {lines:,} lines, but {image_list} lists {images:,} images: they do not"
            " belong together, or one is cut off; download both again"
        )
    return np.concatenate(blocks)


def lines_of(file: BinaryIO, path: Path) -> list[bytes]:
    """The next lines of a label file, at most BLOCK_LINES. Raises UserError on a line that is
    longer.
    """
    block = list(takewhile(len, (file.readline(LINE_BYTES + 1) for _ in range(BLOCK_LINES))))
    if any(len(line) > LINE_BYTES for line in block):
        raise damaged(path, f"a line has more than {LINE_BYTES:,} bytes")
    return block


def wrong_line(path: Path, block: list[bytes], before: int, columns: int) -> UserError:
    """What is wrong with the first bad line of a block that follows `before` good ones."""
    for number, values in enumerate((line.split() for line in block if line.split()), before + 1):
        if odd := [value for value in values if value not in (b"0", b"1")]:
            return UserError(
                f"{path}, line {number:,}: {odd[0][:20].decode(errors='replace')!r} is no label;"
                " labels are 0 or 1"
            )
        if len(values) != columns:
            return UserError(
                f"{path}, line {number:,}: {len(values):,} labels, where {columns:,} are expected;"
                " is it cut off?"
            )
    return damaged(path, f"after line {before:,}")
