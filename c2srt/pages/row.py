"""A row of figures in words, as a page of `c2srt check` and `c2srt bench` print it."""

ASIDE = ("what", "wrong", "skipped", "note")


def row_line(row: dict) -> str:
    """A row in one line, for the terminal."""
    said = [f"{kind}: {row[kind]}" for kind in ("wrong", "skipped", "note") if kind in row]
    return f"{row.get('what', '')}  {' · '.join([*said, *figures(row)[:4]])}"


def figures(row: dict) -> list[str]:
    return [f"{name} {number(value)}" for name, value in row.items() if name not in ASIDE]


def number(value: object) -> str:
    """Three digits that say something."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
