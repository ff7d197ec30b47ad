"""`c2srt bench <what>`: both sides of a claim in one run, as a table and as <out>/<what>.json."""

import importlib
import os
import platform
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Optional

import torch

from c2srt.bench.measure import MIB, Side, gemm_rate, measure
from c2srt.check.page import row_line
from c2srt.check.pages import rows_of
from c2srt.errors import UserError
from c2srt.files import write_json
from c2srt.progress import clock

CASES = {
    "head": "c2srt.bench.head",
    "isr": "c2srt.bench.head",
    "gat": "c2srt.bench.head",
    "ignore": "c2srt.bench.head",
    "loss": "c2srt.bench.loss",
    "step": "c2srt.bench.step",
    "tracking": "c2srt.bench.tracking",
    "evaluation": "c2srt.bench.evaluation",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Config:
    """Keys of `c2srt bench`, explained in configs/bench.yaml."""

    what: str = ""
    out: str = ""
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 2
    repeats: int = 5
    warmup: int = 1
    categories: int = 7186
    patches: int = 196
    width: int = 512
    neighbours: int = 4
    heads: int = 8
    layers: int = 2
    batch: int = 8
    large_batch: int = 64
    literal_batch: int = 1
    verified: int = 3
    present: int = 2
    clip: str = "ViT-B-16"
    trainable_blocks: Optional[int] = 2
    tile_mib: Optional[int] = None
    images: int = 125_436
    unseen: int = 400
    labels: int = 1_667_399
    compared: int = 1000

    def __post_init__(self) -> None:
        if self.precision not in DTYPES:
            raise UserError(f"precision={self.precision} is not one of {', '.join(DTYPES)}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device={self.device} is not one of auto, cpu, cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                "device=cuda, but torch finds no GPU here: see `nvidia-smi`, or take device=cpu"
            )
        sizes = (
            "threads",
            "repeats",
            "categories",
            "patches",
            "width",
            "heads",
            "layers",
            "batch",
            "large_batch",
            "literal_batch",
            "present",
            "images",
            "unseen",
            "labels",
            "compared",
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if self.labels > self.images * (self.categories + self.unseen) / 4:
            raise UserError(
                f"labels={self.labels} are too many for images={self.images}: at most a quarter of"
                " all pairs"
            )
        if not self.present <= self.verified <= self.categories:
            raise UserError(
                f"present={self.present}, verified={self.verified}, categories={self.categories}"
                " must not decrease"
            )

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


def run(config: Config) -> None:
    """Measures, prints the table, writes the JSON file."""
    if config.what not in CASES:
        raise UserError(
            f"what={config.what!r} is not a benchmark: choose one of {', '.join(CASES)}"
        )
    torch.set_num_threads(config.threads)
    device, started = config.torch_device, datetime.now()
    print(
        f"{config.what} on {machine(device, config.threads)}, {config.precision}, torch"
        f" {torch.__version__}"
    )
    sides = getattr(importlib.import_module(CASES[config.what]), config.what)(config)
    rate, load = gemm_rate(device, config.torch_dtype), os.getloadavg()[0]
    measure(
        sides, config.repeats, config.warmup, device, lambda line: print(f"  {line}", flush=True)
    )
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
    write_json(
        path,
        {
            "what": config.what,
            "date": started.isoformat(timespec="seconds"),
            "machine": machine(device, config.threads),
            "torch": torch.__version__,
            "gemm_gflops": rate / 1e9,
            "load": [load, os.getloadavg()[0]],
            "settings": vars(config),
            "sides": rows,
        },
    )
    print("\n".join([f"written to {path}", *kept_lines(config.what)]))


def kept_lines(what: str) -> list[str]:
    """What kept pages of `c2srt check` say of the same part, a line a figure."""
    return [f"{page} ({card}): {row_line(row)}" for page, card, row in rows_of(what)]


def machine(device: torch.device, threads: int) -> str:
    """What did the work, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {threads} threads"


def baseline_of(side: Side, sides: list[Side]) -> Side:
    """The last baseline up to this side."""
    return [other for other in sides[: sides.index(side) + 1] if other.baseline][-1]


def row(side: Side, first: Side) -> dict:
    """A side's figures, and its ratios to its baseline: how many times less time an image, and less
    memory an image.
    """
    per_image = side.peak / side.images
    return {
        "side": side.name,
        "images": side.images,
        "seconds": side.seconds,
        "cpu_seconds": side.cpu,
        "milliseconds_per_image": None if side.median is None else 1e3 * side.median,
        "spread": None if side.spread is None else 1e3 * side.spread,
        "peak_mib": side.peak / MIB,
        "times_faster": None if side.median is None else first.median / side.median,
        "times_less_cpu": None if not side.median_cpu else first.median_cpu / side.median_cpu,
        "times_less_memory": first.peak / first.images / per_image if per_image else None,
    }


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
            "" if entry[key] is None else f"{entry[key]:,.1f}×"
            for key in ("times_faster", "times_less_cpu")
        )
        less = "" if entry["times_less_memory"] is None else f"{entry['times_less_memory']:,.0f}×"
        lines.append(
            f"{entry['side']:<{width}}  {time:>20}  {entry['peak_mib']:>9,.1f}  {faster:>9} "
            f" {cpu:>9}  {less:>11}"
        )
    return lines
