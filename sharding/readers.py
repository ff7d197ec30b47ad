"""What differs between data sets on the way to shards: one reader a layout on disk, chosen by
`data.layout`.
"""

from dataclasses import dataclass
from pathlib import Path

from c2srt.vocabulary import Vocabulary
from sharding.annotations import (
    InputReport,
    RawFiles,
    class_names,
    find_root,
    require_images,
    write_inputs,
)
from sharding.categories import build_vocabulary, is_open_images_v4
from sharding.config import Config, DataConfig
from sharding.counts import Acceptance, acceptance
from sharding.inputs import Reader
from sharding.nuswide import find_nus_wide
from sharding.pack import Source
from sharding.plan import choose_source


@dataclass(frozen=True)
class OpenImages:
    """Open Images V4, and whatever is laid out like it."""

    raw: RawFiles
    data: DataConfig
    report = InputReport

    @property
    def vocabulary_splits(self) -> tuple[str, ...]:
        """None if lists name the categories, else those that there are of train and test."""
        mode = self.data.vocabulary
        listed = (
            mode == "files" or mode == "auto" and is_open_images_v4(self.raw, class_names(self.raw))
        )
        return (
            ()
            if listed
            else tuple(split for split in ("train", "test") if split in self.raw.splits)
        )

    def made_from(self, split: str) -> dict:
        files, threshold = self.raw.split(split), self.data.machine_threshold
        used = [files.images, files.labels, self.raw.class_descriptions]
        if threshold is not None:
            used.append(files.machine_labels)
        csvs = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in used if path}
        return {"csvs": csvs, "machine_threshold": threshold}

    def write_inputs(self, split: str, out: Path) -> InputReport:
        report = write_inputs(self.raw, split, out, self.data.machine_threshold)
        require_images(self.raw.split(split), report)
        return report

    def vocabulary(self, inputs: dict[str, Path]) -> Vocabulary:
        return build_vocabulary(
            self.raw,
            self.data.vocabulary,
            inputs,
            self.data.seen_min_images,
            self.data.unseen_count,
        )

    def source(self, config: Config) -> Source:
        return choose_source(config, self.raw)

    def acceptance(
        self, vocabulary: Vocabulary, inputs: dict[str, Path], packed: dict[str, int]
    ) -> Acceptance:
        return acceptance(vocabulary, inputs, packed)


def find_reader(data: DataConfig) -> Reader:
    """The reader of `data.layout` for what lies in `data.root`. Raises UserError if it is not
    there.
    """
    root = Path(data.root)
    return find_nus_wide(root) if data.layout == "nuswide" else OpenImages(find_root(root), data)
