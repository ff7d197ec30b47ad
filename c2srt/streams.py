"""The order of training samples in canonical streams, for many nodes or a store that is slow to
open: each node reads a fixed share of the shards, epoch after epoch.

The shards stand in a line whose order depends on the seed alone. A global batch has G positions,
which are cut into `streams` C runs of neighbours (G runs where C is more), and the line into one
stretch for each run, as long as its positions are over all steps of the epoch: stream c. So whoever
takes neighbouring positions of every batch, as a rank and a node do, reads neighbouring streams and
nothing else, on any number of ranks. Within a stream an epoch shuffles as c2srt/order.py does the
whole: its shards (or parts of shards, at its ends), then the samples of windows of `window` of
them. After mosaicml/streaming's canonical nodes, but for the cut along positions, which needs no
number of nodes.

T steps an epoch, of which the last has R real positions: a position i < R is taken T times, another
T − 1 times, and what stands before position i on the line are i · (T − 1) + min(i, R) samples.
"""

from functools import lru_cache

import numpy as np

from c2srt.permuted import permutation


class Parts:
    """Parts of shards, one after another: the `shard` of each, its `first` sample within that and
    its `size` in samples, each [parts] int64; among all their samples it begins at `begin` and ends
    before `end`.
    """

    def __init__(self, shard: np.ndarray, first: np.ndarray, size: np.ndarray) -> None:
        self.shard, self.first, self.size = shard, first, size
        self.end = np.cumsum(size)
        self.begin = self.end - size
        self.shift = first - self.begin

    def take(self, which: np.ndarray | slice) -> "Parts":
        return Parts(self.shard[which], self.first[which], self.size[which])

    def between(self, begin: int, end: int) -> "Parts":
        """What of them lies in that stretch."""
        left, right = np.maximum(self.begin, begin), np.minimum(self.end, end)
        return Parts(self.shard, left + self.shift, right - left).take(right > left)

    def at(self, places: np.ndarray) -> np.ndarray:
        """[n] places among all their samples -> [2, n] shard, and sample within it."""
        part = np.searchsorted(self.end, places, side="right")
        return np.stack([self.shard[part], self.shift[part] + places])


class Streams:
    """`counts` [shards] samples of each shard, `batch` G, `window` in shards, `count` C.

    Memory: the last windows that were asked for, two a stream, at 4 bytes a sample.
    """

    def __init__(
        self, counts: tuple[int, ...], batch: int, window: int, seed: int, count: int
    ) -> None:
        self.batch, self.window, self.seed, self.count = batch, window, seed, min(count, batch)
        self.first = batch * np.arange(self.count + 1) // self.count
        """[C + 1] the position of a batch at which each stream begins."""
        steps = -(-sum(counts) // batch)
        real = sum(counts) - (steps - 1) * batch
        self.begin = self.first * (steps - 1) + np.minimum(self.first, real)
        """[C + 1] where each begins on the line."""
        line, sizes = permutation(len(counts), seed, "line"), np.array(counts, np.int64)
        self.line = Parts(line, np.zeros_like(line), sizes[line])
        self.parts = lru_cache(2 * self.count)(self.parts_of)
        self.shuffled = lru_cache(2 * self.count)(self.shuffled_of)

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """[n] positions of an epoch, counted batch after batch -> [2, n] shard and sample."""
        step, position = np.divmod(positions, self.batch)
        stream = np.searchsorted(self.first, position, side="right") - 1
        width = self.first[stream + 1] - self.first[stream]
        place = step * width + position - self.first[stream]
        found = np.empty((2, len(positions)), np.int64)
        for number in sorted(set(stream.tolist())):
            here = stream == number
            found[:, here] = self.in_stream(epoch, number, place[here])
        return found

    def in_stream(self, epoch: int, stream: int, places: np.ndarray) -> np.ndarray:
        """[n] places in a stream -> [2, n] shard and sample."""
        parts = self.parts(epoch, stream)
        windows = np.searchsorted(parts.end, places, side="right") // self.window
        within = np.empty_like(places)
        for number in sorted(set(windows.tolist())):
            here, begin = windows == number, parts.begin[number * self.window]
            within[here] = begin + self.shuffled(epoch, stream, number)[places[here] - begin]
        return parts.at(within)

    def parts_of(self, epoch: int, stream: int) -> Parts:
        """A stream's, in the order of that epoch."""
        own = self.line.between(self.begin[stream], self.begin[stream + 1])
        return own.take(permutation(len(own.size), self.seed, epoch, "stream", stream))

    def coming(self, epoch: int, step: int, begin: float, end: float) -> list[int]:
        """The shards of which the streams between two shares of the batch have samples left at step
        `step` of an epoch, in the order in which they need them; some several times.
        """
        found: list[tuple[float, int]] = []
        taken = (self.first[1:] > begin * self.batch) & (self.first[:-1] < end * self.batch)
        for stream in np.flatnonzero(taken).tolist():
            parts, width = self.parts(epoch, stream), self.first[stream + 1] - self.first[stream]
            window = np.arange(len(parts.size)) // self.window * self.window
            last = np.minimum(window + self.window, len(parts.size)) - 1
            left = parts.end[last] > step * width
            needed = parts.begin[window[left]] / width
            found += zip(needed.tolist(), parts.shard[left].tolist(), strict=True)
        return [shard for _, shard in sorted(found)]

    def shuffled_of(self, epoch: int, stream: int, window: int) -> np.ndarray:
        """The order of a window's samples, [n] int32."""
        parts = self.parts(epoch, stream)
        count = parts.size[window * self.window : (window + 1) * self.window].sum()
        return permutation(int(count), self.seed, epoch, "stream", stream, window).astype(np.int32)
