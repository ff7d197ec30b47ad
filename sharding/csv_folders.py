"""A folder of one's own in which each folder is a label: `birds/owl/1.jpg` is an owl. A picture may
lie at any depth below its label's folder; other files and hidden ones are left out.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from c2srt.errors import UserError
from c2srt.sharding.csv_table import PICTURES


def labelled_files(folder: Path) -> Iterator[tuple[str, str]]:
    """(path, label) of each picture, in sorted order. Raises UserError if there is none."""
    root, empty = os.path.abspath(folder), True
    with os.scandir(root) as entries:
        labels = sorted(each.name for each in entries if each.is_dir() and each.name[0] != ".")
    for label in labels:
        for path in pictures_below(os.path.join(root, label)):
            empty = False
            yield path, label
    if empty:
        raise UserError(
            f"{folder} is a folder without folders of pictures: give a table (.csv, .jsonl), or a"
            " folder that has one folder for each label"
        )


def pictures_below(folder: str) -> Iterator[str]:
    for at, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if name[0] != ".")
        for name in sorted(files):
            if name[0] != "." and name.lower().endswith(PICTURES):
                yield os.path.join(at, name)
