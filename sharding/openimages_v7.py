"""Open Images V7's image labels as they are downloaded, all files in one folder: other names than
V4's, the same columns.

    oidv7-class-descriptions.csv                            MID and name, with a header
    oidv7-{train,val,test}-annotations-human-imagelabels.csv
    oidv7-{train,val,test}-annotations-machine-imagelabels.csv   (data.machine_threshold)
    oidv6-train-images-with-labels-with-rotation.csv, {validation,test}-images-with-rotation.csv

All else is as for V4 (sharding/openimages.py). No paper divides V7 into seen and unseen categories:
they are derived by the rule that the paper has for V4, or listed in classes-seen.txt and
classes-unseen.txt.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from c2srt.errors import UserError
from c2srt.sharding.config import DataConfig
from c2srt.sharding.counts import IMAGES, Acceptance, Count
from c2srt.sharding.csvs import existing
from c2srt.sharding.openimages import OpenImages
from c2srt.sharding.raw_files import RawFiles, SplitFiles, leave_images
from c2srt.shown import shown
from c2srt.storage import mirror
from c2srt.vocabulary import Vocabulary

PARTS = {"train": "train", "validation": "val", "test": "test"}
LISTS = {
    "train": "oidv6-train-images-with-labels-with-rotation.csv",
    "validation": "validation-images-with-rotation.csv",
    "test": "test-images-with-rotation.csv",
}
DESCRIPTIONS = "oidv7-class-descriptions.csv"
LABELS = 61_404_966
"""Of people, over all splits (storage.googleapis.com/openimages/web/index.html). The images are
V4's, so their numbers are (counts.py).
"""


@dataclass(frozen=True)
class RawFilesV7(RawFiles):
    """With V7's names in sentences."""

    def split(self, name: str) -> SplitFiles:
        if name not in PARTS:
            raise UserError(
                f"Open Images has no split {shown(name)}: choose from {', '.join(PARTS)}"
            )
        files = self.splits[name]
        for path, wanted in ((files.images, LISTS[name]), (files.labels, labels_of(name))):
            if path is None:
                raise UserError(f"{self.folder / wanted} does not exist: download it")
        return files


@dataclass(frozen=True)
class OpenImagesV7(OpenImages):
    """The reader of this layout."""

    def acceptance(
        self, vocabulary: Vocabulary, inputs: dict[str, Path], packed: dict[str, int]
    ) -> Acceptance:
        """As V4's, beside what is published of V7; its list of training images is the whole."""
        found = super().acceptance(vocabulary, inputs, packed)
        counts = [
            replace(count, published=IMAGES[count.what.partition(":")[0]][:1])
            if count.what.endswith((": images listed", ": images packed"))
            else count
            for count in found.counts
        ]
        if inputs.keys() == PARTS.keys():
            ours = sum(count.value for count in counts if count.what.endswith(": labels"))
            counts.append(Count("labels of all splits", int(ours), (LABELS,)))
        return Acceptance(found.vocabulary, tuple(counts))


def labels_of(split: str, whose: str = "human") -> str:
    return f"oidv7-{PARTS[split]}-annotations-{whose}-imagelabels.csv"


def find(data: DataConfig) -> OpenImagesV7:
    """What lies in `data.root`. Raises UserError if the class list is not there."""
    root = Path(data.root)
    mirror.pull(root, leave_images)
    descriptions = existing(root / DESCRIPTIONS)
    if descriptions is None:
        raise UserError(
            f"{root} has no {DESCRIPTIONS}: name the folder that has the Open Images V7 CSVs by"
            " data.root=…"
        )
    splits = {
        split: SplitFiles(
            existing(root / LISTS[split]),
            False,
            existing(root / labels_of(split)),
            existing(root / labels_of(split, "machine")),
        )
        for split in PARTS
    }
    trainable = existing(root / "oidv7-classes-trainable.txt")
    seen, unseen = (existing(root / f"classes-{which}.txt") for which in ("seen", "unseen"))
    raw = RawFilesV7(root, descriptions, trainable, seen, unseen, splits)
    return OpenImagesV7(raw, data)
