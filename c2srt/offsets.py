"""One table of where the samples of a split lie, in the place of a sidecar a shard.

    <shards>/offsets-<split>.bin

A line of JSON, {"format": 1, "key": hash of the split's shards, "id_bytes": w}; then, in
little-endian, a CRC-32 of the rows of each shard (uint32), and the rows of all shards, in their
order, `ROW` each. `c2srt shard` writes it from the sidecars, which stay the record of what was
packed; a folder without it, or with one of other shards, is read by its sidecars.

A training at 512 GPUs opens 16 shards a window and process to read 78 images. A sidecar takes 8 ms
of parsing; here a shard is one positional read of 20 bytes and an id a sample. It is read, not
mapped: a mapped page that cannot be read ends the process.
"""

import json
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, overload

import numpy as np

from c2srt.errors import UserError
from c2srt.files import hash_of, whole_file
from c2srt.opened import wrong
from c2srt.shard_reader import Places, all_within, sidecar_places
from c2srt.shards import MADE_BY, Shard
from c2srt.storage.ranges import Opens, Source, open_ranges

FORMAT, HEADER_BYTES = 1, 4096
ROW = [("jpg", "<i8"), ("json", "<u4"), ("jpg_bytes", "<u4"), ("json_bytes", "<u4")]
"""Where the JPEG begins in the tar, how far behind that the JSON does, and how long they are, in
bytes; then the id, filled up with zeros.
"""


class Ids(Sequence[str]):
    """The ids of a shard, [n] bytes, made into text when asked for."""

    def __init__(self, column: np.ndarray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, which: int) -> str: ...
    @overload
    def __getitem__(self, which: slice) -> "Ids": ...
    def __getitem__(self, which: int | slice) -> "str | Ids":
        if isinstance(which, slice):
            return Ids(self.column[which])
        return bytes(self.column[which]).decode()


class Offsets:
    """The table of a split, open."""

    def __init__(self, source: Source, begin: int, id_bytes: int, shards: Sequence[Shard]) -> None:
        self.source, self.shards, self.row = source, shards, row_of(id_bytes)
        crcs = 4 * len(shards)
        self.crc = np.frombuffer(source.read(begin, crcs), "<u4")
        self.starts = np.cumsum([0] + [shard.count for shard in shards])
        self.rows = begin + crcs
        if source.size != self.rows + self.row.itemsize * int(self.starts[-1]):
            raise wrong(source.path, "is not as long as its shards need", MADE_BY)

    def places(self, number: int) -> Places:
        """Those of the shard at place `number` of the index. Raises UserError if they are
        damaged.
        """
        shard, size = self.shards[number], self.row.itemsize * self.shards[number].count
        begin = self.rows + self.row.itemsize * int(self.starts[number])
        content = self.source.read(begin, size) if size else b""
        found = np.frombuffer(content, self.row)
        jpg = found["jpg"]
        columns = (jpg, found["jpg_bytes"], jpg + found["json"], found["json_bytes"])
        spans = np.stack(columns, 1).astype(np.int64)
        if zlib.crc32(content) != self.crc[number] or not all_within(spans, shard):
            raise wrong(self.source.path, f"is damaged in the rows of {shard.name}", MADE_BY)
        return Places(Ids(found["id"]), spans)


def row_of(id_bytes: int) -> np.dtype:
    return np.dtype([*ROW, ("id", f"S{id_bytes}")])


def path_of(folder: Path, split: str) -> Path:
    return folder / f"offsets-{split}.bin"


def key_of(shards: Sequence[Shard]) -> str:
    return hash_of([(shard.name, shard.count, shard.sha256) for shard in shards])


def open_offsets(
    folder: Path, shards: Sequence[Shard], opens: Opens = open_ranges
) -> Offsets | None:
    """The table of a whole split; None if there is none of just these shards. Raises UserError if
    it is damaged.
    """
    if not shards:
        return None
    path = path_of(folder, shards[0].name.rpartition("-")[0])
    try:
        source = opens(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    line = BytesIO(source.read(0, min(HEADER_BYTES, source.size))).readline()
    header = header_in(line)
    if header.get("format") != FORMAT or header.get("key") != key_of(shards):
        return None
    return Offsets(source, len(line), header["id_bytes"], shards)


def header_in(line: bytes) -> dict[str, Any]:
    """The first line; nothing if it is none that `write_offsets` wrote."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    sound = isinstance(found, dict) and isinstance(found.get("id_bytes"), int)
    return found if sound and 0 < found["id_bytes"] <= 200 else {}


def write_offsets(folder: Path, split: str, shards: Sequence[Shard]) -> None:
    """Writes the table of a split from its sidecars, unless a sound one is there, or its rows
    cannot hold what they say (a JSON before its JPEG).

    Memory: the table. Raises UserError if a sidecar is none.
    """
    if sound(folder, shards):
        return
    found = [sidecar_places(folder / f"{shard.name}.parquet", shard) for shard in shards]
    if not all(fits(places.spans) for places in found):
        return
    width = max((len(name) for places in found for name in places.ids), default=1)
    rows = [rows_of(places, row_of(width)).tobytes() for places in found]
    header = {"format": FORMAT, "key": key_of(shards), "id_bytes": width}
    with whole_file(path_of(folder, split)) as temporary, temporary.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.write(np.array([zlib.crc32(each) for each in rows], "<u4").tobytes())
        file.writelines(rows)


def sound(folder: Path, shards: Sequence[Shard]) -> bool:
    """Whether the split's table is there and whole."""
    try:
        table = open_offsets(folder, shards)
        return table is not None and all(
            len(table.places(number).ids) == shard.count for number, shard in enumerate(shards)
        )
    except UserError:
        return False


def fits(spans: np.ndarray) -> bool:
    """Whether `ROW` can hold places [n, 4]."""
    distances = spans[:, 2] - spans[:, 0], spans[:, 1], spans[:, 3]
    return all(((each >= 0) & (each < 2**32)).all() for each in distances)


def rows_of(places: Places, row: np.dtype) -> np.ndarray:
    """[n] rows."""
    rows = np.zeros(len(places.ids), row)
    jpg, jpg_bytes, json_at, json_bytes = places.spans.T
    rows["jpg"], rows["json"] = jpg, json_at - jpg
    rows["jpg_bytes"], rows["json_bytes"] = jpg_bytes, json_bytes
    rows["id"] = np.array([name.encode() for name in places.ids])
    return rows
