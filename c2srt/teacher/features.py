"""One shard's features in the teacher cache, read by position like the shard itself."""

import io
from pathlib import Path

import numpy as np

from c2srt.hints import Command
from c2srt.opened import absent, npy_header, parsing, wrong
from c2srt.storage.ranges import Reads, Span, open_ranges

MADE_BY = Command("teacher")
HEADER = 4096
"""Bytes at the front of a .npy, more than the header that numpy writes for three sides."""


class FeatureFile:
    """An open <shard>.npy, [V', count, D] float16. Raises UserError if it is anything else."""

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width = path, width
        with parsing(path, "an array", MADE_BY):
            try:
                self.source = open_ranges(path)
            except FileNotFoundError:
                raise absent(path, MADE_BY) from None
            head = io.BytesIO(self.source.read(0, min(HEADER, self.source.size)))
            self.begin, shape, fortran, dtype = npy_header(
                path, head, self.source.size, MADE_BY, "f"
            )
        if dtype != np.float16 or fortran or len(shape) != 3 or shape[2] != width:
            raise wrong(
                path, f"is {dtype} of shape {list(shape)}, not float16 of width {width}", MADE_BY
            )
        self.views, self.count, _ = shape

    def span(self, view: int, sample: int) -> Span:
        """Where a feature lies. Raises UserError if there is none."""
        if view >= self.views or sample >= self.count:
            raise wrong(self.path, f"has no view {view} of sample {sample}", MADE_BY)
        row = 2 * self.width
        return self.source, self.begin + (view * self.count + sample) * row, row


class FeatureReads:
    """Features that are being read."""

    def __init__(self, reads: Reads, width: int) -> None:
        self.reads, self.width = reads, width

    def wait(self) -> np.ndarray:
        """[b, D] float16. Raises what a `Source` does."""
        rows = b"".join(self.reads.wait())
        return np.frombuffer(bytearray(rows), np.float16).reshape(-1, self.width)
