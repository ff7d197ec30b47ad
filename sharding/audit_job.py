"""The job of `c2srt audit`: re-reads every shard against index, sidecars and CSVs, then has a look
at what was packed (c2srt/audit).
"""

import itertools
import json
import logging
import shutil
from pathlib import Path

from c2srt.audit.config import SHARDS
from c2srt.audit.job import PAGE, look
from c2srt.errors import UserError
from c2srt.executor import Opens
from c2srt.files import TEMPORARY, whole_file
from c2srt.opened import read_json
from c2srt.progress import Progress
from c2srt.scratch import named
from c2srt.sharding.audit import AuditTask, Finding, audit_folder, audit_shard, plan_audit
from c2srt.sharding.config import AuditConfig
from c2srt.sharding.inputs import inputs_path
from c2srt.sharding.readers import Reader, find_reader
from c2srt.shards import MADE_BY, ShardIndex, load_index
from c2srt.vocabulary import load_vocabulary

log = logging.getLogger(__name__)

REPORT, FOLDER = "audit.jsonl", "audit"
PRINTED = 20


def audit(config: AuditConfig, opens: Opens) -> int:
    """Returns 0 if nothing disagrees, else 1. What the other parts find is printed, and no
    disagreement: it is for people to judge.
    """
    index = load_index(Path(config.shards))
    status = compare(config, index, opens) if SHARDS in config.parts else 0
    if not status and set(config.parts) != {SHARDS}:
        vocabulary, out = load_vocabulary(index.folder), Path(config.out) / FOLDER
        print("\n".join(look(index, vocabulary, config.look, out, opens)))
        print(f"{named(str(out / PAGE))} shows it; the rows are beside it")
    return status


def compare(config: AuditConfig, index: ShardIndex, opens: Opens) -> int:
    """Returns 0 if nothing disagrees, else 1; every disagreement is a line of
    `<out>/audit.jsonl`.
    """
    reader, out = find_reader(config.data), Path(config.out)
    check_threshold(index, config.data.machine_threshold)
    scratch = out / f"audit{TEMPORARY}inputs"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        inputs = recomputed(reader, index, scratch)
        folder_findings = audit_folder(
            index, load_vocabulary(index.folder), reader.vocabulary(inputs), inputs
        )
        tasks = [task for split in index.splits for task in plan_audit(index, split, inputs[split])]
        audit_in_parallel(tasks, scratch, config.workers, opens)
        parts = [scratch / f"{task.shard.name}.jsonl" for task in tasks]
        count = write_report(folder_findings, parts, out / REPORT)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return conclude(count, tasks, out / REPORT)


def check_threshold(index: ShardIndex, threshold: float | None) -> None:
    """Raises UserError if the shards were made with another threshold for machine labels: every
    label would seem to differ.
    """
    for split in index.splits:
        record = inputs_path(index.folder, split).with_suffix(".json")
        made_from = (
            read_json(record, MADE_BY).get("made_from")
            if record.exists()
            else {"machine_threshold": threshold}
        )
        used = made_from.get("machine_threshold") if isinstance(made_from, dict) else None
        if used != threshold:
            raise UserError(
                f"{index.folder} was made with data.machine_threshold={used}: give the audit the"
                " same"
            )


def recomputed(reader: Reader, index: ShardIndex, scratch: Path) -> dict[str, Path]:
    """Reads the CSVs again; returns split → parquet for the splits in the index, and those that
    derive the vocabulary.
    """
    splits = dict.fromkeys([*index.splits, *reader.vocabulary_splits])
    inputs = {split: scratch / f"{split}.parquet" for split in splits}
    for split, path in inputs.items():
        log.info("\n".join(reader.write_inputs(split, path).lines()))
    return inputs


def audit_in_parallel(tasks: list[AuditTask], scratch: Path, workers: int, opens: Opens) -> None:
    """Audits every shard; each one's findings go to `scratch/<name>.jsonl`, so memory does not grow
    with them.
    """
    images = sum(task.shard.inputs for task in tasks)
    with opens(workers, len(tasks), images) as executor:
        progress = Progress("audit", images)
        for task, findings in executor.map(
            audit_shard, tasks, lambda task: f"audit {task.shard.name}"
        ):
            (scratch / f"{task.shard.name}.jsonl").write_text(
                "".join(f"{finding.json()}\n" for finding in findings), encoding="utf-8"
            )
            progress.update(task.shard.inputs)
        progress.close()


def write_report(first: list[Finding], parts: list[Path], path: Path) -> int:
    """Joins the findings in the order of shards into `path`; returns how many there are."""
    count = 0
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as report:
        for line in itertools.chain(
            (f"{finding.json()}\n" for finding in first),
            *(part.open(encoding="utf-8") for part in parts),
        ):
            report.write(line)
            count += 1
    return count


def conclude(count: int, tasks: list[AuditTask], report: Path) -> int:
    """Prints the first disagreements and one line of summary; returns the exit status."""
    with report.open(encoding="utf-8") as lines:
        for line in itertools.islice(lines, PRINTED):
            print(Finding(**json.loads(line)).line())
    packed, images = (
        sum(task.shard.count for task in tasks),
        sum(task.shard.inputs for task in tasks),
    )
    what = f"{len(tasks):,} shards, {packed:,} packed of {images:,} images"
    place = named(str(report))
    if count:
        print(
            f"{count:,} disagreements in"
            f" {what}{f', the first {PRINTED} above' if count > PRINTED else ''}; all in {place}"
        )
        return 1
    print(f"{what}: bytes, hashes, members, pixels, labels and counts all agree")
    return 0
