"""Figures in pages, from results files alone: no figure of a study is copied by hand.

    python -m c2srt.study.pages README.md docs/results.md

fills each block of these pages again. A block says what stands in it:

    <!-- results: noise.json table noise-50 -->
    …
    <!-- end of results -->

The file lies in docs/results; what stands there is one of BLOCKS.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from c2srt.errors import UserError
from c2srt.files import write_text
from c2srt.study.report import comparisons, cost, grid, kept, pair, sentences, table
from c2srt.study.results import Results, read_all, results_of
from c2srt.study.tuning import tuning_table

FOLDER = "docs/results"
BLOCK = re.compile(
    r"(<!-- results: (\S+) (\S+) (.+?) -->\n).*?(<!-- end of results -->)", re.DOTALL
)


def of_results(text: Callable[[Results, str], str]) -> Callable[[list[dict], str], str]:
    """The same of records."""
    return lambda records, argument: text(results_of(records), argument)


def compared(results: Results, graph: str) -> str:
    return sentences(comparisons(results, graph), graph)


def tuning(records: list[dict], model: str) -> str:
    return tuning_table(model, [each for each in records if each["model"] == model])


BLOCKS: dict[str, Callable[[list[dict], str], str]] = {
    "table": of_results(table),
    "grid": of_results(grid),
    "compared": of_results(compared),
    "kept": of_results(kept),
    "pair": of_results(pair),
    "cost": cost,
    "tuning": tuning,
}
"""By name: text from records and what follows the name, a graph, a figure, a model, or a pair."""


def filled(page: str, folder: Path) -> str:
    """The page with its blocks as the results say. Raises UserError for a block that cannot be."""

    def block(found: re.Match[str]) -> str:
        start, file, what, argument, end = found.groups()
        return f"{start}{text_of(folder / file, what, argument)}\n{end}"

    return BLOCK.sub(block, page)


def text_of(path: Path, what: str, argument: str) -> str:
    if what not in BLOCKS:
        raise UserError(f"a block of results asks for {what}: it is none of {', '.join(BLOCKS)}")
    return BLOCKS[what](read_all(path), argument)


def main(pages: list[str]) -> None:
    for page in map(Path, pages):
        text = page.read_text(encoding="utf-8")
        write_text(page, filled(text, Path(FOLDER)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
