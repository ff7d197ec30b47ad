"""Random access to decoded, labelled samples over many shards, with few of them open at a time."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2srt.errors import UserError
from c2srt.hints import Command
from c2srt.shards import SampleLabels, Shard, ShardReader
from c2srt.shown import shown
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
    shards open.

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
    ) -> None:
        self.folder, self.shards, self.categories, self.open_shards = (
            folder,
            shards,
            categories,
            open_shards,
        )
        self._columns = {
            mid: column for mid, column in vocabulary.index.items() if column < categories
        }
        self._open: OrderedDict[int, ShardReader] = OrderedDict()

    def read(self, shard: int, sample: int) -> Sample:
        """Raises UserError naming the shard and the sample if either is damaged."""
        reader = self.reader(shard)
        image_id = reader.ids[sample]
        try:
            return Sample(image_id, decode(reader.jpeg(sample)), self.labels(reader.labels(sample)))
        except ValueError as error:
            raise UserError(
                f"{reader.path}: sample {shown(image_id)} is damaged ({shown(error)}): run"
                f" `{AUDIT}` to find all damage, then `{SHARD}` again"
            ) from error

    def reader(self, shard: int) -> ShardReader:
        """The open reader of a shard; closes the one longest unused when there are too many."""
        if shard not in self._open:
            self._open[shard] = ShardReader(self.folder, self.shards[shard])
            if len(self._open) > self.open_shards:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def labels(self, found: SampleLabels) -> np.ndarray:
        """A sample's verified MIDs -> [C] int8."""
        labels = np.zeros(self.categories, np.int8)
        for mids, value in ((found.positive, 1), (found.negative, -1)):
            labels[[self._columns[mid] for mid in mids if mid in self._columns]] = value
        return labels
