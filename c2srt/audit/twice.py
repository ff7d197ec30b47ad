"""The part that looks for images which two splits share, or nearly: its files, its sentences, and
its sections of the page.

    duplicates.csv   a row for each pair
    conflicts.csv    a row for each label in which the two of a pair contradict each other
    exclude.csv      the images of the earlier splits, with the reason: what `c2srt shard
                     data.exclude=…` takes, once a person has read it
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from c2srt.audit.candidates import Candidates, candidates, make_features
from c2srt.audit.control import AGREEMENTS, DIFFERENT, Kind, controls
from c2srt.audit.duplicates import Judged, copies, judge
from c2srt.audit.page import pairs, thresholds
from c2srt.audit.pictures import AGREEMENT
from c2srt.backbone.config import ClipConfig
from c2srt.executor import Opens
from c2srt.files import whole_file
from c2srt.shards import ShardIndex
from c2srt.shown import csv_cell
from c2srt.vocabulary import Vocabulary

FEATURES, DUPLICATES, CONFLICTS, EXCLUDE = (
    *("features", "duplicates.csv", "conflicts.csv", "exclude.csv"),
)


@dataclass(frozen=True)
class Found:
    """What one look found. `copies` are pairs whose pictures are one."""

    candidates: Candidates
    judged: list[Judged]
    copies: list[Judged]
    kinds: list[Kind]
    cosine: float


def find(
    index: ShardIndex, clip: ClipConfig, out: Path, cosine: float, workers: int, opens: Opens
) -> Found:
    """Raises UserError on a damaged image, a CLIP that is not there, or a full disk."""
    make_features(index, clip, out / FEATURES, workers, opens)
    found = candidates(index, out / FEATURES, cosine)
    judged = judge(index, found.found, workers, opens)
    return Found(found, judged, copies(judged), controls(index, clip), cosine)


def write(out: Path, found: Found, vocabulary: Vocabulary) -> list[str]:
    """Returns the names of the files."""
    names = dict(zip(vocabulary.mids, vocabulary.names, strict=True))
    every = found.copies
    write_rows(
        out / DUPLICATES,
        ["split", "image", "other split", "other image", "cosine", "agreement", "conflicts"],
        [
            (*ends(each), round(each.candidate.cosine, 4), round(each.agreement, 4), each.conflicts)
            for each in every
        ],
    )
    write_rows(
        out / CONFLICTS,
        ["mid", "name", "present in", "image", "absent in", "other image"],
        [
            (
                mid,
                names.get(mid, mid),
                *(own if mids is each.present_earlier else own[2:] + own[:2]),
            )
            for each in every
            for own in [ends(each)]
            for mids in (each.present_earlier, each.present_later)
            for mid in mids
        ],
    )
    reasons = {
        (each.candidate.earlier.split, each.earlier): (
            f"the same picture as {each.later} of {each.candidate.later.split}"
        )
        for each in every
    }
    write_rows(
        out / EXCLUDE,
        ["image", "split", "reason"],
        [(image, split, reason) for (split, image), reason in sorted(reasons.items())],
    )
    return [DUPLICATES, CONFLICTS, EXCLUDE]


def ends(each: Judged) -> tuple[str, str, str, str]:
    found = each.candidate
    return found.earlier.split, each.earlier, found.later.split, each.later


def write_rows(path: Path, head: list[str], rows: list[tuple]) -> None:
    """A CSV, which may have no row."""
    columns = {
        name: [csv_cell(row[at]) if isinstance(row[at], str) else row[at] for row in rows]
        for at, name in enumerate(head)
    }
    with whole_file(path) as temporary:
        pl.DataFrame(columns).write_csv(temporary)


def said(found: Found) -> list[str]:
    conflicts = sum(each.conflicts for each in found.copies)
    refused = len(found.judged) - len(found.copies)
    return [
        f"{found.candidates.pairs:,} pairs of images across splits:"
        f" {found.candidates.above[found.cosine]:,} with a cosine of {found.cosine:g} or more,"
        f" {len(found.judged):,} of these looked at, {len(found.copies):,} are the same picture"
        f" (agreement {AGREEMENT:g} or more) and {refused:,} are not",
        f"these {len(found.copies):,} pairs contradict each other in {conflicts:,} labels",
        control_said(found),
    ]


def control_said(found: Found) -> str:
    """How many of the planted copies, and of different pictures, lie above both thresholds."""
    return "control, pairs above both thresholds: " + "; ".join(
        f"{kind.name} {above(kind, found.cosine)} of {len(kind.cosines)}" for kind in found.kinds
    )


def above(kind: Kind, cosine: float) -> int:
    pairs_of = zip(kind.cosines, kind.agreements, strict=True)
    return sum(one >= cosine and other >= AGREEMENT for one, other in pairs_of)


def sections(index: ShardIndex, found: Found, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    names = dict(zip(vocabulary.mids, vocabulary.names, strict=True))
    levels = {
        level: sum(each.agreement >= level for each in found.judged)
        for level in (*AGREEMENTS, AGREEMENT)
    }
    counts = found.candidates.above
    control = (
        thresholds(found.kinds, "cosines", counts, found.cosine, counts)
        + thresholds(found.kinds, "agreements", AGREEMENTS, AGREEMENT, levels)
        + "<p><small>First table: cosine of CLIP's features, which chooses what is looked at."
        " Second: agreement of the pictures, which decides; its last column counts what was"
        f" looked at. The columns before are the control: “{DIFFERENT}” should be none, copies of"
        " pictures of this data set should be all.</small></p>"
    )
    return [
        ("The same picture in two splits", pairs(index.folder, found.copies, names)),
        ("Thresholds and their control", control),
    ]
