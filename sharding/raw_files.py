"""Which Open Images V4 files lie below a root, and its small lists: class names and MIDs."""

from dataclasses import dataclass
from pathlib import Path

from c2srt.errors import UserError
from c2srt.sharding.csvs import damaged, existing, read_fields, read_lines
from c2srt.shown import shown
from c2srt.storage import mirror

SPLITS = ("train", "validation", "test")
ALL_IMAGES = "image_ids_and_rotation.csv"
OWN_IMAGES = {
    "train": "train-images-boxable-with-rotation.csv",
    "validation": "validation-images-with-rotation.csv",
    "test": "test-images-with-rotation.csv",
}


@dataclass(frozen=True)
class SplitFiles:
    """One split's files; None = not there. `shared_images`: the image CSV holds all splits, told
    apart by Subset.
    """

    images: Path | None
    shared_images: bool
    labels: Path | None
    machine_labels: Path | None


@dataclass(frozen=True)
class RawFiles:
    """What `find_root` found; `splits` has those splits that have an own image CSV or a label
    CSV.
    """

    folder: Path
    class_descriptions: Path
    classes_trainable: Path | None
    classes_seen: Path | None
    classes_unseen: Path | None
    splits: dict[str, SplitFiles]

    def split(self, name: str) -> SplitFiles:
        """The files of a split. Raises UserError, naming the missing file, unless it has an image
        CSV and a label CSV.
        """
        files = self.splits.get(name)
        if files is None:
            raise UserError(
                f"{self.folder} has no split {name!r} (it has {', '.join(self.splits) or 'none'}):"
                f" put the image CSV and the label CSV into {self.folder / name}"
            )
        if files.images is None:
            raise UserError(
                f"no image CSV of split {name!r} in {self.folder}: put"
                f" {name}/{OWN_IMAGES.get(name, 'images.csv')}, {name}/images.csv or {ALL_IMAGES}"
                " there"
            )
        if files.labels is None:
            raise UserError(
                f"{self.folder / name / f'{name}-annotations-human-imagelabels.csv'} does not"
                " exist: download it"
            )
        return files


def find_root(root: Path) -> RawFiles:
    """Finds the Open Images V4 files in `root`, `root/2018_04` or `root/*/2018_04`. Raises
    UserError if they are not there.
    """
    mirror.pull(root, leave_images)
    if not root.is_dir():
        raise UserError(
            f"data.root {root} is not a folder: name the one that holds 2018_04/ with the Open"
            " Images V4 CSVs"
        )
    for folder in (root, root / "2018_04", *sorted(root.glob("*/2018_04"))):
        if descriptions := existing(folder / "class-descriptions.csv"):
            splits = {split: files for split in SPLITS if (files := split_files(folder, split))}
            trainable, seen, unseen = (
                existing(folder / f"classes-{name}.txt") for name in ("trainable", "seen", "unseen")
            )
            return RawFiles(folder, descriptions, trainable, seen, unseen, splits)
    raise UserError(
        f"{root} has no class-descriptions.csv, neither directly nor in 2018_04/: name the folder"
        " that has the Open Images V4 CSVs by data.root=…"
    )


def leave_images(key: str) -> bool:
    """What of a root in a store is not fetched together with its lists."""
    return key.endswith((".jpg", ".tar", ".tar.gz"))


def split_files(folder: Path, split: str) -> SplitFiles | None:
    """The split's files, or None if it has none of its own.

    For train the list of all splits comes first, because train's own list has only the 1.7 M images
    with boxes.
    """
    shared = existing(folder / ALL_IMAGES)
    own = existing(folder / split / OWN_IMAGES[split]) or existing(folder / split / "images.csv")
    labels = existing(folder / split / f"{split}-annotations-human-imagelabels.csv")
    if own is None and labels is None:
        return None
    images = (shared or own) if split == "train" else (own or shared)
    machine = existing(folder / split / f"{split}-annotations-machine-imagelabels.csv")
    return SplitFiles(images, images is not None and images == shared, labels, machine)


def class_names(raw: RawFiles) -> dict[str, str]:
    """MID → display name. Raises UserError if a line of class-descriptions.csv is not a MID and a
    name.
    """
    names: dict[str, str] = {}
    for line, row in read_fields(raw.class_descriptions):
        if len(row) != 2 or not row[1] or not row[0].startswith("/"):
            if line == 1 and row[0] == "LabelName":  # later releases have a header
                continue
            raise damaged(
                raw.class_descriptions,
                f"line {line} is not a MID and a name: '{shown(','.join(row))}'",
            )
        names.setdefault(
            row[0], row[1].strip()
        )  # two names of Open Images V4 have a blank at an end
    if not names:
        raise damaged(raw.class_descriptions, "it is empty")
    return names


def read_mids(path: Path) -> list[str]:
    """A list with a MID a line (BOM and CRLF allowed). Raises UserError on a line that is none."""
    mids = read_lines(path)
    if bad := next((mid for mid in mids if not mid.startswith("/")), None):
        raise damaged(path, f"'{shown(bad)}' is not a MID")
    return mids
