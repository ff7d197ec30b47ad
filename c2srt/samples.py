"""Random access to decoded, labelled samples over many shards, with few of them open at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.offsets import Offsets, open_offsets
from c2srt.shard_reader import JPEG, JSON, MEMBERS, SampleLabels, ShardReader
from c2srt.shards import Shard
from c2srt.shown import shown
from c2srt.storage.ranges import KeptOpen, Opens, open_ranges, start
from c2srt.views import decode
from c2srt.vocabulary import Vocabulary

AUDIT, SHARD = Command("audit"), Command("shard")


@dataclass
class Sample:
    """`image` uint8 [H, W, 3] RGB; `labels` int8 [C] in −1/0/1."""

    id: str
    image: np.ndarray
    labels: np.ndarray


class Samples:
    """The samples of `shards`, by (shard, sample within it), keeping the last `open_shards` used
    shards open. Many are read at a time: the bytes of some while others are decoded.

    Labels are the first C = `categories` columns of the vocabulary (all, or the seen ones); other
    MIDs are ignored.
    """

    def __init__(
        self,
        folder: Path,
        shards: tuple[Shard, ...],
        vocabulary: Vocabulary,
        categories: int,
        open_shards: int,
        opens: Opens = open_ranges,
    ) -> None:
        self.folder, self.shards, self.categories = folder, shards, categories
        self.opens = opens
        self._columns = {
            mid: column for mid, column in vocabulary.index.items() if column < categories
        }
        self._open = KeptOpen(self.opened, open_shards)

    def read(self, shard: int, sample: int) -> Sample:
        """Raises UserError naming the shard and the sample if either is damaged."""
        return self.start([(shard, sample)]).wait()[0]

    def start(self, places: Sequence[tuple[int, int]]) -> "Fetching":
        """Begins to read the samples at (shard, sample within it)."""
        self.open(shard for shard, _ in places)
        return Fetching(self, [(self.reader(shard), sample) for shard, sample in places])

    def open(self, shards: Iterable[int]) -> None:
        """Begins to open the shards that are not open, and lets go of those longest unused when
        there are too many.
        """
        _ = self.offsets  # read here: a thread that opens a shard must not wait for another one
        self._open.begin(shards)

    def reader(self, shard: int) -> ShardReader:
        """The open reader of a shard."""
        return self._open.get(shard)

    def opened(self, shard: int) -> ShardReader:
        places = partial(self.offsets.places, shard) if self.offsets else None
        return ShardReader(self.folder, self.shards[shard], self.opens, places)

    @cached_property
    def offsets(self) -> Offsets | None:
        """The table of the split; None where each shard's sidecar must do."""
        return open_offsets(self.folder, self.shards, self.opens)

    def decoded(self, reader: ShardReader, sample: int, jpeg: bytes, text: bytes) -> Sample:
        """Raises UserError naming the shard and the sample if either is damaged."""
        image_id = reader.ids[sample]
        try:
            return Sample(image_id, decode(jpeg), self.labels(reader.labels_in(sample, text)))
        except ValueError as error:
            raise UserError(
                f"{reader.path}: sample {shown(image_id)} is damaged ({shown(error)}): run"
                f" `{AUDIT}` to find all damage, then `{SHARD}` again"
            ) from error

    def labels(self, found: SampleLabels) -> np.ndarray:
        """A sample's verified MIDs -> [C] int8."""
        labels = np.zeros(self.categories, np.int8)
        for mids, value in ((found.positive, 1), (found.negative, -1)):
            labels[[self._columns[mid] for mid in mids if mid in self._columns]] = value
        return labels


class Fetching:
    """Samples whose bytes are under way, `size` of them together."""

    def __init__(self, samples: Samples, places: list[tuple[ShardReader, int]]) -> None:
        self.samples, self.places = samples, places
        self.reads = start(
            [reader.span(sample, member) for reader, sample in places for member in MEMBERS]
        )
        self.size = self.reads.size

    def wait(self) -> list[Sample]:
        """The samples, in the order in which they were asked for. Raises UserError as
        `Samples.read`.
        """
        found = self.reads.wait()
        return [
            self.samples.decoded(
                reader,
                sample,
                reader.content(sample, JPEG, found[2 * row + JPEG]),
                reader.content(sample, JSON, found[2 * row + JSON]),
            )
            for row, (reader, sample) in enumerate(self.places)
        ]
