"""`c2srt shard`: raw images + label CSVs → the shard folder that c2srt/shards.py specifies, one Ray task a shard.

A run killed at any moment is repeated with the same command: finished shards stay, the rest is made. index.json comes last.
"""

import sys
from pathlib import Path

from c2srt.errors import UserError
from c2srt.files import remove_leftovers
from c2srt.progress import Progress
from c2srt.shards import FILE, Shard, ShardIndex
from c2srt.files import hash_of
from cluster.session import connect, run_tasks
from sharding.annotations import InputReport, RawFiles, find_root
from sharding.config import Config
from sharding.inputs import prepare_inputs
from sharding.pack import ShardTask, pack_shard
from sharding.plan import check_settings, choose_source, divide, only_writer, plan_split, status_counts
from c2srt.vocabulary import open_images_v4


def run(config: Config) -> None:
    """The whole job. Raises UserError on bad input, a full disk or a folder in use."""
    out = Path(config.out).resolve()
    raw = find_root(Path(config.data.root))
    with only_writer(out):
        remove_leftovers(out)
        source = choose_source(config, raw)
        reports, digests = inputs(config, raw, out)
        vocabulary = open_images_v4()
        vocabulary.save(out)
        settings = check_settings(out, config, source, digests)
        tasks = {split: plan_split(out, split, settings[split], source, config) for split in settings}
        done, left = divide([task for split in config.splits for task in tasks[split]])
        if left:
            (out / FILE).unlink(missing_ok=True)
            done |= pack_all(left, done, config.workers)
        write_index(out, vocabulary.hash, settings, tasks)
        summary(out, tasks, config)


def inputs(config: Config, raw: RawFiles, out: Path) -> tuple[dict[str, InputReport], dict[str, str]]:
    """The input table of each split, made or found; prints what the CSVs hold."""
    reports, digests = {}, {}
    for split in config.splits:
        reports[split], digests[split], new = prepare_inputs(raw, split, out, config.data.machine_threshold)
        print("\n".join(reports[split].lines()) if new else f"{split}: input table is up to date")
    return reports, digests


def pack_all(left: list[ShardTask], done: dict[str, Shard], workers: int) -> dict[str, Shard]:
    """Packs the remaining shards, `workers` at a time."""
    connect(workers)
    progress = Progress("shard", sum(task.length for task in left) + sum(shard.inputs for shard in done.values()))
    progress.skip(sum(shard.inputs for shard in done.values()))
    made = {}
    for task, shard in run_tasks(pack_shard, left, workers):
        made[task.name] = shard
        progress.update(task.length, f"{task.name}: {shard.count:,} of {shard.inputs:,} packed")
    progress.close()
    return made


def write_index(out: Path, vocabulary: str, settings: dict[str, str], tasks: dict[str, list[ShardTask]]) -> None:
    """The index of every split that is complete, splits of earlier runs included."""
    splits = {}
    for split, planned in tasks.items():
        done, left = divide(planned)
        if not left:
            splits[split] = tuple(done[task.name] for task in planned)
    ShardIndex(out, vocabulary, hash_of(settings), splits).save()


def summary(out: Path, tasks: dict[str, list[ShardTask]], config: Config) -> None:
    """A line a split and status."""
    counts = status_counts(out, [task.name for split in config.splits for task in tasks[split]])
    for split, status, count in counts.iter_rows():
        print(f"{split:<12} {status:<12} {count:>11,}")
    print(f"shards are in {out}")


if __name__ == "__main__":
    from c2srt.cli import main

    sys.exit(main(["shard", *sys.argv[1:]]))
