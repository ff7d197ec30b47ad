"""What a reader must know beside a result: the published positives per image, and unseen names that
a seen one gives away.

Positives per image are a constant of the test labels that every published P@K and R@K reveals (K ·
P@K / R@K): where ours differ, the labels are not those of the published tables.
"""

from dataclasses import dataclass

from c2srt.vocabulary import Vocabulary, open_images_v4

NUS_WIDE_VOCABULARY = "86d70217123bb795"
"""Hash of NUS-WIDE's 925 + 81 names in the order of their lists."""


@dataclass(frozen=True)
class Published:
    """Positives per image of the test split by label set, and the decimals they are known to."""

    zsl: float
    gzsl: float
    digits: tuple[int, int]
    every_image: bool
    """Over all test images, else over those with a positive in the label set."""

    def agrees(self, label_set: str, value: float) -> bool:
        return round(value, self.digits[label_set == "gzsl"]) == getattr(self, label_set)


OPEN_IMAGES = Published(1.28, 8.68, (2, 2), False)
NUS_WIDE = Published(1.875, 6.80, (3, 2), True)


def published(vocabulary: Vocabulary) -> Published | None:
    """The constants that belong to a vocabulary; None for any other list, on which they would mean
    nothing.
    """
    return {NUS_WIDE_VOCABULARY: NUS_WIDE, open_images_v4().hash: OPEN_IMAGES}.get(vocabulary.hash)


def given_away(vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """(unseen, seen) columns whose names are equal but for a plural's s (and capitals), in the
    order of the unseen ones: of such an unseen category the training saw the word.
    """
    names = [name.casefold() for name in vocabulary.names]
    seen: dict[str, int] = {}
    for column in range(vocabulary.seen_count):
        seen.setdefault(names[column], column)
    pairs = []
    for column in range(vocabulary.seen_count, len(vocabulary)):
        forms = (names[column], f"{names[column]}s", names[column].removesuffix("s"))
        pairs += [(column, seen[form]) for form in dict.fromkeys(forms) if form in seen]
    return pairs
