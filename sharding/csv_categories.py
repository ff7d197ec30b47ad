"""Which labels of one's own tables are seen and which unseen.

A label that training has is seen, unless `data.unseen` holds it out; every other one is unseen.
Seen categories are sorted by their names, then unseen ones. A label that no image has is none.
"""

import difflib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c2srt.data_keys import CsvKeys
from c2srt.errors import UserError
from c2srt.sharding.csv_labels import listed, tidy
from c2srt.sharding.csv_splits import Lists, drawn
from c2srt.sharding.csv_table import read_rows
from c2srt.sharding.csvs import read_lines
from c2srt.shown import shown
from c2srt.vocabulary import Vocabulary

log = logging.getLogger(__name__)

EXAMPLES = 5
LEAST = 2
"""Seen categories: the ranking loss compares those that an image has with those that it lacks."""


@dataclass(frozen=True)
class Names:
    """What labels are called: by id, and the ids by name."""

    of: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def id_of(self, label: str) -> str:
        """What stands for a label that may be an id or a name."""
        return label if label in self.of else self.ids.get(label, label)


def read_names(keys: CsvKeys) -> Names:
    """Of `data.names`; nothing without one. Raises UserError where it is none, or has an id
    twice.
    """
    if not keys.names:
        return Names()
    path, names = Path(keys.names), Names()
    needed = dict.fromkeys(("id", "name"), "data.names")
    for number, cells in read_rows(path, needed, None):
        mid, name = tidy(str(cells["id"])), tidy(str(cells["name"]))
        if not mid or not name:
            raise UserError(f"{path}, line {number:,} lacks its id or its name: add it")
        if names.of.setdefault(mid, name) != name:
            raise UserError(f"{path} gives {shown(mid)} two names: keep one of the two")
        names.ids.setdefault(name, mid)
    return names


def renamed(lists: Lists, names: Names) -> None:
    """Puts the id in the place of each label, where there are names."""
    for images in lists.images.values() if names.of else ():
        for labels in images.values():
            labels.present = {names.id_of(label) for label in labels.present}
            labels.absent = {names.id_of(label) for label in labels.absent} - labels.present


def categories(lists: Lists, keys: CsvKeys, names: Names) -> Vocabulary:
    """Raises UserError where a label has no name, or fewer than LEAST are seen."""
    trained, every = present_in(lists, ["train"]), present_in(lists, list(lists.images))
    if not every:
        raise UserError(f"no image of {keys.train} has a label: is it column {keys.labels}?")
    if names.of and (nameless := sorted(every - names.of.keys())):
        raise UserError(f"label {shown(nameless[0])} has no name in {keys.names}: add a line")
    held = held_out(keys, every, names)
    seen = sorted(trained - set(held))
    unseen = [*held, *sorted(every - trained - set(held))]
    if not seen:
        raise UserError(
            f"every label of {keys.train} is held out by data.unseen: nothing is left to train on;"
            " hold out fewer"
        )
    if len(seen) < LEAST:
        raise UserError(
            f"{shown(seen[0])} is the only label that training sees, and it learns from images"
            " that have one label and lack another: give more labels, such as one of what the"
            " others show"
        )
    mids = (*seen, *unseen)
    return Vocabulary(mids, tuple(names.of.get(mid, mid) for mid in mids), len(seen))


def present_in(lists: Lists, splits: list[str]) -> set[str]:
    """The labels that an image of these splits has."""
    found: set[str] = set()
    for split in splits:
        found.update(*(labels.present for labels in lists.images[split].values()))
    return found


def held_out(keys: CsvKeys, every: set[str], names: Names) -> list[str]:
    """The labels of `data.unseen`, in its order. Raises UserError on one that no image has."""
    if (share := as_share(keys.unseen)) is not None:
        if not 0 < share < 1:
            raise UserError(f"data.unseen={keys.unseen}: a share of the labels is between 0 and 1")
        order = sorted(every, key=lambda label: drawn(keys.split_seed, "unseen", label))
        return sorted(order[: round(share * len(every)) or 1])
    held = list(dict.fromkeys(names.id_of(tidy(label)) for label in written(keys.unseen)))
    for label in held:
        if label not in every:
            close = difflib.get_close_matches(label, sorted({*every, *names.ids}), 1)
            meant = f" (did you mean {shown(close[0])}?)" if close else ""
            raise UserError(
                f"data.unseen: no image has the label {shown(label)}{meant}: leave it out, a model"
                " ranks any word"
            )
    return held


def as_share(unseen: Any) -> float | None:
    """A number, or text that is one; None if it is neither."""
    if isinstance(unseen, (list, bool)) or unseen is None:
        return None
    try:
        return float(unseen)
    except ValueError:
        return None


def written(unseen: Any) -> list[str]:
    """The labels of a list, a file with one a line, or text. Raises UserError if it seems to name a
    file that is not there.
    """
    if isinstance(unseen, str) and os.path.isfile(unseen):
        return read_lines(Path(unseen))
    if isinstance(unseen, str) and unseen.lower().endswith((".txt", ".csv")):
        raise UserError(f"data.unseen={shown(unseen)} does not exist: correct its path")
    return listed(unseen)


def say(vocabulary: Vocabulary, keys: CsvKeys, named: bool) -> None:
    """How many there are, and what their users must know of them."""
    seen, unseen = vocabulary.seen_count, vocabulary.names[vocabulary.seen_count :]
    examples = f": {', '.join(map(shown, unseen[:EXAMPLES]))}" if unseen else ""
    more = ", …" if len(unseen) > EXAMPLES else ""
    log.info(f"vocabulary: {seen:,} seen + {len(unseen):,} unseen labels{examples}{more}")
    if not unseen and keys.unseen is None:
        log.info("every label is seen: data.unseen=[…] would hold some out, to be measured on")
    if not named and all(name.replace(".", "", 1).isdigit() for name in vocabulary.names):
        log.warning(
            f"the labels are numbers, and the text encoder will read {shown(vocabulary.names[0])}"
            " as a word: give their names as data.names=… (a table with columns id and name)"
        )
