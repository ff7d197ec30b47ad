"""The sizes of a data set: published ones, or those of a shard folder."""

from dataclasses import dataclass
from pathlib import Path

from c2srt.errors import UserError
from c2srt.shards import FILE, load_index
from c2srt.vocabulary import FILE as VOCABULARY, load_vocabulary


@dataclass
class Sizes:
    """Images of each split, categories, and bytes an image (`sizes` of configs/datasets); a shard
    folder's own replace them.
    """

    train: int = 0
    trained: int | None = None
    validation: int = 0
    test: int = 0
    seen: int = 0
    unseen: int = 0
    raw_bytes: float = 0
    packed_bytes: float = 0
    short_side: int = 256

    @property
    def images(self) -> int:
        return self.train + self.validation + self.test


def find_sizes(sizes: Sizes, shards: Path, images: int | None) -> tuple[Sizes, str]:
    """The sizes to plan with and where they come from. Raises UserError when neither shards nor
    published sizes are there.
    """
    found, source = Sizes(**vars(sizes)), "published sizes (configs/datasets)"
    if (shards / FILE).is_file():
        index = load_index(shards)
        counts = {
            name: sum(shard.count for shard in of_split) for name, of_split in index.splits.items()
        }
        total = sum(shard.bytes for of_split in index.splits.values() for shard in of_split)
        found.train, found.validation, found.test = (
            counts.get(name, 0) for name in ("train", "validation", "test")
        )
        found.packed_bytes, found.trained, source = (
            total / max(1, sum(counts.values())),
            None,
            f"{shards / FILE}",
        )
    if (shards / VOCABULARY).is_file():
        vocabulary = load_vocabulary(shards)
        found.seen, found.unseen = vocabulary.seen_count, vocabulary.unseen_count
    if images is not None:
        found.train, found.trained, source = images, None, f"images={images} and {source}"
    if found.train < 1 or found.seen < 1:
        raise UserError(
            f"the sizes of this data set are not known ({shards / FILE} is not there): give"
            " sizes.train=… and sizes.seen=…"
        )
    return found, source
