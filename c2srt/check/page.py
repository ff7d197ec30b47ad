"""The page of a check: text for people, a block a part."""

from collections.abc import Iterable

from c2srt.pages.row import figures
from c2srt.progress import clock

WIDTH = 100


def page(lines: list[dict], machine: dict[str, str]) -> str:
    """The whole page."""
    head = [f"What {machine.get('card', 'an unknown card')} shows of c2srt", ""]
    head += wrapped([f"{name} {value}" for name, value in machine.items() if name != "card"], "")
    dates = sorted(line.get("date", "") for line in lines)
    head += [f"{dates[0]} … {dates[-1]}"] if dates else []
    counts = [
        (status, sum(line["status"] == status for line in lines))
        for status in dict.fromkeys(line["status"] for line in lines)
    ]
    head += [", ".join(f"{count} {status}" for status, count in counts)]
    return "\n".join([*head, *(text for line in lines for text in block(line))]) + "\n"


def block(line: dict) -> list[str]:
    """A part: its verdict, its rows."""
    why = f": {line['why']}" if line["why"] else ""
    return [
        "",
        f"== {line['part']}: {line['status']}{why} ({clock(line['seconds'])})",
        *(text for row in line["rows"] for text in wrapped_row(row)),
    ]


def wrapped_row(row: dict) -> list[str]:
    """A row's name, then its figures, indented."""
    said = [f"{kind.upper()}: {row[kind]}" for kind in ("wrong", "skipped", "note") if kind in row]
    return [
        f"  {row.get('what', '')}",
        *(f"    {text}" for text in said),
        *wrapped(figures(row), "    "),
    ]


def wrapped(words: Iterable[str], indent: str) -> list[str]:
    """Words joined by dots into lines of at most WIDTH characters."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) + 3 <= WIDTH:
            lines[-1] += f" · {word}"
        else:
            lines.append(indent + word)
    return lines
