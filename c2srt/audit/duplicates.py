"""Candidates (candidates.py) whose pictures are one (pictures.py), and the labels in which the two
contradict each other.

A conflict is a label that is verified present at one and verified absent at the other; what is
verified at one of them only is none.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from c2srt.audit.candidates import Candidate, Place
from c2srt.audit.pictures import AGREEMENT, Seen, agreement, seen
from c2srt.executor import Opens
from c2srt.progress import Progress
from c2srt.shard_reader import ShardReader
from c2srt.shards import Shard, ShardIndex
from c2srt.views import decode

AT_ONCE = 64
"""Candidates of a task."""
KEPT = 256
"""Pictures that a process keeps in the form in which they are compared, 0.8 MB each."""


@dataclass(frozen=True)
class Judged:
    """A candidate with the agreement of its pictures, the ids of both, and the MIDs that are
    present at the earlier one and absent at the later one, or the other way round.
    """

    candidate: Candidate
    agreement: float
    earlier: str
    later: str
    present_earlier: tuple[str, ...] = ()
    present_later: tuple[str, ...] = ()

    @property
    def is_one(self) -> bool:
        return self.agreement >= AGREEMENT

    @property
    def conflicts(self) -> int:
        return len(self.present_earlier) + len(self.present_later)


def judge(index: ShardIndex, found: list[Candidate], workers: int, opens: Opens) -> list[Judged]:
    """All candidates, in their order. Raises UserError on a damaged image."""
    tasks = [(at, found[at : at + AT_ONCE]) for at in range(0, len(found), AT_ONCE)]
    parts: dict[int, list[Judged]] = {}
    with opens(workers, len(tasks), 2 * len(found)) as executor:
        progress = Progress("look at", len(found), "pairs")
        for (at, some), judged in executor.map(partial(judge_some, index), tasks):
            parts[at] = judged
            progress.update(len(some))
        progress.close()
    return [each for at in sorted(parts) for each in parts[at]]


def judge_some(index: ShardIndex, task: tuple[int, list[Candidate]]) -> list[Judged]:
    """One task."""
    return [judge_one(index.folder, candidate) for candidate in task[1]]


def judge_one(folder: Path, candidate: Candidate) -> Judged:
    earlier, later = candidate.earlier, candidate.later
    one, other = reader_of(folder, earlier.shard), reader_of(folder, later.shard)
    agrees = agreement(picture(folder, earlier), picture(folder, later))
    judged = Judged(candidate, agrees, one.ids[earlier.sample], other.ids[later.sample])
    if not judged.is_one:
        return judged
    here, there = one.labels(earlier.sample), other.labels(later.sample)
    return replace(
        judged,
        present_earlier=tuple(sorted(set(here.positive) & set(there.negative))),
        present_later=tuple(sorted(set(here.negative) & set(there.positive))),
    )


@lru_cache(64)
def reader_of(folder: Path, shard: Shard) -> ShardReader:
    return ShardReader(folder, shard)


@lru_cache(KEPT)
def picture(folder: Path, place: Place) -> Seen:
    return seen(decode(reader_of(folder, place.shard).jpeg(place.sample)))


def copies(judged: Iterable[Judged]) -> list[Judged]:
    """Those whose pictures are one, the later image's best first."""
    return sorted(
        (each for each in judged if each.is_one),
        key=lambda each: (each.candidate.later.split, each.later, -each.agreement, each.earlier),
    )
