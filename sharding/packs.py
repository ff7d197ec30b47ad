"""Images in CVDF's packs: `train_0.tar.gz` … `train_f.tar.gz`, `validation.tar.gz`, `test.tar.gz`,
members in a folder.

A gzipped tar can only be read front to back, and its order is not ours. So each pack is read once,
every wanted member converted as it comes and staged (sharding/staging.py) in
`<out>/staging/<split>/<pack>`; a killed run repeats at most the packs that it was reading. The
shards are then written from the stages.
"""

import gzip
import logging
import re
import tarfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import numpy as np
import polars as pl

from c2srt.errors import UserError
from c2srt.opened import BoundedHeader
from c2srt.sharding.config import Config
from c2srt.sharding.outcome import Outcome, attempt
from c2srt.sharding.pack import ShardTask, wanted_rows
from c2srt.sharding.staging import FOLDER, about_stage, in_order, remedy, write_stage
from c2srt.shown import shown

log = logging.getLogger(__name__)

MEMBER = re.compile(r"([0-9a-f]{16})\.jpg")
DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError)
LOG_EVERY_S = 30.0


@dataclass
class PackReport:
    """What one pass over a pack found; `damaged` is "" or the reason why its rest could not be
    read.
    """

    name: str
    images: int = 0
    repeated: int = 0
    refused: int = 0
    refused_example: str = ""
    damaged: str = ""

    def lines(self) -> list[str]:
        """A sentence for each thing that a person should know."""
        found = []
        if self.damaged:
            found.append(
                f"{self.name} is damaged after {self.images:,} images ({self.damaged}): what was"
                " read is kept, what is missing has a row; download it again and shard into"
                " another out=… for the rest"
            )
        if self.refused:
            found.append(
                f"{self.name}: {self.refused:,} members refused, because their names leave the"
                f" folder or they are no plain files ({self.refused_example!r})"
            )
        if self.repeated:
            found.append(
                f"{self.name}: {self.repeated:,} images come again, the first of each is used"
            )
        return found


@dataclass(frozen=True)
class PackAbout:
    """What a pack's stage must know of what it was made for."""

    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class PackStage:
    """What stage.json of a pack must have."""

    about: PackAbout
    report: PackReport


@dataclass(frozen=True)
class PackTask:
    """One pass: the pack `path`, staged to `stage`; `spans` are the input rows [start, stop) of the
    shards still to be made.
    """

    path: str
    stage: str
    inputs: str
    settings: str
    spans: tuple[tuple[int, int], ...]
    config: Config

    def about(self) -> dict:
        """What the stage depends on, besides the spans."""
        status = Path(self.path).stat()
        return {"settings": self.settings, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


@dataclass(frozen=True)
class PackSource:
    """Reads the stages of `packs[split]`, which `stage_pack` must have made."""

    packs: dict[str, tuple[str, ...]]
    kind: str = "packs"

    def outcomes(self, rows: pl.DataFrame, task: ShardTask) -> Iterator[Outcome]:
        """One Outcome for each row (column id), in order; an image that no pack has is
        `missing`.
        """
        stages = [stage_of(task, path) for path in self.packs[task.split]]
        about = {stage: about_stage(stage, PackStage) for stage in stages}
        if lost := next((stage for stage in stages if about[stage] is None), None):
            raise UserError(f"{lost} is damaged or gone: {remedy(lost)}")
        damaged = [
            stage.name for stage in stages if (found := about[stage]) and found["report"]["damaged"]
        ]
        reason = (
            f"in none of the packs; {', '.join(damaged)} could not be read to the end"
            if damaged
            else "in none of the packs"
        )
        return in_order(stages, rows["id"].to_list(), Outcome("missing", reason))


def stage_of(task: ShardTask, pack: str) -> Path:
    return Path(task.out, FOLDER, task.split, Path(pack).name)


def find_packs(roots: list[Path], splits: list[str]) -> dict[str, tuple[str, ...]]:
    """The packs of each split, sorted, from the first of `.`, `packs`, `tar`, `images` that has
    any, in any of `roots`.
    """
    found: dict[str, tuple[str, ...]] = {}
    for split in splits:
        for folder in (root / below for root in roots for below in (".", "packs", "tar", "images")):
            names = re.compile(rf"{split}(_[0-9a-f]+)?\.tar\.gz")
            packs = [path for path in sorted(folder.glob("*.tar.gz")) if names.fullmatch(path.name)]
            if packs and split not in found:
                found[split] = tuple(str(path.resolve()) for path in packs)
    return found


def pack_tasks(source: PackSource, left: list[ShardTask]) -> list[PackTask]:
    """A task for each pack of the splits that have shards left."""
    tasks = []
    for split in dict.fromkeys(task.split for task in left):
        mine = [task for task in left if task.split == split]
        spans = tuple((task.start, task.start + task.length) for task in mine)
        tasks += [
            PackTask(
                path,
                str(stage_of(mine[0], path)),
                mine[0].inputs,
                mine[0].settings,
                spans,
                mine[0].config,
            )
            for path in source.packs[split]
        ]
    return tasks


def stage_pack(task: PackTask) -> PackReport:
    """Reads one pack and stages its wanted images; does nothing if an earlier run did. Raises
    UserError on a full disk.
    """
    stage = Path(task.stage)
    old = about_stage(stage, PackStage)
    if (
        old
        and old["about"] | task.about() == old["about"]
        and {tuple(span) for span in old["about"]["spans"]} >= set(task.spans)
    ):
        return PackReport(**old["report"])
    report = PackReport(Path(task.path).name)
    contents: dict = {}

    def results() -> Iterator[tuple[str, Outcome]]:
        yield from convert_members(task, report)
        contents.update(asdict(report))

    write_stage(stage, results(), task.about() | {"spans": task.spans}, contents)
    return report


def convert_members(task: PackTask, report: PackReport) -> Iterator[tuple[str, Outcome]]:
    """(id, outcome) of each wanted image of the pack, once each; counts what is odd into
    `report`.
    """
    ids, rotations = wanted_ids(task)
    taken, logged = np.zeros(len(ids), bool), time.monotonic()
    for image_id, size, data in members(Path(task.path), task.config.max_bytes, report):
        number = np.uint64(int(image_id, 16))
        place = int(np.searchsorted(ids, number))
        wanted = place < len(ids) and ids[place] == number
        if wanted and taken[place]:
            report.repeated += 1
        elif wanted:
            taken[place] = True
            too_large = Outcome(
                "too_large", f"{size:,} bytes, more than max_bytes={task.config.max_bytes:,}"
            )
            yield (
                image_id,
                too_large if data is None else attempt(data, rotations[place], task.config),
            )
        report.images += 1
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


def members(
    path: Path, max_bytes: int, report: PackReport
) -> Iterator[tuple[str, int, bytes | None]]:
    """(id, bytes, content) of each `…/<id>.jpg`, front to back; content is None above `max_bytes`.

    Nothing is extracted by its name: links, devices and names that leave the folder are refused and
    counted. A damaged pack ends the iteration with `report.damaged` set; an image that was cut off
    is not yielded.
    """
    try:
        with (
            gzip.open(path) as stream,
            tarfile.open(
                fileobj=cast(BinaryIO, Ending(stream)), mode="r|", tarinfo=BoundedHeader
            ) as tar,
        ):
            for member in tar:
                cast(Any, tar).members = []  # else tarfile keeps the headers of the whole pack
                name = PurePosixPath(member.name)
                if (
                    not (member.isreg() or member.isdir())
                    or name.is_absolute()
                    or ".." in name.parts
                ):
                    report.refused += 1
                    report.refused_example = report.refused_example or shown(member.name, 80)
                elif member.isreg() and (match := MEMBER.fullmatch(name.name)):
                    file = tar.extractfile(member) if member.size <= max_bytes else None
                    yield match[1], member.size, file.read() if file else None
            check_end(tar)
    except DAMAGE as error:
        report.damaged = shown(" ".join(str(error).split()), 150) or type(error).__name__


class Ending:
    """A stream that ends once: tarfile skips whatever a header says that a member has, and would
    read on for years behind the end of a pack whose header says 2⁶⁰ bytes.
    """

    PATIENCE = 16

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream, self.ends = stream, 0

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        self.ends += not block
        if self.ends > self.PATIENCE:
            raise EOFError("it ends inside a member")
        return block


def check_end(tar: tarfile.TarFile) -> None:
    """Reads to the end, which checks gzip's sum. tarfile stops in silence at a header that it
    cannot read: then data follow.
    """
    while block := tar.fileobj.read(1 << 20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("a tar header is broken")
