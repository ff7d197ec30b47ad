"""The job of `c2srt shard`: raw images + label CSVs → the shard folder that c2srt/shards.py
specifies, one task a shard.

A run killed at any moment is repeated with the same command: finished shards stay, the rest is
made. index.json comes last.
"""

import logging
import shutil
from pathlib import Path

from c2srt.artefact import writing
from c2srt.errors import UserError
from c2srt.executor import Executor, Opens
from c2srt.files import hash_of, remove_leftovers
from c2srt.offsets import write_offsets
from c2srt.progress import Progress
from c2srt.sharding import staging
from c2srt.sharding.config import Config
from c2srt.sharding.exclude import read_excluded
from c2srt.sharding.inputs import FOLDER as INPUTS, inputs_path, prepare_inputs
from c2srt.sharding.pack import ShardTask, pack_shard
from c2srt.sharding.packs import PackSource, PackTask, pack_tasks, stage_pack
from c2srt.sharding.passes import download_all
from c2srt.sharding.readers import Reader, find_reader
from c2srt.sharding.tasks import (
    check_settings,
    check_version,
    divide,
    require_urls,
    shard_tasks,
    status_counts,
)
from c2srt.shards import FILE, Shard, ShardIndex
from c2srt.storage import mirror
from c2srt.vocabulary import Vocabulary

log = logging.getLogger(__name__)

ACCEPTANCE = "acceptance.json"


def make_shards(config: Config, opens: Opens) -> None:
    """The whole job. Raises UserError on bad input, a full disk, or a folder that is in use or
    holds other shards.
    """
    out = Path(config.out).resolve()
    reader = find_reader(config.data)
    with writing(out):
        clean(out)
        source = reader.source(config)
        digests = inputs(config, reader, out)
        excluded = read_excluded(
            config.data.exclude, {split: inputs_path(out, split) for split in config.splits}
        )
        settings = check_settings(out, config, source, digests, excluded.hash)
        paths = {split: inputs_path(out, split) for split in settings}
        if source.kind == "urls":
            require_urls({split: paths[split] for split in config.splits}, config.data.root)
        elif config.retry:
            raise UserError(
                f"retry={config.retry} asks URLs again, and these images come from {source.kind}:"
                " leave it out"
            )
        vocabulary = reader.vocabulary(paths)
        vocabulary.save(out)
        tasks = {
            split: shard_tasks(out, split, settings[split], source, config, excluded.of(split))
            for split in settings
        }
        done, left = divide([task for split in config.splits for task in tasks[split]])
        log.info(
            f"images come from {source.kind}; {len(done):,} shards are done, {len(left):,} are to"
            " be made"
        )
        if left or config.retry:
            check_version(out, config)
        if left:
            mirror.remove(out / FILE)
        if source.kind == "urls":
            every = [task for split in config.splits for task in tasks[split]]
            download_all(out, every, [paths[split] for split in config.splits], config, opens)
        elif left:
            pack_all(source, left, done, config.workers, opens)
        finish(out, reader, vocabulary, settings, tasks, config)


def clean(out: Path) -> None:
    """Removes what killed runs left under temporary names below `out`."""
    for folder in (
        out / INPUTS,
        *(path for path in (out / staging.FOLDER).glob("*") if path.is_dir()),
    ):
        remove_leftovers(folder)


def inputs(config: Config, reader: Reader, out: Path) -> dict[str, str]:
    """Makes or finds the input table of each split, says what it holds, and returns its
    SHA-256.
    """
    digests = {}
    for split in config.splits:
        report, digests[split], new = prepare_inputs(reader, split, out)
        log.info(
            "\n".join(
                report.lines()
                + ([] if new else [f"{split}: these CSVs were read by an earlier run"])
            )
        )
    return digests


def pack_all(
    source: object, left: list[ShardTask], done: dict[str, Shard], workers: int, opens: Opens
) -> None:
    """Makes the shards that are left, `workers` at a time; packs are read in a pass of their own
    before.
    """
    stages = pack_tasks(source, left) if isinstance(source, PackSource) else []
    images, earlier = (sum(shard.length for shard in left), sum(s.inputs for s in done.values()))
    with opens(workers, max(len(left), len(stages)), images) as executor:
        if stages:
            stage_packs(stages, executor)
        progress = Progress("shard", images + earlier)
        progress.skip(earlier)
        for task, shard in executor.map(pack_shard, left, lambda task: f"shard {task.name}"):
            progress.update(task.length, f"{task.name}: {shard.count:,} of {shard.inputs:,} packed")
        progress.close()


def stage_packs(stages: list[PackTask], executor: Executor) -> None:
    """Reads the packs' images into the folder that the shards are made from."""
    passes = Progress("packs", len(stages), "packs")
    for _, report in executor.map(stage_pack, stages):
        passes.update(1, report.name)
        if lines := report.lines():
            log.info("\n".join(lines))
    passes.close()


def finish(
    out: Path,
    reader: Reader,
    vocabulary: Vocabulary,
    settings: dict[str, str],
    tasks: dict[str, list[ShardTask]],
    config: Config,
) -> None:
    """The index of every complete split (those of earlier runs included), the acceptance counts,
    and a line a status.
    """
    divided = {split: divide(planned) for split, planned in tasks.items()}
    splits = {
        split: tuple(done[task.name] for task in tasks[split])
        for split, (done, left) in divided.items()
        if not left
    }
    for split, shards in splits.items():
        write_offsets(out, split, shards)
    ShardIndex(out, vocabulary.hash, hash_of(settings), splits).save()
    shutil.rmtree(out / staging.FOLDER, ignore_errors=True)
    names = [shard.name for split in config.splits for shard in splits[split]]
    for split, status, count in status_counts(out, names).iter_rows():
        log.info(f"{split:<12} {status:<14} {count:>11,}")
    packed = {split: sum(shard.count for shard in splits[split]) for split in config.splits}
    counts = reader.acceptance(
        vocabulary, {split: inputs_path(out, split) for split in config.splits}, packed
    )
    counts.save(out / ACCEPTANCE)
    log.info("\n".join(counts.lines()))
    log.info(f"shards are in {out}")
