"""What was counted while a split's parquet was written (sharding/annotations.py), in sentences."""

from dataclasses import dataclass, field

from c2srt.redact import HIDDEN

EXAMPLES = 5


@dataclass
class InputReport:
    """What `write_inputs` counted; `lines()` says it in sentences."""

    split: str
    images: int = 0
    listed: int = 0
    labelled: int = 0
    label_rows: int = 0
    machine_rows: int = 0
    positives: int = 0
    negatives: int = 0
    duplicate_image_rows: int = 0
    duplicate_label_rows: int = 0
    contradictory: int = 0
    unlisted: int = 0
    unlabelled: int = 0
    unknown_mids: int = 0
    malformed_ids: int = 0
    passwords: int = 0
    unknown_examples: list[str] = field(default_factory=list)
    malformed_examples: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The counts, then one sentence for each kind of oddity that occurs."""
        machine = f" + {self.machine_rows:,} machine" if self.machine_rows else ""
        first = (
            f"{self.images:,} images: {self.listed:,} in the image CSV, {self.labelled:,} with"
            f" labels ({self.label_rows:,} human{machine} rows → {self.positives:,} positive,"
            f" {self.negatives:,} negative)"
        )
        said = [text.replace("{}", f"{count:,}", 1) for count, text in self.oddities() if count]
        return [f"{self.split}: {line}" for line in [first, *said]]

    def oddities(self) -> list[tuple[int, str]]:
        """How often each kind occurred, and what is said of it: {} stands for the number."""
        return [
            (
                self.duplicate_image_rows,
                "{} rows of the image CSV repeat an image: the first of each is used",
            ),
            (self.duplicate_label_rows, "{} label rows repeat another one: each counts once"),
            (
                self.contradictory,
                "{} pairs of image and category are verified as both present and absent: taken"
                " as unverified and kept in the -contradictory.parquet",
            ),
            (
                self.unlisted,
                "{} images have labels but are not in the image CSV: kept, without URL,"
                " attribution and rotation",
            ),
            (self.unlabelled, "{} images have no label: kept, all categories unverified"),
            (
                self.unknown_mids,
                "{} categories of the labels are not in class-descriptions.csv: kept in the"
                f" labels ({listed(self.unknown_examples, self.unknown_mids)})",
            ),
            (
                self.passwords,
                f"{{}} URLs hold a name or a password: masked as {HIDDEN}; downloads take it"
                " from ~/.netrc",
            ),
            (
                self.malformed_ids,
                "{} rows are left out because their ImageID is not 16 hex digits"
                f" ({listed(self.malformed_examples, self.malformed_ids)})",
            ),
        ]


def listed(examples: list[str], count: int) -> str:
    return ", ".join(examples) + (", …" if count > EXAMPLES else "")
