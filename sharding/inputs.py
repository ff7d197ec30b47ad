"""`<out>/inputs/<split>.parquet`: made from the raw lists once, and again only when one of them has
changed.
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from c2srt.artefact import kept, withdraw
from c2srt.files import sha256_of_file, write_json
from c2srt.hints import Command
from c2srt.opened import misfit, read_json
from c2srt.sharding.readers import Reader, Report

FOLDER = "inputs"


@dataclass(frozen=True)
class RecordFile:
    """What the record of a split's table must have."""

    made_from: dict
    bytes: int
    sha256: str
    report: dict


def inputs_path(out: Path, split: str) -> Path:
    return out / FOLDER / f"{split}.parquet"


def prepare_inputs(reader: Reader, split: str, out: Path) -> tuple[Report, str, bool]:
    """Makes the split's parquet unless it is there and its lists are as they were; returns (report,
    SHA-256, made now).

    `<split>.json` beside it, written last, records the lists' sizes and times. Raises UserError as
    the reader does.
    """
    path, record = inputs_path(out, split), inputs_path(out, split).with_suffix(".json")
    made_from = reader.made_from(split)
    read = partial(read_json, record, Command("shard"), RecordFile)
    old = kept(path, read, {"made_from": made_from}, hashed=True)
    if old and not misfit(json.dumps(old["report"]), reader.report):
        return reader.report(**old["report"]), old["sha256"], False
    path.parent.mkdir(parents=True, exist_ok=True)
    withdraw(record)
    report = reader.write_inputs(split, path)
    digest = sha256_of_file(path)
    write_json(
        record,
        {
            "made_from": made_from,
            "bytes": path.stat().st_size,
            "sha256": digest,
            "report": asdict(report),
        },
    )
    return report, digest, True
