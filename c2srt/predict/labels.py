"""The words to rank, as they are given: a list, the text of one key, or a file of them.

labels.txt   a word a line
labels.csv   a header with `name`, and if wanted `id` and `prompt`; a name in several rows has
             all of their prompts. `{}` in a prompt is the name.
"""

import csv
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from c2srt.errors import UserError
from c2srt.predict.finding import has_lone_bytes, printable
from c2srt.shown import shown

WORD_LIST, TABLE = ".txt", ".csv"
COLUMNS = ("name", "id", "prompt")
ADVICE = (
    "labels must be a list of at least one word, such as 'labels=[dog,\"red car\"]'; leave it out"
    " to rank the model's vocabulary"
)


@dataclass(frozen=True)
class Label:
    """A word, what the caller calls it ("": nothing), and the texts that stand for it in the text
    tower (none: the model's own templates).
    """

    name: str
    id: str = ""
    prompts: tuple[str, ...] = ()


def as_labels(labels: Sequence[Any] | None) -> list[Label] | None:
    """Words and `Label`s as labels, each word once: case and further blanks aside, since the text
    tower hears neither, and as it was first given. Raises UserError as `check_labels`.
    """
    check_labels(labels)
    if labels is None:
        return None
    first: dict[str, Label] = {}
    for given in labels:
        label = given if isinstance(given, Label) else Label(given)
        known = first.setdefault(folded(label.name), label)
        if known is not label:
            prompts = tuple(dict.fromkeys(known.prompts + label.prompts))
            first[folded(label.name)] = replace(known, prompts=prompts)
    return list(first.values())


def folded(name: str) -> str:
    """What is left of a word for the text tower."""
    return " ".join(name.split()).casefold()


def check_labels(labels: Sequence[Any] | None) -> None:
    """Raises UserError unless labels is None or some words: non-empty text of one line."""
    if labels is None:
        return
    if isinstance(labels, (str, dict)) or not labels:
        raise UserError(ADVICE)
    for label in labels:
        name = label.name if isinstance(label, Label) else label
        if not isinstance(name, str):
            raise UserError(
                f"{ADVICE}: {shown(name)} is of type {type(name).__name__}, write it as text"
            )
        if not name.strip():
            raise UserError(ADVICE)
        if has_lone_bytes(name):
            raise UserError(f"label {printable(name)!r} is not text in UTF-8")
        if odd := next((one for one in name if unicodedata.category(one) == "Cc"), None):
            raise UserError(
                f"label {shown(name)} has a control character (U+{ord(odd):04X}): a word is one"
                " line of text"
            )


def words_of(given: Any) -> Any:
    """The words of labels=…: of text, those between commas; a list's name in it stands for its
    words. Raises UserError if one cannot be read, or if one word alone is the name of a file.
    """
    several = parts(given) if isinstance(given, str) else given
    if not isinstance(several, list):
        return several
    if len(several) == 1 and isinstance(several[0], str):
        check_no_file(several[0])
    return [
        word
        for label in several
        for word in (words_in(label) if isinstance(label, str) else [label])
    ]


def parts(text: str) -> list[str]:
    """`a, b` without brackets: [a, b]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check_no_file(label: str) -> None:
    """Raises UserError if what is given as the only word is a file here, and no list's name."""
    path = Path(label)
    if path.suffix.lower() != WORD_LIST and path.is_file():
        raise UserError(
            f"labels={printable(label)} is a file: for its words write"
            f" labels_file={printable(label)} ({WORD_LIST} with one word a line, or {TABLE}); a"
            " word that is a file's name goes into such a list"
        )


def words_in(label: str) -> list[str]:
    """The label, or, of a list's name (`labels.txt`), its words."""
    path = Path(label)
    if path.suffix.lower() == WORD_LIST:
        return [word.name for word in read_labels(label, "labels")]
    if path.suffix and path.is_file():
        raise UserError(
            f"labels={printable(label)} is a file: a list of words is a {WORD_LIST} file with one"
            f" word a line; labels_file= reads {TABLE} too"
        )
    return [label]


def read_labels(file: str, key: str) -> list[Label]:
    """The labels of a file; `key` is what named it. Raises UserError if it is none, or empty."""
    said = f"{key}={printable(file)}"
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{said} is not text in UTF-8") from None
    except OSError as error:
        raise UserError(
            f"{said} cannot be read as a list of words, one a line: {error.strerror}"
        ) from None
    if Path(file).suffix.lower() == TABLE:
        labels = table_labels(text, said)
    else:
        labels = [Label(line.strip()) for line in text.splitlines() if line.strip()]
    if not labels:
        raise UserError(f"{said} has no word: write one a line")
    return labels


def table_labels(text: str, said: str) -> list[Label]:
    """Labels of a CSV. Raises UserError on a header or row that is none."""
    rows = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True))
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "name" not in header or len(set(header)) < len(header) or set(header) - set(COLUMNS):
        raise UserError(
            f"{said} needs a header of {', '.join(COLUMNS)} (the first is needed, the others not),"
            f" not {shown(','.join(header))}"
        )
    labels = []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
        if len(row) != len(header) or not cells["name"]:
            raise UserError(f"{said}: row {number:,} has not a name and {len(header)} cells in all")
        prompt = cells.get("prompt", "").replace("{}", cells["name"])
        labels.append(Label(cells["name"], cells.get("id", ""), (prompt,) if prompt else ()))
    check_ids(labels, said)
    return labels


def check_ids(labels: list[Label], said: str) -> None:
    """Raises UserError if an id has two names, or a name two ids."""
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for label in labels:
        name = folded(label.name)
        other = names.setdefault(label.id, name) if label.id else name
        if other != name or ids.setdefault(name, label.id) != label.id:
            raise UserError(
                f"{said}: {shown(label.name)} ({shown(label.id) or 'no id'}) is there with another"
                " id, or its id with another name"
            )


def twice(labels: Sequence[Label]) -> str:
    """A sentence about words that are there already, or nothing."""
    first: dict[str, Label] = {}
    again = []
    for label in labels:
        known = first.setdefault(folded(label.name), label)
        if known is not label and not (label.prompts and label.prompts != known.prompts):
            again.append((label.name, known.name))
    if not again:
        return ""
    name, known_name = map(shown, again[0])
    return (
        f"labels: {len(again):,} of {len(labels):,} words are there already (case aside) and ranked"
        f" once, such as {name} beside {known_name}"
    )
