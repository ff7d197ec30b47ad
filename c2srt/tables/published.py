"""Published rows that contradict themselves or their test set: found by arithmetic, and printed
beside the row.

Two rules hold for every P, R and F1 at K of a test set, in percent with one decimal:
    F1 = 2 · P · R / (P + R)
    K · P / R = positives per image, a constant of the test set (c2srt/datasets.py)
A contradiction is what no values that are printed so can explain, whether they were rounded or cut
off. Where an F1 does not fit, the one number is named whose change comes nearest to the constant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from c2srt.datasets import Published, data_set, published_of
from c2srt.evaluation.metric_state import LABEL_SETS
from c2srt.tables.rows import Row

HALF, WHOLE = 0.05, 0.1
"""Of the last printed decimal: a rounded number is off by half of it, one that was cut off by less
than a whole.
"""


@dataclass(frozen=True)
class Rates:
    """What a paper prints for one label set at one K."""

    label_set: str
    k: int
    precision: float
    recall: float
    f1: float

    @property
    def at(self) -> str:
        return f"{self.label_set.upper()}@{self.k}"

    @property
    def positives(self) -> float:
        """That an image has, by these P and R."""
        return self.k * self.precision / self.recall


def rates_of(row: Row, data: str) -> list[Rates]:
    """The published P, R and F1 of a row on a data set; none where the paper prints no P and R."""
    if data not in row.published_pr:
        return []
    pairs, f1 = row.published_pr[data], row.published[data][len(LABEL_SETS) :]
    places = product(data_set(data).topk, LABEL_SETS)
    return [
        Rates(label_set, k, pairs[2 * place], pairs[2 * place + 1], f1[place])
        for place, (k, label_set) in enumerate(places)
    ]


def contradictions(row: Row, data: str) -> list[str]:
    """A sentence for whatever does not hold in a row's published numbers; [] if all does."""
    if not (rates := rates_of(row, data)):
        return []
    known, found = published_of(data), []
    wrong = [one for one in rates if not f1_holds(one)]
    found += [misprint(one, known) for one in wrong]
    for label_set in LABEL_SETS:
        other = [
            one
            for one in rates
            if one.label_set == label_set and one not in wrong and not constant_holds(one, known)
        ]
        if other:
            at = " and ".join(f"{one.positives:.2f} (K = {one.k})" for one in other)
            found.append(
                f"{label_set.upper()}: its P and R imply {at} positives an image, the test set has"
                f" {getattr(known, label_set):g}"
            )
    return found


def harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall)


def other_rate(f1: float, rate: float) -> float:
    """The rate that gives this F1 with another one; infinite where none does."""
    return f1 * rate / (2 * rate - f1) if 2 * rate > f1 else float("inf")


def reach(of: Callable[..., float], values: tuple[float, ...], up: float) -> tuple[float, float]:
    """The least and the greatest that `of`, monotone in each, takes for what is printed as
    `values`: each at most HALF below and `up` above.
    """
    found = [of(*some) for some in product(*((one - HALF, one + up) for one in values))]
    return min(found), max(found)


def f1_holds(one: Rates) -> bool:
    least, greatest = reach(harmonic, (one.precision, one.recall), WHOLE)
    return least <= one.f1 + WHOLE and greatest >= one.f1 - HALF


def constant_holds(one: Rates, known: Published) -> bool:
    constant = getattr(known, one.label_set)
    half = 0.5 * 10.0 ** -known.digits[LABEL_SETS.index(one.label_set)]
    least, greatest = reach(lambda p, r: one.k * p / r, (one.precision, one.recall), WHOLE)
    return least <= constant + half and greatest >= constant - half


def misprint(one: Rates, known: Published) -> str:
    """Which number of the three is wrong, and what the other two need it to be."""
    p, r, f1 = one.precision, one.recall, one.f1
    changed = {
        "P": (other_rate, (f1, r), lambda value: one.k * value / r),
        "R": (other_rate, (f1, p), lambda value: one.k * p / value),
        "F1": (harmonic, (p, r), lambda value: one.positives),
    }

    def distance(name: str) -> float:
        of, values, positives = changed[name]
        return abs(positives(of(*values)) - getattr(known, one.label_set))

    name = min(changed, key=distance)
    of, values, _ = changed[name]
    least, greatest = reach(of, values, HALF)
    need = f"{least:.1f}" + f"–{greatest:.1f}" * (f"{least:.1f}" != f"{greatest:.1f}")
    printed = {"P": p, "R": r, "F1": f1}
    others = " and ".join(f"{each} {printed[each]:.1f}" for each in changed if each != name)
    return f"{one.at}: {name} is printed as {printed[name]:.1f} where {others} need {need}"
