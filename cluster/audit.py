"""`c2srt audit`: re-reads every shard against index, sidecars and CSVs; exit 1 on disagreement."""

import itertools
import json
import shutil
import sys
from pathlib import Path

from c2srt.errors import UserError
from c2srt.files import TEMPORARY, whole_file
from c2srt.opened import read_json
from c2srt.progress import Progress
from c2srt.shards import MADE_BY, ShardIndex, load_index
from c2srt.vocabulary import load_vocabulary
from cluster.address import check_address
from cluster.paths import check_lasting
from cluster.session import connect, run_tasks
from sharding.audit import AuditTask, Finding, audit_folder, audit_shard, plan_audit
from sharding.config import AuditConfig as Config
from sharding.inputs import inputs_path
from sharding.readers import Reader, find_reader

REPORT = "audit.jsonl"
PRINTED = 20


def run(config: Config) -> int:
    """Returns 0 if nothing disagrees, else 1; every disagreement is a line of
    `<out>/audit.jsonl`.
    """
    check_lasting(config.out)
    check_address()
    index, reader, out = load_index(Path(config.shards)), find_reader(config.data), Path(config.out)
    check_threshold(index, config.data.machine_threshold)
    scratch = out / f"audit{TEMPORARY}inputs"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        inputs = recomputed(reader, index, scratch)
        folder_findings = audit_folder(
            index, load_vocabulary(index.folder), reader.vocabulary(inputs), inputs
        )
        tasks = [task for split in index.splits for task in plan_audit(index, split, inputs[split])]
        audit_in_parallel(tasks, scratch, config.workers)
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
        print(*reader.write_inputs(split, path).lines(), sep="\n", flush=True)
    return inputs


def audit_in_parallel(tasks: list[AuditTask], scratch: Path, workers: int) -> None:
    """Audits every shard; each one's findings go to `scratch/<name>.jsonl`, so memory does not grow
    with them.
    """
    connect(workers)
    progress = Progress("audit", sum(task.shard.inputs for task in tasks))
    for task, findings in run_tasks(
        audit_shard, tasks, workers, name=lambda task: f"audit {task.shard.name}"
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
    if count:
        print(
            f"{count:,} disagreements in"
            f" {what}{f', the first {PRINTED} above' if count > PRINTED else ''}; all in {report}"
        )
        return 1
    print(f"{what}: bytes, hashes, members, pixels, labels and counts all agree")
    return 0


if __name__ == "__main__":
    from c2srt.cli import main

    sys.exit(main(["audit", *sys.argv[1:]]))
