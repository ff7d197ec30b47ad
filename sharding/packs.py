"""Images in CVDF's packs: `train_0.tar.gz` … `train_f.tar.gz`, `validation.tar.gz`, `test.tar.gz`,
members in a folder.

A gzipped tar can only be read front to back, and its order is not ours. So each pack is read once,
every wanted member converted as it comes and staged (sharding/staging.py), STAGE_IMAGES at a time,
in `<out>/staging/<split>/<pack>/<start>`; a killed run converts at most so many again a worker. A
pack that was unpacked to a plain tar is read by several tasks. The shards are then written from the
stages.
"""

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.files import remove_leftovers
from c2srt.opened_tables import TEXT, read_parquet
from c2srt.sharding.config import Config
from c2srt.sharding.outcome import Outcome, attempts, too_large
from c2srt.sharding.pack import ShardTask, wanted_rows
from c2srt.sharding.pack_members import PackReport, Part, members, parts_of
from c2srt.sharding.staging import FOLDER, about_stage, in_order, remedy, write_stage

log = logging.getLogger(__name__)

Wanted = tuple[str, bytes | Outcome, int | None]
"""(id, what the pack has of it, rotation)"""
STAGE_IMAGES = 2000
LOG_EVERY_S = 30.0


@dataclass(frozen=True)
class PackAbout:
    """What a stage must know of what it was made for: the file, the part of it, the `members` of
    the part that earlier stages hold, and the shards' `spans`.
    """

    settings: str
    bytes: int
    mtime_ns: int
    start: int
    stop: int
    members: int
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class StageReport:
    """The part up to the stage's end, and the stage's smallest and largest id."""

    pack: PackReport
    first: str
    last: str


@dataclass(frozen=True)
class PackStage:
    """What stage.json of a pack must have."""

    about: PackAbout
    report: StageReport


@dataclass(frozen=True)
class PackTask:
    """One pass: a `part` of the pack `path`, staged in the folder `stages`; `spans` are the input
    rows [start, stop) of the shards still to be made.
    """

    path: str
    part: Part
    stages: str
    inputs: str
    settings: str
    spans: tuple[tuple[int, int], ...]
    config: Config

    def about(self, report: PackReport) -> dict:
        """What a stage depends on that begins after `report`, besides the spans."""
        return (
            about_pack(self.path, self.settings) | asdict(self.part) | {"members": report.members}
        )


def about_pack(path: str, settings: str) -> dict:
    status = Path(path).stat()
    return {"settings": settings, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


@dataclass(frozen=True)
class PackSource:
    """Reads the stages of `packs[split]`, which `stage_pack` must have made."""

    packs: dict[str, tuple[str, ...]]
    kind: str = "packs"

    def outcomes(self, rows: pl.DataFrame, task: ShardTask) -> Iterator[Outcome]:
        """One Outcome for each row (column id), in order; an image that no pack has is
        `missing`.
        """
        ids = rows["id"].to_list()
        stages, damaged = [], []
        for path in self.packs[task.split]:
            for stage, found in stages_of(task, path):
                if ids and found["first"] <= ids[-1] and ids[0] <= found["last"]:
                    stages.append(stage)
                if found["pack"]["damaged"]:
                    damaged.append(Path(path).name)
        reason = (
            f"in none of the packs; {', '.join(damaged)} could not be read to the end"
            if damaged
            else "in none of the packs"
        )
        return in_order(stages, ids, Outcome("missing", reason))


def folder_of(task: ShardTask, pack: str) -> Path:
    return Path(task.out, FOLDER, task.split, Path(pack).name)


def stages_of(task: ShardTask, pack: str) -> list[tuple[Path, dict]]:
    """(stage, its report) of a pack that was read, in order. Raises UserError if one is gone."""
    folder, about = folder_of(task, pack), about_pack(pack, task.settings)
    found, reached = [], 0
    for part in sorted(folder.glob("[0-9]" * 15)):
        chain = list(chain_of(part, about | {"start": reached}))
        if chain and chain[-1][1]["report"]["pack"]["ended"]:
            reached = chain[-1][1]["about"]["stop"]
            found += [(stage, held["report"]) for stage, held in chain]
    if reached != about["bytes"]:
        raise UserError(f"a stage in {folder} is damaged or gone: {remedy(folder)}")
    return found


def chain_of(folder: Path, about: dict, spans: tuple = ()) -> Iterator[tuple[Path, dict]]:
    """(stage, its stage.json) of those in order that each begin where the one before ended."""
    number, after = 0, 0
    while held := about_stage(stage := folder / f"{number:06}", PackStage):
        same = held["about"] | about | {"members": after} == held["about"]
        if not same or not {tuple(span) for span in held["about"]["spans"]} >= set(spans):
            return
        yield stage, held
        if held["report"]["pack"]["ended"]:
            return
        number, after = number + 1, held["report"]["pack"]["members"]


def find_packs(roots: list[Path], splits: list[str]) -> dict[str, tuple[str, ...]]:
    """The packs of each split, sorted, from the first of `.`, `packs`, `tar`, `images` that has
    any, in any of `roots`; a plain tar before the gzipped one that it comes from.
    """
    found: dict[str, tuple[str, ...]] = {}
    for split in splits:
        for folder in (root / below for root in roots for below in (".", "packs", "tar", "images")):
            names = re.compile(rf"({split}(?:_[0-9a-f]+)?)\.tar(\.gz)?")
            files = sorted((path for path in folder.glob("*.tar*")), reverse=True)
            packs = {match[1]: path for path in files if (match := names.fullmatch(path.name))}
            if packs and split not in found:
                found[split] = tuple(str(packs[name].resolve()) for name in sorted(packs))
    return found


def pack_tasks(source: PackSource, left: list[ShardTask]) -> list[PackTask]:
    """A task for each part of the packs of the splits that have shards left."""
    tasks = []
    for split in dict.fromkeys(task.split for task in left):
        mine = [task for task in left if task.split == split]
        spans = tuple((task.start, task.start + task.length) for task in mine)
        tasks += [
            PackTask(
                path,
                part,
                str(folder_of(mine[0], path) / f"{part.start:015}"),
                mine[0].inputs,
                mine[0].settings,
                spans,
                mine[0].config,
            )
            for path in source.packs[split]
            for part in parts_of(Path(path))
        ]
    return tasks


def stage_pack(task: PackTask) -> PackReport:
    """Reads one part of a pack and stages its wanted images; goes on behind what an earlier run
    staged. Raises UserError on a full disk.
    """
    folder, report = Path(task.stages), new_report(task)
    remove_leftovers(folder)
    before = list(chain_of(folder, task.about(report), task.spans))
    if before:
        report = PackReport(**before[-1][1]["report"]["pack"])
    taken = [image_id for stage, _ in before for image_id in ids_in(stage)]
    images = wanted_images(task, report, taken)
    number = len(before)
    while not report.ended:
        stage_some(folder / f"{number:06}", images, task, report)
        number += 1
    return report


def new_report(task: PackTask) -> PackReport:
    start = task.part.start
    return PackReport(Path(task.path).name + (f", from byte {start:,}" if start else ""))


def ids_in(stage: Path) -> list[str]:
    table = read_parquet(stage / "rows.parquet", remedy(stage), {"id": TEXT})
    return table["id"].to_pylist()


def stage_some(stage: Path, images: Iterator[Wanted], task: PackTask, report: PackReport) -> None:
    """Converts and stages the next STAGE_IMAGES of `images`; fewer are the last. Not one more is
    read: `report` must tell what this stage has.
    """
    ids: list[str] = []
    contents: dict = {}

    def taken() -> Iterator[tuple[bytes | Outcome, int | None]]:
        for image_id, data, rotation in islice(images, STAGE_IMAGES):
            ids.append(image_id)
            yield data, rotation

    def some() -> Iterator[tuple[str, Outcome]]:
        for number, outcome in enumerate(attempts(taken(), task.config)):
            yield ids[number], outcome
        report.ended = len(ids) < STAGE_IMAGES
        contents.update(asdict(StageReport(report, min(ids, default=""), max(ids, default=""))))

    write_stage(stage, some(), task.about(report) | {"spans": task.spans}, contents)


def wanted_images(task: PackTask, report: PackReport, before: list[str]) -> Iterator[Wanted]:
    """Each wanted image of the part that is not among those of `before`, once each; counts what is
    odd into `report`.
    """
    ids, rotations = wanted_ids(task)
    taken, logged = np.isin(ids, [np.uint64(int(each, 16)) for each in before]), time.monotonic()
    for image_id, size, data in members(Path(task.path), task.part, task.config.max_bytes, report):
        number = np.uint64(int(image_id, 16))
        place = int(np.searchsorted(ids, number))
        wanted = place < len(ids) and ids[place] == number
        if wanted and taken[place]:
            report.repeated += 1
        elif wanted:
            taken[place] = True
            found = too_large(size, task.config) if data is None else data
            yield image_id, found, rotations[place]
        if time.monotonic() - logged > LOG_EVERY_S:
            logged = time.monotonic()
            log.info(f"{report.name}: {report.images:,} images read")


def wanted_ids(task: PackTask) -> tuple[np.ndarray, pl.Series]:
    """Sorted ids (uint64) and rotations of the rows that the unfinished shards want: 12 bytes for
    each of at most 9 M rows.
    """
    parts = []
    for start, stop in task.spans:
        rows = (
            pl.scan_parquet(task.inputs, glob=False)
            .slice(start, stop - start)
            .select("id", "rotation", "positive", "negative")
            .collect()
        )
        number = pl.col("id").str.to_integer(base=16, dtype=pl.UInt64)
        parts.append(rows.filter(wanted_rows(rows, task.config)).select(number, "rotation"))
    rows = pl.concat(parts)
    return rows["id"].to_numpy(), rows["rotation"]
