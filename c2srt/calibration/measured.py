"""What a calibration is worth on other images than it was fitted on, seen and unseen categories
apart.

Its expected calibration error (Guo et al. 2017) before and after; before, a score stands for its
sigmoid. And the micro-F1 of naming what reaches the threshold, beside naming the K best, with the K
that is best on these very images, and the interval of their difference.

Letters: b images of a batch, N images, C categories, L levels, T values of K, B draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from c2srt.calibration.counts import Batches, Counts, count
from c2srt.calibration.fit import probabilities
from c2srt.calibration.per_category import Tally
from c2srt.evaluation.bootstrap import weights_of
from c2srt.model.calibration import Calibration

BINS = 15
TOPK = (1, 2, 3, 4, 5, 7, 10, 15, 20)
DRAWS = 1000


@dataclass
class Named:
    """Of one group of categories, for each image: how many are `present` [N], and of those that are
    named by the threshold, and by each K, how many are counted, and present: [N, 1 + T].
    """

    columns: slice
    topk: tuple[int, ...]
    present: list[np.ndarray] = field(default_factory=list)
    named: list[np.ndarray] = field(default_factory=list)
    hits: list[np.ndarray] = field(default_factory=list)

    def add(self, scores: np.ndarray, labels: np.ndarray, reached: np.ndarray, every: bool) -> None:
        """`reached` [b, C]: whether the threshold names it; `every`: unverified ones count."""
        scores, labels, reached = (each[:, self.columns] for each in (scores, labels, reached))
        counted, present = np.full(labels.shape, every) | (labels != 0), labels > 0
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.topk[-1]]
        last = np.array(self.topk) - 1
        for kept, of in ((self.named, counted), (self.hits, present & counted)):
            by_rank = np.cumsum(np.take_along_axis(of, best, 1), 1)[:, last]
            kept.append(np.column_stack([(of & reached).sum(1), by_rank]))
        self.present.append(present.sum(1))

    def f1(self, seed: int) -> dict:
        """micro-F1 by the threshold and by the best K, and by how much the first is better, with
        its 95 % interval over images.
        """
        present, named, hits = map(np.concatenate, (self.present, self.named, self.hits))
        values = f1_of(hits.sum(0), named.sum(0), present.sum())
        best = 1 + int(values[1:].argmax())
        weights = weights_of(len(present), seed, range(DRAWS)).astype(np.float64)
        pair = [0, best]
        drawn = f1_of(weights @ hits[:, pair], weights @ named[:, pair], weights @ present[:, None])
        low, high = np.percentile(drawn[:, 0] - drawn[:, 1], [2.5, 97.5])
        return {
            "threshold": float(values[0]),
            "best K": float(values[best]),
            "K": self.topk[best - 1],
            "difference": [float(values[0] - values[best]), float(low), float(high)],
        }


def f1_of(hits: np.ndarray, named: np.ndarray, present: np.ndarray) -> np.ndarray:
    return 2 * hits / np.maximum(named + present, 1e-12)


def measure(
    batches: Batches,
    calibration: Calibration,
    seen: int,
    unverified_absent: bool,
    seed: int,
    tally: Tally,
) -> dict[str, dict]:
    """{"all", "seen", "unseen": {"present", "absent", "ECE": {"before", "after"}, "F1": …}} of
    `batches`, (scores [b, C], labels [b, C] in −1/0/1); no group that has no category, and no "all"
    where there is one group. `tally` counts each category.
    """
    slope, offset = (
        of.numpy().astype(np.float64) for of in (calibration.slope, calibration.offset)
    )
    groups = {"all": slice(None), "seen": slice(seen), "unseen": slice(seen, None)}
    if seen == len(slope):
        del groups["all"]
    named = {
        name: Named(columns, tuple(k for k in TOPK if k <= len(slope[columns])))
        for name, columns in groups.items()
        if len(slope[columns])
    }
    threshold = calibration.threshold.numpy().astype(np.float64)
    logit = np.log(threshold / (1 - threshold))

    def passed(given: Batches) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for scores, labels in given:
            margin = slope * scores + offset - logit
            for group in named.values():
                group.add(scores, labels, margin >= 0, unverified_absent)
            tally.add(margin, labels > 0, labels <= 0 if unverified_absent else labels < 0)
            yield scores, labels

    counts = count(passed(batches), unverified_absent)
    chance = probabilities(counts.score, slope, offset)
    before = probabilities(counts.score, np.ones_like(slope), np.zeros_like(slope))
    found = {}
    for name, group in named.items():
        own, columns = counts.of(group.columns), group.columns
        found[name] = {
            "present": int(own.present.sum()),
            "absent": int(own.absent.sum()),
            "ECE": {
                "before": calibration_error(own, before[columns]),
                "after": calibration_error(own, chance[columns]),
            },
            "F1": group.f1(seed),
        }
    return found


def calibration_error(counts: Counts, chance: np.ndarray) -> float:
    """Σ over BINS equal bins of probability: |named probability − share that was present|, weighed
    by how much lies in the bin.
    """
    here = counts.present + counts.absent
    place = np.minimum((chance * BINS).astype(np.int64), BINS - 1).ravel()
    expected = np.bincount(place, (here * chance).ravel(), BINS)
    present = np.bincount(place, counts.present.ravel(), BINS)
    return float(np.abs(expected - present).sum() / max(here.sum(), 1))
