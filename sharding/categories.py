"""Which categories are seen and which unseen: LESA's lists, explicit lists beside the CSVs, or the
paper's rule.

The paper's rule (section "Dataset"): seen = more than 100 images of the training set, unseen = the
400 most frequent labels of the test set that do not appear in the training set. A label "appears"
in an image when it is verified present there.
"""

import logging
from pathlib import Path
from typing import cast

import polars as pl

from c2srt.errors import UserError
from c2srt.sharding.raw_files import RawFiles, class_names, read_mids
from c2srt.shown import shown
from c2srt.vocabulary import Vocabulary, open_images_v4

log = logging.getLogger(__name__)

MODES = ("auto", "derive", "files")
SEEN_MIN_IMAGES = 100
UNSEEN_COUNT = 400


def build_vocabulary(
    raw: RawFiles,
    mode: str,
    inputs: dict[str, Path],
    seen_min_images: int = SEEN_MIN_IMAGES,
    unseen_count: int = UNSEEN_COUNT,
) -> Vocabulary:
    """The vocabulary of `mode`; says in one line where it came from. `inputs`: split →
    parquet of `write_inputs`.

    `auto` takes LESA's 7,186 + 400 if the lists are those of Open Images V4, else the lists of
    `files` if they are there, else `derive`. Raises UserError on an unknown mode, absent lists or
    splits, a listed MID without a name, or no seen category.
    """
    if mode not in MODES:
        raise UserError(f"data.vocabulary is {mode!r}: choose one of {', '.join(MODES)}")
    names = class_names(raw)
    if mode == "auto" and is_open_images_v4(raw, names):
        vocabulary, source = (
            open_images_v4(),
            "LESA's lists, because the class lists are those of Open Images V4",
        )
    elif mode == "files" or mode == "auto" and raw.classes_seen:
        vocabulary, source = listed(raw, names), "classes-seen.txt and classes-unseen.txt"
    else:
        vocabulary = derived(names, inputs, seen_min_images, unseen_count)
        why = "the class lists are not those of Open Images V4, so " if mode == "auto" else ""
        source = (
            f"{why}seen = more than {seen_min_images} training images, unseen = the {unseen_count}"
            " most frequent test labels absent from training"
        )
    log.info(
        f"vocabulary: {vocabulary.seen_count:,} seen + {vocabulary.unseen_count:,} unseen"
        f" categories ({source})"
    )
    return vocabulary


def is_open_images_v4(raw: RawFiles, names: dict[str, str]) -> bool:
    """True if classes-trainable.txt lists exactly the shipped seen MIDs and every shipped MID has
    the shipped name.
    """
    if raw.classes_trainable is None:
        return False
    shipped = open_images_v4()
    return set(read_mids(raw.classes_trainable)) == set(shipped.mids[: shipped.seen_count]) and all(
        names.get(mid) == name for mid, name in zip(shipped.mids, shipped.names, strict=True)
    )


def listed(raw: RawFiles, names: dict[str, str]) -> Vocabulary:
    """The vocabulary of classes-seen.txt and classes-unseen.txt, in their order."""
    if raw.classes_seen is None or raw.classes_unseen is None:
        raise UserError(
            f"{raw.folder} lacks classes-seen.txt or classes-unseen.txt (a MID a line): write them,"
            " or use data.vocabulary=auto"
        )
    seen, unseen = read_mids(raw.classes_seen), read_mids(raw.classes_unseen)
    if nameless := [mid for mid in (*seen, *unseen) if mid not in names]:
        raise UserError(
            f"{shown(nameless[0])} of the class lists is not in {raw.class_descriptions}: add a"
            " line with its name"
        )
    return named(seen, unseen, names)


def derived(
    names: dict[str, str], inputs: dict[str, Path], seen_min_images: int, unseen_count: int
) -> Vocabulary:
    """The paper's rule. Seen categories are sorted by MID (as classes-trainable.txt is), unseen
    ones by frequency, ties by MID.

    A label without a display name cannot be put to the text tower and is left out; `write_inputs`
    has named it.
    """
    for split in ("train", "test"):
        if split not in inputs:
            raise UserError(
                f"the vocabulary cannot be derived without the split {split!r}: add its CSVs, or"
                " list the categories in classes-seen.txt and classes-unseen.txt and set"
                " data.vocabulary=files"
            )
    training, test = (
        positive_counts(inputs[split]).filter(pl.col("mid").is_in(list(names)))
        for split in ("train", "test")
    )
    seen = training.filter(pl.col("images") > seen_min_images).sort("mid")
    unseen = (
        test.join(training, on="mid", how="anti")
        .sort("images", "mid", descending=[True, False])
        .head(unseen_count)
    )
    if not len(seen):
        most = cast(int, training["images"].max() or 0)
        raise UserError(
            f"no category is verified present in more than {seen_min_images} training images (the"
            f" most frequent one is in {most}): lower data.seen_min_images, or list the categories"
            " in classes-seen.txt and classes-unseen.txt and set data.vocabulary=files"
        )
    return named(seen["mid"].to_list(), unseen["mid"].to_list(), names)


def positive_counts(inputs: Path) -> pl.DataFrame:
    """Columns mid, images: in how many images of the split a category is verified present.
    Streamed.
    """
    positive = (
        pl.scan_parquet(inputs, glob=False)
        .select(mid=pl.col("positive"))
        .explode("mid")
        .drop_nulls()
    )
    return positive.group_by("mid").agg(images=pl.len()).collect(engine="streaming")


def named(seen: list[str], unseen: list[str], names: dict[str, str]) -> Vocabulary:
    mids = (*seen, *unseen)
    return Vocabulary(mids, tuple(names[mid] for mid in mids), len(seen))
