"""`<out>/inputs/<split>.parquet`: made from the CSVs once, and again only when a CSV has changed."""

from dataclasses import asdict
from pathlib import Path

from c2srt.files import read_json, sha256_of_file, write_json
from sharding.annotations import InputReport, RawFiles, write_inputs

FOLDER = "inputs"


def inputs_path(out: Path, split: str) -> Path:
    return out / FOLDER / f"{split}.parquet"


def prepare_inputs(raw: RawFiles, split: str, out: Path, machine_threshold: float | None) -> tuple[InputReport, str, bool]:
    """Makes the split's parquet unless it is there and its CSVs are as they were; returns (report, SHA-256, made now).

    `<split>.json` beside it, written last, records the CSVs' sizes and times. Raises UserError as `write_inputs` does.
    """
    path, record = inputs_path(out, split), inputs_path(out, split).with_suffix(".json")
    made_from = {"csvs": stamps(raw, split, machine_threshold), "machine_threshold": machine_threshold}
    if record.exists() and path.exists():
        old = read_json(record, "c2srt shard")
        if old.get("made_from") == made_from and old.get("bytes") == path.stat().st_size:
            return InputReport(**old["report"]), old["sha256"], False
    path.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    report = write_inputs(raw, split, path, machine_threshold)
    digest = sha256_of_file(path)
    write_json(record, {"made_from": made_from, "bytes": path.stat().st_size, "sha256": digest, "report": asdict(report)})
    return report, digest, True


def stamps(raw: RawFiles, split: str, machine_threshold: float | None) -> dict[str, list[int]]:
    """Size and modification time (ns) of each CSV that the parquet is made from."""
    files = raw.split(split)
    used = [files.images, files.labels, raw.class_descriptions]
    if machine_threshold is not None:
        used.append(files.machine_labels)
    return {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in used if path}
