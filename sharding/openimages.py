"""The reader (sharding/readers.py) of Open Images V4, and of whatever is laid out like it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2srt.sharding.annotations import require_images, write_inputs
from c2srt.sharding.categories import build_vocabulary, is_open_images_v4
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.counts import Acceptance, acceptance
from c2srt.sharding.input_report import InputReport
from c2srt.sharding.pack import Source
from c2srt.sharding.raw_files import RawFiles, class_names, find_root
from c2srt.sharding.tasks import choose_source
from c2srt.vocabulary import Vocabulary


@dataclass(frozen=True)
class OpenImages:
    """Its files, and how they are to be read."""

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

    def made_from(self, split: str) -> dict[str, Any]:
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


def find(data: DataConfig) -> OpenImages:
    """What lies in `data.root`. Raises UserError if the class list is not there."""
    return OpenImages(find_root(Path(data.root)), data)
