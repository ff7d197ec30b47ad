"""`c2srt bench <what>`: both sides of a claim in one run, as a table and as <out>/<what>.json."""

import importlib
import logging
import os
from datetime import datetime
from pathlib import Path

import torch

from c2srt.bench.config import Config
from c2srt.errors import UserError
from c2srt.files import write_json
from c2srt.pages import rows_of
from c2srt.pages.row import row_line
from c2srt.profiling import DTYPES, MIB, Side, device_of, gemm_rate, machine, measure
from c2srt.progress import clock

log = logging.getLogger(__name__)

CASES = {
    "head": "c2srt.bench.head",
    "isr": "c2srt.bench.head",
    "gat": "c2srt.bench.head",
    "ignore": "c2srt.bench.head",
    "loss": "c2srt.bench.loss",
    "step": "c2srt.bench.step",
    "tracking": "c2srt.bench.tracking",
    "records": "c2srt.bench.records",
    "evaluation": "c2srt.bench.evaluation",
    "predict": "c2srt.bench.predict",
    "loader": "c2srt.bench.loader",
    "packing": "c2srt.bench.packing",
}


def run(config: Config) -> None:
    """Measures, prints the table, writes the JSON file."""
    if config.what not in CASES:
        raise UserError(
            f"what={config.what!r} is not a benchmark: choose one of {', '.join(CASES)}"
        )
    torch.set_num_threads(config.threads)
    device, started = device_of(config.device), datetime.now()
    print(
        f"{config.what} on {machine(device, config.threads)}, {config.precision}, torch"
        f" {torch.__version__}"
    )
    sides = getattr(importlib.import_module(CASES[config.what]), config.what)(config)
    rate, load = gemm_rate(device, DTYPES[config.precision]), os.getloadavg()[0]
    measure(sides, config.repeats, config.warmup, device, lambda line: log.info(f"  {line}"))
    rows = [row(side, baseline_of(side, sides)) for side in sides]
    print(
        "\n".join(
            [
                "",
                *table(rows),
                "",
                (
                    f"matrix products in this run: {rate / 1e9:,.0f} GFLOP/s; load "
                    f"{load:.1f} before and {os.getloadavg()[0]:.1f} after; took "
                    f"{clock((datetime.now() - started).total_seconds())}"
                ),
            ]
        )
    )
    path = Path(config.out) / f"{config.what}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record(config, started, device, rate, load) | {"sides": rows})
    log.info(f"written to {path}")
    for line in kept_lines(config.what):
        print(line)


def record(
    config: Config, started: datetime, device: torch.device, rate: float, load: float
) -> dict:
    """What a run is written with: the machine, how fast (FLOP/s) and how busy it was, settings."""
    return {
        "what": config.what,
        "date": started.isoformat(timespec="seconds"),
        "machine": machine(device, config.threads),
        "torch": torch.__version__,
        "gemm_gflops": rate / 1e9,
        "load": [load, os.getloadavg()[0]],
        "settings": vars(config),
    }


def kept_lines(what: str) -> list[str]:
    """What kept pages of `c2srt check` say of the same part, a line a figure."""
    return [f"{page} ({card}): {row_line(row)}" for page, card, row in rows_of(what)]


def baseline_of(side: Side, sides: list[Side]) -> Side:
    """The last baseline up to this side."""
    return [other for other in sides[: sides.index(side) + 1] if other.baseline][-1]


def row(side: Side, first: Side) -> dict:
    """A side's figures, and its ratios to its baseline: how many times less time an image, and less
    memory an image.
    """
    peak, first_peak = peak_of(side), peak_of(first)
    per_image = peak / side.images
    return {
        "side": side.name,
        "images": side.images,
        "seconds": side.seconds,
        "cpu_seconds": side.cpu,
        "milliseconds_per_image": None if side.median is None else 1e3 * side.median,
        "spread": None if side.spread is None else 1e3 * side.spread,
        "peak_mib": peak / MIB,
        "times_faster": times(first.median, side.median),
        "times_less_cpu": times(first.median_cpu, side.median_cpu or None),
        "times_less_memory": first_peak / first.images / per_image if per_image else None,
    }


def peak_of(side: Side) -> int:
    assert side.peak is not None, "the memory of every side is measured"
    return side.peak


def times(first: float | None, own: float | None) -> float | None:
    """How many times less `own` is; None where nothing was timed."""
    return None if first is None or own is None else first / own


def table(rows: list[dict]) -> list[str]:
    width = max(len(entry["side"]) for entry in rows)
    lines = [
        f"{'':<{width}}  {'ms an image':>20}  {'peak MiB':>9}  {'faster':>9}  {'less CPU':>9} "
        f" {'less memory':>11}"
    ]
    for entry in rows:
        milliseconds, spread = entry["milliseconds_per_image"], entry["spread"]
        time = "" if milliseconds is None else f"{milliseconds:,.2f} ± {spread:,.2f}"
        faster, cpu = (
            "" if entry[key] is None else f"{entry[key]:,.{1 if entry[key] >= 10 else 2}f}×"
            for key in ("times_faster", "times_less_cpu")
        )
        less = "" if entry["times_less_memory"] is None else f"{entry['times_less_memory']:,.0f}×"
        lines.append(
            f"{entry['side']:<{width}}  {time:>20}  {entry['peak_mib']:>9,.1f}  {faster:>9} "
            f" {cpu:>9}  {less:>11}"
        )
    return lines
