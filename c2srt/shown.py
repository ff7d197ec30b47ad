"""What comes from outside, made fit to be shown.

A name, a message, a value out of a file may hold terminal escapes, line breaks, text that runs
backwards, formulas, markup. Where it is put before people it goes through one of these; `UserError`
does so itself.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

SHOWN = 60  # characters of a value that are enough to find it by
# characters of a whole sentence; what is cut out stands in its middle, between the file and the
# command
SENTENCE = 600
FORMULA = re.compile(r"^[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
MARKDOWN = re.compile(r"([\\`*\[\]<>|]|\b_|_\b)")
# letters of a category in a file's name, which may have 255 bytes with all that is added to it
NAME = 40


def printable(text: object) -> str:
    """`text` on one line, without anything that a terminal obeys: such characters become backslash
    escapes.
    """
    letters = str(text)
    if letters.isascii() and letters.isprintable():
        return letters
    return "".join(
        letter if plain(letter) else letter.encode("unicode_escape").decode() for letter in letters
    )


def plain(letter: str) -> bool:
    """Whether a character is shown as itself: printable ones, and blanks of any width."""
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def shown(value: object, most: int = SHOWN) -> str:
    """The beginning of a value out of a file, printable; what is longer than `most` characters ends
    in "…".
    """
    text = (
        value
        if isinstance(value, str)
        else str(value)
        if isinstance(value, (int, float, type(None)))
        else repr(value)
    )
    text = printable(text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def sentence(text: object) -> str:
    """A whole sentence, printable; one that is far too long loses its middle."""
    text = printable(text)
    return (
        text if len(text) <= SENTENCE else f"{text[: SENTENCE * 2 // 3]} … {text[-SENTENCE // 3 :]}"
    )


def csv_cell(text: str) -> str:
    """Text for a cell of a CSV: one line, and never a formula to the programs that open such
    files.
    """
    text = printable(text)
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def markdown(text: object) -> str:
    """Text within a line or a table cell of a Markdown file, which shows it letter by letter."""
    return MARKDOWN.sub(r"\\\1", printable(text))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def file_name(text: str) -> str:
    """A part of a file's name made of any text: words in lower case, joined by hyphens; a long one
    is cut and stays apart from others by a digest.
    """
    words = re.sub(r"\W+", "-", text).strip("-").lower()
    return (
        words
        if len(words) <= NAME
        else f"{words[:NAME]}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"
    )
