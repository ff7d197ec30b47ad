"""What every verb is told of the data set: configs/datasets/<name>.yaml holds what differs from
these defaults.
"""

from dataclasses import dataclass
from typing import Any

from c2srt.keys import NEEDED, Takes, key


@dataclass
class DataKeys:
    """Of a data set in any layout. Where `neighbours`, `resize` and `images_per_shard` are given,
    the verbs' own keys follow them.
    """

    name: str = key("miniature", "of the data set")
    root: str = key(
        "",
        (
            "folder with 2018_04/ (the CSVs) and the images; NUS-WIDE: with "
            "ImageList/, Groundtruth/, Flickr/ …; coco, voc, vg256, openimages_v7: "
            "docs/datasets.md; "
            "csv: what image paths are relative to, if not to their table's folder"
        ),
        follows=NEEDED,
        takes=Takes.ABOVE,
    )
    layout: str = key("openimages", "which files lie below root: one of sharding/layouts.py")
    neighbours: int | None = key(
        None,
        "related seen categories of each: kept by `c2srt relations`, heard in training; null:"
        " the verbs' own",
    )
    groups: str | None = key(
        None, "CSV of groups of unseen categories (`c2srt tables`)", takes=Takes.ABOVE
    )
    resize: Any = key(None, "short side of packed images; null: the verb's own")
    images_per_shard: int | None = key(None, "null: the verb's own")
    splits: list[str] = key(
        ["train", "validation", "test"],
        "those that it has; what follows belongs to its layout alone",
    )
    exclude: str | None = key(
        None,
        "table of images that `c2srt shard` leaves out, with columns image, split, reason, such as"
        " the exclude.csv that `c2srt audit` writes",
    )


@dataclass
class OpenImagesKeys(DataKeys):
    """With those of Open Images V4's layout alone."""

    images: str = key(
        "auto",
        (
            "folders: images/<split>/<id>.jpg | packs: CVDF's train_0.tar.gz …, or "
            "unpacked: train_0.tar … "
            "| urls: OriginalURL of the CSVs | auto: the first of these three "
            "that is there"
        ),
    )
    vocabulary: str = key(
        "auto",
        (
            "auto: the lists of LESA that ship with the project | derive: seen and unseen "
            "categories by the paper's rule, from the CSVs | files: your own lists, "
            "classes-seen.txt and classes-unseen.txt beside the CSVs, a MID a line"
        ),
    )
    seen_min_images: int = key(100, "derive: a seen category has more training images than this")
    unseen_count: int = key(
        400,
        "derive: number of most frequent test categories absent from training",
    )
    machine_threshold: float | None = key(
        None,
        (
            "also take machine labels of at least this confidence as positive; "
            "empty: verified by people only"
        ),
    )


@dataclass
class CsvKeys(DataKeys):
    """With those of tables of one's own (sharding/csv_layout.py)."""

    train: str | None = key(
        None,
        "table of the training images: .csv, .tsv, or .jsonl with an object a line; or a folder"
        " that has a folder of pictures for each label",
    )
    val: str | None = key(
        None, "table of the validation images; null: a share of train is held out"
    )
    test: str | None = key(None, "table of the test images; null: likewise")
    share: float = key(0.1, "of train's images, held out for each split that has no table")
    split_seed: int = key(0, "of what share and unseen hold out")
    image: str = key("image", "column of image paths")
    labels: Any = key(
        "labels",
        "column of labels, a list of columns, or '*': all that are left. Several columns that hold"
        " 0, 1 and nothing else are a category each, by their names",
    )
    absent: Any = key(None, "column of labels that were verified absent, or a list of columns")
    closed: bool = key(
        True,
        "a label that an image does not have is absent there; false: it is unknown there, but for"
        " what `absent` or a column's 0 says",
    )
    separator: str | None = key(
        None, "between columns: comma, semicolon, tab; null: the one that fits the header"
    )
    label_separator: str | None = key(
        None, "between labels in a cell; null: the first of | ; , that any cell has"
    )
    names: str | None = key(
        None, "table with columns id and name, where labels are ids; null: labels are names"
    )
    unseen: Any = key(
        None,
        "labels that training never sees: a list, a text file with one a line, or a share of all"
        " labels; with none, those that the training table lacks",
    )


@dataclass
class ClassesKeys(DataKeys):
    """With those of a set of whose categories papers hold some out."""

    classes: str = key(
        "all",
        "seen and unseen categories: coco: 48/17 | 65/15 | all; voc: 16/4 | all. all: every one is"
        " seen",
    )
    year: int | None = key(None, "coco: 2014 | 2017; voc: 2007 | 2012; null: the first of them")


@dataclass
class CocoKeys(ClassesKeys):
    """With those of MS-COCO (sharding/coco.py)."""

    test_images: str | None = key(
        None,
        "a list of the test images, such as papers have one for 48/17: .json or lines with the"
        " names of files; null: all that the classes allow",
    )


@dataclass
class VisualGenomeKeys(DataKeys):
    """With those of VG-256 (sharding/visual_genome.py)."""

    categories: str | None = key(
        None, "JSON of the categories and their words; null: vg256.json below root"
    )


@dataclass
class EveryKey(CsvKeys, OpenImagesKeys, CocoKeys, VisualGenomeKeys):
    """Of a data set in whichever layout: what a verb's dataclass holds, and what help is taken
    from.
    """


OF_LAYOUT: dict[str, type[DataKeys]] = {
    DataKeys.layout: OpenImagesKeys,
    "csv": CsvKeys,
    "coco": CocoKeys,
    "voc": ClassesKeys,
    "openimages_v7": OpenImagesKeys,
    "vg256": VisualGenomeKeys,
}
"""The layouts that have keys of their own."""
