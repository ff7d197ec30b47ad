"""The keys of `c2srt check`, and the sizes at which it looks: the real ones on a GPU, tiny ones on
a CPU.
"""

from dataclasses import dataclass, fields
from typing import Any

from c2srt.errors import UserError
from c2srt.keys import Mark, key
from c2srt.shared_keys import shared

QUICK, FULL = "quick", "full"
GPU, KERNELS, KEEP, CLUSTER = "gpu", "kernels", "keep", "cluster"
WHATS = (GPU, KERNELS, KEEP, CLUSTER)


@dataclass
class Config:
    """Keys of `c2srt check`."""

    what: str = key(GPU, "gpu | kernels | keep | cluster")
    length: str = key(QUICK, "quick | full")
    out: str = key(
        "runs/check",
        "folder written: check.jsonl, check.json, check.txt, check.log; cluster: cluster.json",
        mark=Mark.HARMLESS,
        follows="${work}",
    )
    parts: list[str] = key([], "some parts only: 'parts=[isr,gat]'")
    commit: str = key("", "of the source, where there is no git to ask")
    seconds: float = key(
        90, "cluster: the check's limit; each question's share follows", mark=Mark.HARMLESS
    )
    raw: str = key("", "cluster: raw images, looked at on every node", follows="${data.root}")
    shards: str = shared("shards")
    work: str = shared("work")

    def __post_init__(self) -> None:
        if self.what not in WHATS:
            raise UserError(f"what={self.what} is none of {', '.join(WHATS)}")
        if self.length not in (QUICK, FULL):
            raise UserError(f"length={self.length} is neither {QUICK} nor {FULL}")
        if self.seconds <= 0:
            raise UserError(f"seconds={self.seconds} must be above 0")


def from_words(words: list[str]) -> Config:
    """`gpu quick out=…` without Hydra: the two words and key=value in any order. Raises
    UserError.
    """
    values: dict[str, Any] = {}
    names = [entry.name for entry in fields(Config)]
    for position, word in enumerate(words):
        key, equals, value = word.partition("=")
        if not equals and position < 2:
            values[names[position]] = word
        elif key not in names or not equals:
            raise UserError(f"{word!r} is not one of {', '.join(f'{name}=…' for name in names)}")
        else:
            values[key] = split_list(value) if key == "parts" else value
    try:
        values |= {"seconds": float(values["seconds"])} if "seconds" in values else {}
    except ValueError:
        raise UserError(f"seconds={values['seconds']} is no number") from None
    return Config(**values)


def split_list(text: str) -> list[str]:
    """`[a,b]` or `a,b` as a list."""
    return [word.strip() for word in text.strip("[]").split(",") if word.strip()]


@dataclass(frozen=True)
class Shape:
    """A ViT as the head sees it: P patches, joint width D, H heads; `clip` is open_clip's name of
    it.
    """

    name: str
    clip: str
    patches: int
    width: int
    heads: int

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class Sizes:
    """What the parts run at. `images`: images of a tile in the kernels' comparison; `batches`:
    images at once, largest first.
    """

    base: Shape
    large: Shape
    largest: Shape
    categories: int
    unseen: int
    neighbours: int
    images: int
    batches: tuple[int, ...]
    steps: int
    repeats: int
    matrix: int
    copy_mib: int

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        return self.base, self.large

    @property
    def every(self) -> tuple[Shape, ...]:
        """What the kernels are compared at."""
        return *self.shapes, self.largest


REAL = Sizes(
    Shape("ViT-B/16", "ViT-B-16", 196, 512, 8),
    Shape("ViT-L/14", "ViT-L-14", 256, 768, 8),
    Shape("PE-bigG/14", "PE-Core-bigG-14-448", 1024, 1280, 8),
    7186,
    400,
    4,
    2,
    (64, 8, 1),
    60,
    10,
    8192,
    2048,
)
TINY = Sizes(
    Shape("tiny", "tiny", 16, 32, 2),
    Shape("tiny, d = 24", "tiny", 25, 48, 2),
    Shape("tiny, d = 80", "tiny", 64, 160, 2),
    37,
    5,
    3,
    1,
    (2, 1),
    3,
    2,
    256,
    1,
)
