"""Typed values as they were typed: quotes for Hydra's grammar where a key holds text.

Hydra reads `out=2024_11_28` as the number 20241128, `name=93e4512` as infinity, `null` in a list of
words as nothing, and refuses `images=photo (1).jpg`. What a key holds is told by its default: a
number or a switch is read by Hydra; beside text, nothing or a list of text, whatever a plain number
would not give back letter by letter is quoted first. Where such a key is a number after all (its
default is null), the verb's dataclass makes one of the text.
"""

import os
import re
from collections.abc import Callable

QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
ESCAPED = re.compile(
    r"\\[\\()\[\]{}:=, \t]"
)  # Hydra's own way to write what its grammar would take apart
NO_TEXT = object()


class NotPlain(ValueError):
    """A value in Hydra's own notation (quotes, dictionaries, interpolations), or one that is
    broken: Hydra has the word.
    """


def split_key(override: str) -> tuple[str, str]:
    """(key without + and ++, value) of `key=value`; ("", "") of anything else."""
    key, equals, value = override.partition("=")
    return (key.lstrip("+"), value) if equals and not key.startswith("~") else ("", "")


def keep_text(override: str, default_of: Callable[[str], object]) -> str:
    """The override, its value quoted where its key holds text. `default_of` gives a key's default
    (NO_TEXT: an unknown key).

    A key that holds a list takes `a,b` as `[a,b]`. Where it holds text or nothing, a value in
    Hydra's notation that is the name of a file as it stands is that name.
    """
    key, value = split_key(override)
    default = default_of(key) if key else NO_TEXT
    if isinstance(default, (str, type(None))) and is_file_name(value):
        return f"{override.partition('=')[0]}={uninterpolated(quoted(value), always=True)}"
    if default is NO_TEXT and re.fullmatch(r"\{[^{}'\"$]+\}", value):
        return f"{override.partition('=')[0]}={quoted_pairs(key, value, default_of)}"
    several = isinstance(default, list)
    if (
        default is NO_TEXT
        or not value
        or (not several and not isinstance(default, (str, type(None))))
    ):
        return override
    try:
        if several and not value.startswith(("[", "$")) and value != "null":
            value = f"[{value}]"
        if not isinstance(default, list) or holds_text(default):
            value = quoted_list(value) if value.startswith("[") else quoted_scalar(value)
    except NotPlain:
        return override
    return f"{override.partition('=')[0]}={value}"


def is_file_name(value: str) -> bool:
    """Whether brackets, quotes, backslashes or `${` in a value are those of a file's name here."""
    odd = value.startswith(("[", "{", "'", '"')) or "${" in value or "\\" in value
    return odd and os.path.lexists(value)


def quoted_pairs(key: str, text: str, default_of: Callable[[str], object]) -> str:
    """`{a: 1e5, b: 2}` with the values of keys that hold text quoted; as it is where it is more
    than pairs.
    """
    try:
        pairs = [pair.partition(":") for pair in elements(text[1:-1])]
    except NotPlain:
        return text
    kept = [
        keep_text(f"{key}.{name.strip()}={value.strip()}", default_of).partition("=")[2]
        for name, _, value in pairs
    ]
    return (
        "{"
        + ", ".join(
            f"{name.strip()}: {value}" for (name, _, _), value in zip(pairs, kept, strict=True)
        )
        + "}"
    )


def holds_text(values: list) -> bool:
    """Whether a default list, nested or not, has no number or switch in it."""
    return all(
        holds_text(value) if isinstance(value, list) else isinstance(value, (str, type(None)))
        for value in values
    )


def quoted_scalar(text: str) -> str:
    """One value, quoted unless Hydra gives it back letter by letter. Raises NotPlain."""
    if text.startswith(("'", '"', "{")) or "${" in text or ESCAPED.search(text):
        raise NotPlain
    return text if text == "null" or is_plain_number(text) else quoted(text)


def quoted_list(text: str) -> str:
    """`[a, 'b c', [d]]` with every element quoted; `null` and `${…}` in it are words like any
    other. Raises NotPlain.
    """
    if not text.endswith("]") or ESCAPED.search(text):
        raise NotPlain
    made = []
    for element in elements(text[1:-1]):
        if element.startswith("["):
            made.append(quoted_list(element))
        elif QUOTED.fullmatch(element):
            made.append(uninterpolated(element))
        elif "${" in element and not element.startswith(("'", '"', "{")):
            made.append(uninterpolated(quoted(element)))
        else:
            made.append(quoted(element) if element == "null" else quoted_scalar(element))
    return f"[{','.join(made)}]"


def uninterpolated(text: str, always: bool = False) -> str:
    """Text whose `${` OmegaConf leaves as they are: what people type as words never reads a key or
    the environment. Those that a backslash keeps already are left, unless `always`.
    """
    return re.sub(
        r"(\\*)\$\{",
        lambda found: found[0] if len(found[1]) % 2 and not always else found[1] * 2 + r"\${",
        text,
    )


def resolver_in(override: str) -> str | None:
    """A `${name:…}` that OmegaConf would call, as `${oc.env:HOME}`, which reads the environment;
    None where there is none.
    """
    found = re.search(r"(?<!\\)(?:\\\\)*(\$\{[^{}:]*:[^{}]*\}?)", override)
    return found[1] if found else None


def elements(text: str) -> list[str]:
    """The elements between a list's brackets, stripped; commas inside quotes and brackets do not
    part them. Raises NotPlain.
    """
    found, start, depth, place = [], 0, 0, 0
    while place < len(text):
        if text[place] in "'\"" and (not text[start:place].strip() or depth):
            whole = QUOTED.match(text, place)
            place = whole.end() if whole else len(text)
            continue
        depth += (text[place] == "[") - (text[place] == "]")
        if text[place] == "," and not depth:
            found.append(text[start:place].strip())
            start = place + 1
        place += 1
    found.append(text[start:].strip())
    if depth or (len(found) > 1 and "" in found):
        raise NotPlain
    return found if found != [""] else []


def as_list(names: list[str]) -> str:
    """Names as a list that Hydra gives back letter by letter."""
    return f"[{','.join(uninterpolated(quoted(name), always=True) for name in names)}]"


def is_plain_number(text: str) -> bool:
    """Whether a number made of `text` is written the same way again."""
    for kind in (int, float):
        try:
            return repr(kind(text)) == text
        except ValueError:
            continue
    return False


def quoted(text: str) -> str:
    """`text` in single quotes; Hydra takes a backslash for itself only before a quote."""
    return (
        "'"
        + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
        + "'"
    )
