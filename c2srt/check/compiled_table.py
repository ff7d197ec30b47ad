"""The compiled kernels as a table of c2srt/BENCHMARKS.md: a line for each number of patches and
each head width.
"""

from c2srt.shown import markdown_table

ISR = "assignment_kernel"


def table(rows: list[dict]) -> str:
    """Registers of a thread / bytes of its stack / bytes of shared memory of a program, the most of
    what the line stands for.
    """
    cards = sorted({row["capability"] for row in rows})
    cells: dict[tuple, dict[int, list[dict]]] = {}
    for row in rows:
        cells.setdefault(name_of(row), {}).setdefault(row["capability"], []).append(row)
    lines = [
        (*cell_names(name, found), *(figures(found.get(card, [])) for card in cards))
        for name, found in sorted(cells.items())
    ]
    return (
        "\n".join(markdown_table(("kernel", "sizes", "type", *(f"sm_{c}" for c in cards)), lines))
        + "\n"
    )


def name_of(row: dict) -> tuple[int, str, int, str]:
    """By what the lines are told apart and ordered."""
    isr = row["kernel"] == ISR
    return (
        0 if isr else 1,
        "" if isr else row["kernel"],
        row["patches"] if isr else row["head width"],
        row["precision"],
    )


def cell_names(name: tuple[int, str, int, str], found: dict[int, list[dict]]) -> tuple[str, ...]:
    """Kernel, sizes and type."""
    _, kernel, size, precision = name
    if kernel:
        return kernel, f"d = {size}", precision
    widths = sorted({row["width"] for rows in found.values() for row in rows})
    return ISR, f"P = {size:,}, D = {', '.join(map(str, widths))}", precision


def figures(rows: list[dict]) -> str:
    if not rows or any("registers" not in row for row in rows):
        return "does not compile"
    return " / ".join(
        f"{max(row[name] for row in rows):,}" for name in ("registers", "stack", "shared")
    )
