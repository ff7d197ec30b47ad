"""Numbers of a data set that need no model, beside the published ones: a wrong file or protocol
shows before any training.

The number of positives per evaluated image is a constant of the test set that published P@K and R@K
reveal (K · P@K / R@K; not all of them, c2srt/tables/published.py), so it tells whether our test
labels are those of the published tables.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from c2srt.datasets import published_of
from c2srt.files import write_json
from c2srt.vocabulary import Vocabulary, open_images_v4

IMAGES = {
    "train": (9_011_219, 1_743_042),
    "validation": (41_620,),
    "test": (125_436,),
}  # train: all, or only those with boxes
LABELS = {"train": (27_894_289,), "validation": (551_390,), "test": (1_667_399,)}
POSITIVES = {"train": (13_444_569,), "test": (1_105_052,)}
TRAINED = 5_501_586  # training images with a label of a seen category, which is what LESA trains on
SEEN_ANNOTATED, SEEN_POSITIVE = 4_728, 4_698  # of the 7,186 seen categories, in the test split


@dataclass(frozen=True)
class Count:
    """One number; `published` holds the accepted values (empty: none is known for this data),
    ratios with `digits` decimals.
    """

    what: str
    value: float
    published: tuple[float, ...] = ()
    digits: int = 2

    @property
    def agrees(self) -> bool | None:
        """None if nothing is published to compare with."""
        return (
            any(round(self.value, self.digits) == number for number in self.published)
            if self.published
            else None
        )

    def line(self) -> str:
        known = " or ".join(form(number, self.digits) for number in self.published)
        verdict = {
            None: "",
            True: f" (published: {known})",
            False: f" DIFFERS from the published {known}",
        }[self.agrees]
        return f"{self.what}: {form(self.value, self.digits)}{verdict}"


def form(number: float, digits: int) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.{digits}f}"


@dataclass(frozen=True)
class Acceptance:
    """All counts of a data set, for its vocabulary (hash)."""

    vocabulary: str
    counts: tuple[Count, ...]

    def lines(self) -> list[str]:
        differing = sum(count.agrees is False for count in self.counts)
        lines = [count.line() for count in self.counts]
        return (
            lines + [f"{differing} of these counts differ from the published ones: so will results"]
            if differing
            else lines
        )

    def save(self, path: Path) -> None:
        """Writes {"vocabulary", "counts": [{"what", "value", "published", "digits",
        "agrees"}…]}.
        """
        counts = [asdict(count) | {"agrees": count.agrees} for count in self.counts]
        write_json(path, {"vocabulary": self.vocabulary, "counts": counts})


def acceptance(
    vocabulary: Vocabulary, inputs: dict[str, Path], packed: dict[str, int] | None = None
) -> Acceptance:
    """Counts images, labels and, on the test split, positives per evaluated image. `inputs`: split
    → parquet of `write_inputs`.

    `packed`: images packed into shards by split, for the coverage. Published values stand beside
    only for LESA's vocabulary of Open Images V4; on other data they would mean nothing.
    """
    compare = vocabulary.hash == open_images_v4().hash
    counts: list[Count] = []
    for split, path in inputs.items():
        counts += split_counts(split, path, (packed or {}).get(split))
    if "train" in inputs:
        trained = images_with_label(inputs["train"], vocabulary.mids[: vocabulary.seen_count])
        counts.append(Count("train: images with a label of a seen category", trained, (TRAINED,)))
    if "test" in inputs:
        counts += category_counts(vocabulary, inputs["test"])
    return Acceptance(
        vocabulary.hash,
        tuple(count if compare else Count(count.what, count.value) for count in counts),
    )


def split_counts(split: str, inputs: Path, packed: int | None) -> list[Count]:
    """Images and labels of one split; the published image counts are those of the image CSVs, so
    only listed images count.
    """
    listed, labels, positives = (
        pl.scan_parquet(inputs, glob=False)
        .select(
            pl.col("listed").sum(),
            labels=(pl.col("positive").list.len() + pl.col("negative").list.len()).sum(),
            positives=pl.col("positive").list.len().sum(),
        )
        .collect(engine="streaming")
        .row(0)
    )
    counts = [
        Count(f"{split}: images listed", int(listed or 0), IMAGES.get(split, ())),
        Count(f"{split}: labels", int(labels or 0), LABELS.get(split, ())),
        Count(f"{split}: positives", int(positives or 0), POSITIVES.get(split, ())),
    ]
    return counts + (
        [Count(f"{split}: images packed", packed, IMAGES.get(split, ()))]
        if packed is not None
        else []
    )


def images_with_label(inputs: Path, mids: tuple[str, ...]) -> int:
    """Number of images with a label, positive or negative, among `mids`."""
    among = (
        pl.concat_list("positive", "negative").list.eval(pl.element().is_in(list(mids))).list.any()
    )
    return (
        pl.scan_parquet(inputs, glob=False).select(among.sum()).collect(engine="streaming").item()
    )


def category_counts(vocabulary: Vocabulary, inputs: Path) -> list[Count]:
    """Positives per evaluated image for ZSL and GZSL, and how many categories can be evaluated at
    all.
    """
    is_seen = [column < vocabulary.seen_count for column in range(len(vocabulary))]
    categories = pl.LazyFrame(
        {"mid": vocabulary.mids, "seen": is_seen}, schema={"mid": pl.String, "seen": pl.Boolean}
    )
    positive, negative = (
        pl.scan_parquet(inputs, glob=False)
        .select("id", mid=pl.col(name))
        .explode("mid")
        .join(categories, on="mid")
        for name in ("positive", "negative")
    )
    per_image = [
        Count(
            f"test: {name.upper()} positives per image that has one",
            positives_per_image(chosen),
            (getattr(published_of("openimages"), name),),
        )
        for name, chosen in (("zsl", positive.filter(~pl.col("seen"))), ("gzsl", positive))
    ]
    have_positive, annotated = distinct(positive), distinct(pl.concat([positive, negative]))
    seen = f"test: seen categories (of {vocabulary.seen_count:,})"
    unseen = f"test: unseen categories (of {vocabulary.unseen_count:,})"
    return per_image + [
        Count(f"{seen} with a label", annotated.get(True, 0), (SEEN_ANNOTATED,)),
        Count(f"{seen} with a positive", have_positive.get(True, 0), (SEEN_POSITIVE,)),
        Count(f"{unseen} with a label", annotated.get(False, 0)),
        Count(f"{unseen} with a positive", have_positive.get(False, 0)),
    ]


def positives_per_image(positive: pl.LazyFrame) -> float:
    """Rows per distinct id; 0 without rows."""
    rows, images = (
        positive.select(rows=pl.len(), images=pl.col("id").n_unique())
        .collect(engine="streaming")
        .row(0)
    )
    return rows / images if images else 0.0


def distinct(pairs: pl.LazyFrame) -> dict[bool, int]:
    """seen → number of distinct categories in `pairs`."""
    return dict(
        pairs.group_by("seen").agg(pl.col("mid").n_unique()).collect(engine="streaming").iter_rows()
    )
