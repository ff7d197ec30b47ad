"""Where each case of a big matrix runs: some by default, a covering sample in CI (`slow`), and all
others by hand (`long`).
"""

from collections.abc import Callable, Iterable

import pytest


def covering(cases: Iterable, begun: Iterable, facets: Callable[[object], set]) -> list:
    """A few of `cases` that, with those in `begun`, show every facet that any of the cases shows:
    each time the one that shows most of what is missing, the first of equals.
    """
    cases, chosen = list(cases), []
    missing = set().union(*map(facets, cases)).difference(*map(facets, begun))
    while missing:
        chosen.append(max(cases, key=lambda case: len(facets(case) & missing)))
        missing -= facets(chosen[-1])
    return chosen


def part_of(case: object, *parts: list) -> list:
    """The part that the case is run with."""
    return next(part for part in parts if case in part)


def marked(quick: list, sample: list, rest: list, name: Callable[[object], str]) -> list:
    """The parameters for pytest: `quick` without a mark, `sample` as slow, `rest` as long."""
    marks = [
        *((case, ()) for case in quick),
        *((case, pytest.mark.slow) for case in sample),
        *((case, pytest.mark.long) for case in rest),
    ]
    return [pytest.param(case, id=name(case), marks=mark) for case, mark in marks]
