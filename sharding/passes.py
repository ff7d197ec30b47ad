"""Downloading a whole data set: passes over what is unreachable, then the shards, or a refusal.

A shard is packed as soon as none of its images is unreachable; until then they wait in its stages,
whatever becomes of the command. What still waits after the last pass is packed if so few images are
unreachable in all that the index may be written (`download.most_unreachable`). A finished shard
that is downloaded again (`retry=[unreachable]`) stays as it is until then.
"""

import logging
import math
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from c2srt.errors import UserError
from c2srt.executor import Executor, Opens
from c2srt.progress import Progress
from c2srt.sharding.arrivals import (
    FILE as REPORT,
    UNREACHABLE,
    Arrivals,
    added,
    counted,
    in_sidecars,
    in_stages,
    lines,
    report,
    save,
)
from c2srt.sharding.config import Config
from c2srt.sharding.pack import ShardTask, finished, pack_shard, rows_of, wanted_rows
from c2srt.sharding.pieces import staging_folder
from c2srt.sharding.urls import UrlSource
from c2srt.shards import FILE
from c2srt.sites import Closed
from c2srt.storage import mirror

log = logging.getLogger(__name__)
TELL_S = 600.0
"""Between two lines about a shard: at a site's pace it may take hours."""


@dataclass(frozen=True)
class Fetched:
    """What a pass made of a shard; `packed`: it is there, with all its images. `lost`: its report
    (sharding/arrivals.py), since its stages may lie on another machine. `closed`: the sites that
    are not to be asked for some time.
    """

    packed: bool
    arrivals: Arrivals
    lost: pl.DataFrame
    closed: dict[str, Closed]


def fetch_shard(task: ShardTask) -> Fetched:
    """A task: downloads what is missing of a shard, and packs it if nothing is unreachable."""
    rows, source = rows_of(task), task.source
    assert isinstance(source, UrlSource)
    old = finished(Path(task.out), task.name, task.settings)
    told, done = time.monotonic(), 0
    for piece in source.stages(
        rows.filter(wanted_rows(rows, task.config, task.excluded)), task, source.again
    ):
        done += len(piece.rows)
        if time.monotonic() - told >= TELL_S:
            log.info(f"{task.name}: {done:,} of {len(rows):,} images")
            told = time.monotonic()
    found = in_stages(task)
    arrivals, lost = counted(found), report(found.lazy(), [Path(task.inputs)])
    if packed := not old and not arrivals.unreachable:
        pack_shard(task)
    return Fetched(packed, arrivals, lost, source.sites(task.config).closed())


def download_all(
    out: Path, tasks: list[ShardTask], inputs: list[Path], config: Config, opens: Opens
) -> None:
    """Makes the shards of all tasks that are not finished, or are to be asked for again; writes
    the report. Raises UserError if too many images are unreachable.
    """
    todo = asked_for(out, tasks, config)
    if not todo:
        settle(out, tasks, {}, inputs, config)
        return
    names = {task.name for task in todo}
    earlier = counted(in_sidecars(out, [task.name for task in tasks if task.name not in names]))
    with opens(config.workers, len(todo), sum(task.length for task in todo)) as executor:
        waiting = in_passes(todo, earlier, config, executor)
        settle(out, tasks, waiting, inputs, config)
        left = visiting([task for task in todo if task.name in waiting], config)
        for task, shard in executor.map(pack_shard, left, lambda task: f"shard {task.name}"):
            log.info(f"{task.name}: {shard.count:,} of {shard.inputs:,} packed")


def settle(
    out: Path,
    tasks: list[ShardTask],
    waiting: dict[str, Fetched],
    inputs: list[Path],
    config: Config,
) -> None:
    """The report; then what waits may be packed. Raises UserError if it may not."""
    packed = in_sidecars(out, [task.name for task in tasks if task.name not in waiting])
    table = added([report(packed, inputs), *(each.lost for each in waiting.values())])
    total = sum((each.arrivals for each in waiting.values()), counted(packed))
    save(table, out)
    if text := lines(table):
        log.info("\n".join(text))
    if total.share > config.download.most_unreachable:
        raise refusal(table, total, out)
    if waiting:
        mirror.remove(out / FILE)


def asked_for(out: Path, tasks: list[ShardTask], config: Config) -> list[ShardTask]:
    """Those that are not finished, hold an image of a status in `retry`, or were being asked for
    again when a run ended.
    """
    done = [task for task in tasks if finished(out, task.name, task.settings)]
    names = [task.name for task in done]
    again = in_sidecars(out, names).filter(pl.col("status").is_in(config.retry))
    holding = set(again.select("name").unique().collect()["name"])
    kept = {
        task.name for task in done if task.name not in holding and not staging_folder(task).is_dir()
    }
    return [task for task in tasks if task.name not in kept]


def in_passes(
    tasks: list[ShardTask], earlier: Arrivals, config: Config, executor: Executor
) -> dict[str, Fetched]:
    """Returns the shards that wait. `earlier`: what is finished already."""
    found: dict[str, Fetched] = {}
    closed: dict[str, Closed] = {}
    todo, again = tasks, (UNREACHABLE, *config.retry)
    for number in range(1, config.download.passes + 1):
        for name, fetched in one_pass(number, todo, again, closed, config, executor):
            found[name] = fetched
            closed |= fetched.closed
        total = sum((each.arrivals for each in found.values()), earlier)
        todo = [task for task in todo if found[task.name].arrivals.unreachable]
        again = (UNREACHABLE,)
        if not todo or total.share <= 1 - config.download.arrived:
            break
        if number < config.download.passes:
            rest(number, total, config)
    return {name: fetched for name, fetched in found.items() if not fetched.packed}


def visiting(
    tasks: list[ShardTask],
    config: Config,
    again: tuple[str, ...] = (),
    closed: Mapping[str, Closed] | None = None,
) -> list[ShardTask]:
    """The tasks as they run beside each other, and share what they know of the sites."""
    beside = min(config.workers, max(1, len(tasks)))
    source = UrlSource("urls", secrets.token_hex(8), beside, again, dict(closed or {}))
    return [replace(task, source=source) for task in tasks]


def rest(number: int, total: Arrivals, config: Config) -> None:
    log.info(
        f"after pass {number} of {config.download.passes} {total.unreachable:,} of"
        f" {total.asked:,} images are unreachable; the next begins in {config.download.pause:g} s"
    )
    time.sleep(config.download.pause)


def one_pass(
    number: int,
    tasks: list[ShardTask],
    again: tuple[str, ...],
    closed: dict[str, Closed],
    config: Config,
    executor: Executor,
) -> Iterator[tuple[str, Fetched]]:
    """(shard's name, what became of it) as they come."""
    sent = visiting(tasks, config, again, closed)
    progress = Progress(f"pass {number}", sum(task.length for task in tasks))
    for task, fetched in executor.map(fetch_shard, sent, lambda task: f"shard {task.name}"):
        lost = fetched.arrivals.unreachable
        progress.update(task.length, f"{task.name}: {lost:,} unreachable" if lost else task.name)
        yield task.name, fetched
    progress.close()


def refusal(table: pl.DataFrame, total: Arrivals, out: Path) -> UserError:
    host, _, reason, images = table.filter(pl.col("status") == UNREACHABLE).row(0)
    enough = math.ceil(total.share * 1000) / 1000
    return UserError(
        f"{total.unreachable:,} of {total.asked:,} images are unreachable, {images:,} of them at"
        f" {host or 'no host'} ({reason}), so {out} gets no index; nothing that came is lost, and"
        f" {out / REPORT} counts the others by host and reason: run the same command again, with"
        f" 'retry=[{UNREACHABLE}]', to ask for them again, or accept them with"
        f" download.most_unreachable={enough:g}"
    )
