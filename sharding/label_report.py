"""What was counted while a split's parquet was written from files that name each image's labels, in
sentences.
"""

from dataclasses import dataclass, field


@dataclass
class LabelReport:
    """What `write_inputs` counted; `lines()` says it in sentences."""

    split: str
    images: int = 0
    categories: int = 0
    positives: int = 0
    without_positive: int = 0
    copies: int = 0
    closed: bool = True
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        rest = "the rest absent" if self.closed else "the rest unknown unless said to be absent"
        lines = [
            *self.notes,
            f"{self.images:,} images × {self.categories:,} labels: {self.positives:,} present,"
            f" {rest}",
        ]
        if self.without_positive:
            then = "all absent" if self.closed else "packed only if a label is known to be absent"
            lines.append(f"{self.without_positive:,} images have no such label: {then}")
        if self.copies:
            lines.append(
                f"{self.copies:,} images are copies, byte by byte, of images of a later split:"
                " left out here"
            )
        return [f"{self.split}: {line}" for line in lines]
