"""`c2srt check gpu`: runs what is missing, part by part, and writes the record and the page."""

import logging
from datetime import datetime
from pathlib import Path
from time import monotonic

from c2srt.check.config import CLUSTER, KEEP, KERNELS, Config
from c2srt.check.page import page
from c2srt.check.parts import CPU_PATIENCE, PARTS, Part, chosen
from c2srt.check.record import Record, open_folder
from c2srt.check.worker import Worker
from c2srt.errors import UserError
from c2srt.pages.row import row_line

log = logging.getLogger(__name__)

GOOD = ("ok", "skipped")
WRONG = 1


def run(config: Config) -> int:
    """Returns 1 where a part is wrong, failed, or did not end in its time. Raises UserError on bad
    input.
    """
    if config.what == KERNELS:
        from c2srt.check.compiled import run_compiled

        return run_compiled(config)
    if config.what == CLUSTER:
        from c2srt.check.cluster import run_cluster

        return run_cluster(config)
    if config.what == KEEP:
        from c2srt.pages import keep

        log.info(f"kept in {keep(Path(config.out))}")
        return 0
    if unknown := sorted(set(config.parts) - {part.name for part in PARTS}):
        raise UserError(
            f"parts={unknown[0]} is not one of {', '.join(part.name for part in PARTS)}"
        )
    return run_parts(config, chosen(config.length, config.parts))


def run_parts(config: Config, parts: list[Part]) -> int:
    """The parts without a good line of this source and card; then check.json and check.txt from all
    lines.
    """
    folder = open_folder(Path(config.out))
    worker = Worker(folder)
    if fault := worker.start():
        raise UserError(fault)
    record = Record(folder, config.commit, worker.machine)
    log.info(
        f"{record.machine.get('card', 'unknown card')}, torch {record.machine.get('torch', '?')}:"
        f" {len(parts)} parts, written to {record.path}"
    )
    try:
        for number, part in enumerate(parts, 1):
            line = record.newest(part.name)
            before = "done before, " if line else ""
            log.info(f"{number} of {len(parts)}  {part.name}: {part.says}")
            if line is None:
                line = record.add(run_part(worker, part, record.machine))
            why = f": {line['why']}" if line["why"] else ""
            log.info(f"        {before}{line['status']}{why} ({line['seconds']:.0f} s)")
    finally:
        worker.close()
    lines = record.lines([part.name for part in parts])
    record.finish(lines, page(lines, record.machine))
    return verdict(lines, record)


def run_part(worker: Worker, part: Part, machine: dict[str, str]) -> dict:
    """A line of the record."""
    started = monotonic()
    rows: list[dict] = []
    if missing := part.missing():
        status, why = "skipped", f"needs {', '.join(missing)}, not installed here"
    else:
        limit = part.limit_s * (1 if "capability" in machine else CPU_PATIENCE)
        rows, status, why = worker.run(
            part.place,
            "triton" in part.needs,
            limit,
            lambda row: log.info(f"        {row_line(row)}"),
        )
    return {
        "part": part.name,
        "status": status,
        "why": why,
        "seconds": round(monotonic() - started, 1),
        "date": datetime.now().isoformat(timespec="seconds"),
        "machine": machine,
        "rows": rows,
    }


def verdict(lines: list[dict], record: Record) -> int:
    """Prints what is wrong, last, where it is seen."""
    faults = [row["wrong"] for line in lines for row in line["rows"] if "wrong" in row]
    faults += [
        f"{line['part']} {line['status']}: {line['why']}"
        for line in lines
        if line["status"] not in (*GOOD, "wrong")
    ]
    skipped = [line["part"] for line in lines if line["status"] == "skipped"]
    print(f"\npage: {record.folder / 'check.txt'}")
    if skipped:
        print(f"skipped: {', '.join(skipped)}")
    for fault in faults:
        print(f"WRONG: {fault}")
    print(f"{len(lines) - len(skipped)} of {len(lines)} parts looked at, {len(faults)} faults")
    return WRONG if faults else 0
