r"""NUS-WIDE as it lies on disk → the same parquet as sharding/annotations.py writes, so that all
that follows is shared.

    ImageList/{Train,Test}Imagelist.txt      an image a line: `actor\0001_2124494179.jpg`, CRLF
    NUS_WID_Tags/TagList1k.txt, {Train,Test}_Tags1k.dat    the user tags: a line an image, a column
                                                           a tag, 0 or 1
    ConceptsList/Concepts81.txt, Groundtruth/TrainTestLabels/Labels_<concept>_Test.txt
                                             what people judged: 0 or 1 a line
    Flickr/<folder>/<name>.jpg

Seen categories are the tags that are no concept (925 of 1,000), unseen ones the 81 concepts; there
are no MIDs, names are the keys. Training images are labelled with the seen tags only, test images
also with the concepts. A label is present (1) or absent (0), never unverified. Ids are
`<folder>_<name>`, because a Flickr photo may lie in two folders. The parquet has one more column,
file (str): the image's path below Flickr/.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from c2srt.datasets import published_of
from c2srt.errors import UserError
from c2srt.evaluation.known import given_away
from c2srt.scratch import origin
from c2srt.sharding.config import Config, DataConfig
from c2srt.sharding.counts import Acceptance, Count
from c2srt.sharding.file_rows import GROUP_ROWS, Block, write_rows
from c2srt.sharding.folders import FileSource
from c2srt.sharding.nuswide_files import read_bits, read_images, read_names, require
from c2srt.shown import shown
from c2srt.vocabulary import Vocabulary

log = logging.getLogger(__name__)

TAG_LIST, CONCEPT_LIST = "NUS_WID_Tags/TagList1k.txt", "ConceptsList/Concepts81.txt"
PREFIX = {"train": "Train", "test": "Test"}
IMAGES = {"train": 161_789, "test": 107_859}
EXAMPLES = 5


@dataclass
class LabelReport:
    """What `NusWide.write_inputs` counted; `lines()` says it in sentences."""

    split: str
    images: int = 0
    categories: int = 0
    positives: int = 0
    without_positive: int = 0
    photos_twice: int = 0

    def lines(self) -> list[str]:
        lines = [
            f"{self.images:,} images × {self.categories:,} categories: {self.positives:,} labels"
            " present, the rest absent"
        ]
        if self.without_positive:
            lines.append(
                f"{self.without_positive:,} images have no category present: kept, all absent"
            )
        if self.photos_twice:
            lines.append(
                f"{self.photos_twice:,} Flickr photos lie in several folders: each file is an image"
                " of its own"
            )
        return [f"{self.split}: {line}" for line in lines]


@dataclass(frozen=True)
class NusWide:
    """The reader of this layout (sharding/readers.py). Every method raises UserError on files that
    are absent or damaged.
    """

    root: Path
    report = LabelReport
    vocabulary_splits = ()

    @cached_property
    def tags(self) -> list[str]:
        return read_names(self.root / TAG_LIST)

    @cached_property
    def concepts(self) -> list[str]:
        return read_names(self.root / CONCEPT_LIST)

    @property
    def seen(self) -> list[str]:
        """The tags that are no concept, in the order of the tag list."""
        concepts = set(self.concepts)
        return [tag for tag in self.tags if tag not in concepts]

    def made_from(self, split: str) -> dict[str, Any]:
        """Size and modification time (ns) of each file that the split's parquet is made from."""
        used = [self.root / TAG_LIST, self.root / CONCEPT_LIST, *self.files(split)]
        return {
            "csvs": {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in used}
        }

    def files(self, split: str) -> list[Path]:
        """Image list, tags, then (test only) a label file a concept. Raises UserError naming the
        first that is not there.
        """
        if split not in PREFIX:
            raise UserError(f"NUS-WIDE has no split {split!r}: choose 'splits=[train,test]'")
        lists = [
            self.root / f"ImageList/{PREFIX[split]}Imagelist.txt",
            self.root / f"NUS_WID_Tags/{PREFIX[split]}_Tags1k.dat",
        ]
        folder = self.root / "Groundtruth/TrainTestLabels"
        labels = (
            {concept: folder / f"Labels_{concept}_Test.txt" for concept in self.concepts}
            if split == "test"
            else {}
        )
        for path in lists:
            require(path)
        for concept, path in labels.items():
            if not path.is_file():
                raise UserError(
                    f"concept '{shown(concept)}' of Concepts81.txt has no labels: {folder} has no"
                    f" {shown(path.name)}; download Groundtruth again, or correct the list"
                )
        return lists + list(labels.values())

    def write_inputs(self, split: str, out: Path) -> LabelReport:
        """Writes the split's parquet, sorted by id."""
        image_list, tags, *concepts = self.files(split)
        images = read_images(image_list)
        chosen = [self.tags.index(tag) for tag in self.seen]
        present = read_bits(tags, len(self.tags), len(images), image_list)[:, chosen]
        if concepts:
            present = np.hstack(
                [present, *(read_bits(path, 1, len(images), image_list) for path in concepts)]
            )
        names = self.seen + (self.concepts if concepts else [])
        by_name, by_id = np.argsort(names), images["id"].arg_sort().to_numpy()
        images, present = images[by_id], present[:, by_name][by_id] > 0
        write_rows(out, blocks_of(images, present), sorted(names))
        return LabelReport(
            split,
            len(images),
            len(names),
            int(present.sum()),
            int((~present.any(1)).sum()),
            int(images["photo"].value_counts()["count"].gt(1).sum()),
        )

    def vocabulary(self, inputs: dict[str, Path]) -> Vocabulary:
        """The seen tags, then the concepts; says their number, and what a reader of results must
        know of them.
        """
        vocabulary = Vocabulary(names := (*self.seen, *self.concepts), names, len(self.seen))
        untagged = [concept for concept in self.concepts if concept not in self.tags]
        pairs = [
            shown(f"{vocabulary.names[unseen]}/{vocabulary.names[seen]}")
            for unseen, seen in given_away(vocabulary)
        ]
        log.info(
            f"vocabulary: {len(self.seen):,} seen + {len(self.concepts):,} unseen categories"
            f" (TagList1k without Concepts81, then Concepts81; {len(untagged):,} concepts are no"
            f" tags: {', '.join(map(shown, untagged))})"
        )
        if pairs:
            log.info(
                f"{len(pairs):,} unseen categories differ from a seen one only by the plural"
                f" ({', '.join(pairs[:EXAMPLES])}{', …' if len(pairs) > EXAMPLES else ''}): say so"
                " beside results"
            )
        return vocabulary

    def source(self, config: Config) -> FileSource:
        folder = self.root / "Flickr"
        if not folder.is_dir():
            raise UserError(
                f"{folder} is not a folder: put NUS-WIDE's image folders there"
                " (Flickr/actor/0001_2124494179.jpg)"
            )
        return FileSource(str(folder.resolve()), "flickr")

    def acceptance(
        self, vocabulary: Vocabulary, inputs: dict[str, Path], packed: dict[str, int]
    ) -> Acceptance:
        """Images, and positives per image over all test images, beside the published constants."""
        counts = []
        for split, path in inputs.items():
            listed = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
            counts += [
                Count(f"{split}: images {what}", count, (IMAGES[split],))
                for what, count in (("listed", listed), ("packed", packed[split]))
            ]
        if "test" in inputs:
            counts += test_counts(vocabulary, inputs["test"])
        known = vocabulary.hash == published_of("nuswide").vocabulary
        return Acceptance(
            vocabulary.hash,
            tuple(count if known else replace(count, published=()) for count in counts),
        )


def find(data: DataConfig) -> NusWide:
    """What lies in `data.root`. Raises UserError if the lists are not there."""
    root = Path(data.root)
    if origin(root):
        raise UserError(
            f"data.root={root}: NUS-WIDE is read from a folder of this machine only: copy it"
        )
    if not root.is_dir():
        raise UserError(
            f"data.root {root} is not a folder: name the one that holds NUS-WIDE's ImageList/,"
            " Flickr/ and so on"
        )
    found = NusWide(root)
    if not found.seen or not found.concepts:
        what, cut = ("seen", "TagList1k.txt") if found.concepts else ("unseen", "Concepts81.txt")
        raise UserError(f"{root} gives no {what} category: {cut} is cut off; download it again")
    return found


def blocks_of(images: pl.DataFrame, present: np.ndarray) -> Iterator[Block]:
    """`images` and `present` bool [images, categories], some rows at a time; the rest is absent."""
    for start in range(0, len(images), GROUP_ROWS):
        marked = present[start : start + GROUP_ROWS]
        yield images[start : start + GROUP_ROWS], marked, ~marked


def test_counts(vocabulary: Vocabulary, inputs: Path) -> list[Count]:
    """Positives per test image for ZSL and GZSL, whether an image has one or not, and categories
    with a positive.
    """
    images = pl.scan_parquet(inputs, glob=False).select(pl.len()).collect().item()
    positives = (
        pl.scan_parquet(inputs, glob=False)
        .select(name=pl.col("positive"))
        .explode("name")
        .drop_nulls()
    )
    found = dict(positives.group_by("name").len().collect(engine="streaming").iter_rows())
    unseen = {name: found.get(name, 0) for name in vocabulary.names[vocabulary.seen_count :]}
    seen = {name: found.get(name, 0) for name in vocabulary.names[: vocabulary.seen_count]}
    sums = {"zsl": sum(unseen.values()), "gzsl": sum(unseen.values()) + sum(seen.values())}
    known = published_of("nuswide")
    per_image = [
        Count(
            f"test: {name.upper()} positives per image, over all images",
            total / images,
            (getattr(known, name),),
            digits,
        )
        for (name, total), digits in zip(sums.items(), known.digits, strict=True)
    ]
    return per_image + [
        Count(
            f"test: {what} categories (of {len(of):,}) with a positive",
            sum(count > 0 for count in of.values()),
        )
        for what, of in (("seen", seen), ("unseen", unseen))
    ]
