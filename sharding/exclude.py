"""`data.exclude`: a table of images that are not packed, such as the exclude.csv that `c2srt audit`
writes. Each is a row of the sidecar with status `excluded` and its reason.

    image    id of an image, or its path as the data set's table has it
    split    of which split; without it, or empty: of each that has the image
    reason   without it: "in <file>"
"""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from c2srt.errors import UserError
from c2srt.files import hash_of
from c2srt.sharding.csv_table import read_rows
from c2srt.shown import shown

STATUS = "excluded"
FILE = "file"
"""Column of a split's table, in layouts that have one."""


@dataclass(frozen=True)
class Excluded:
    """Reasons by split and id; `hash` is of all that the table says, "" of none."""

    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    hash: str = ""

    def of(self, split: str) -> dict[str, str]:
        return self.reasons.get(split, {})


def read_excluded(path: str | None, inputs: dict[str, Path]) -> Excluded:
    """`inputs`: split → its table of images; rows of other splits are left for another run. Raises
    UserError where the table is none, or names an image that is not there.
    """
    if not path:
        return Excluded()
    rows = []
    for number, cells in read_rows(Path(path), {"image": "data.exclude"}, None):
        image, split, reason = (
            str(cells.get(name) or "").strip() for name in ("image", "split", "reason")
        )
        if not image:
            raise UserError(f"{path}, line {number:,} names no image: give its id or its path")
        rows.append((image, split, reason or f"in {Path(path).name}"))
    known = {split: names_in(table) for split, table in inputs.items()}
    found: dict[str, dict[str, str]] = {split: {} for split in inputs}
    absent = []
    for image, split, reason in rows:
        there = [each for each in known if split in ("", each) and image in known[each]]
        for each in there:
            found[each][known[each][image]] = reason
        if not there and (not split or split in known):
            absent.append(image)
    if absent:
        raise UserError(
            f"{path} excludes {len(absent):,} images that are not in {' or '.join(inputs)} (first:"
            f" {shown(absent[0])}): correct their names, or remove the lines"
        )
    return Excluded(found, hash_of(sorted(rows)))


def names_in(table: Path) -> dict[str, str]:
    """What an image may be called → its id."""
    lazy = pl.scan_parquet(table, glob=False)
    columns = [name for name in ("id", FILE) if name in lazy.collect_schema().names()]
    rows = lazy.select(columns).collect()
    names = dict(zip(rows["id"], rows["id"], strict=True))
    if FILE in columns:
        names |= dict(zip(rows[FILE], rows["id"], strict=True))
    return names
