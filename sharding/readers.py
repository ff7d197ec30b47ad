"""What differs between data sets on the way to shards: one reader a layout on disk, chosen by
`data.layout`.
"""

from dataclasses import Field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.counts import Acceptance
from c2srt.sharding.layouts import MODULES
from c2srt.sharding.pack import Source
from c2srt.vocabulary import Vocabulary


class Report(Protocol):
    """A dataclass of counts."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def lines(self) -> list[str]:
        """They and every oddity in sentences."""
        ...


class Reader(Protocol):
    """A raw data set that was found. Methods raise UserError on files that are absent or
    damaged.
    """

    @property
    def report(self) -> type[Report]:
        """What `write_inputs` returns."""
        ...

    @property
    def vocabulary_splits(self) -> tuple[str, ...]:
        """Splits whose tables `vocabulary` looks into."""
        ...

    def made_from(self, split: str) -> dict[str, Any]:
        """What the split's table depends on, files with size and time: another value, and it is
        made again.
        """
        ...

    def write_inputs(self, split: str, out: Path) -> Report:
        """Writes the split's table, the parquet that sharding/annotations.py specifies, with
        c2srt.files.whole_file: complete, and in a folder that is made if absent.
        """
        ...

    def vocabulary(self, inputs: dict[str, Path]) -> Vocabulary:
        """The categories; says where they come from. `inputs`: split → table."""
        ...

    def source(self, config: Config) -> Source:
        """Where the pixels come from."""
        ...

    def acceptance(
        self, vocabulary: Vocabulary, inputs: dict[str, Path], packed: dict[str, int]
    ) -> Acceptance:
        """Counts beside the published ones."""
        ...


def find_reader(data: DataConfig) -> Reader:
    """The reader of `data.layout` for what lies in `data.root`. Raises UserError if it is not
    there.
    """
    return cast(Reader, import_module(MODULES[data.layout]).find(data))
