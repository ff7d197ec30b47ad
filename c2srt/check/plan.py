"""`c2srt plan` on this machine: a calibration, the same rates as a cluster file, and predictions
against measured steps.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from importlib.resources import files
from typing import Any

import yaml

from c2srt.check.case import Case
from c2srt.check.step import clip_config
from c2srt.files import write_json, write_text
from c2srt.model.config import ModelConfig
from c2srt.plan.check import BAR, Family, compare
from c2srt.plan.hardware import Cluster
from c2srt.plan.sizes import Sizes
from c2srt.train.config import Config as Training
from c2srt.train.engine_config import EngineConfig
from c2srt.train.key_groups import LoaderKeys, OptimizerConfig
from c2srt.train.schedule import ScheduleConfig

NEAREST = {True: "h200", False: "cpu"}
"""The cluster file from which comes what one machine does not measure (network, host, disk), by
whether there is a GPU.
"""


@dataclass(frozen=True)
class Turns:
    """What plan.check.compare asks of its configuration."""

    turns: int = 3
    clock: str = "wall"
    json: bool = True


def plan(case: Case) -> Iterator[dict]:
    """A row a case: predicted and measured milliseconds of a step. Off by more than plan's own bar
    is a note, not a fault.
    """
    text = (
        files("c2srt.configs.cluster")
        .joinpath(f"{NEAREST[case.cuda]}.yaml")
        .read_text(encoding="utf-8")
    )
    cluster = Cluster(**yaml.safe_load(text))
    calibration, rows = compare(family(case), cluster, Turns())
    write_json(case.out / "calibration.json", calibration)
    write_text(case.out / "cluster.yaml", with_rates(text, calibration))
    for row in rows:
        off = f"off by more than {BAR:.0%}" if abs(row["error"]) > BAR else ""
        yield {
            "what": f"step, {row['case']}",
            "predicted ms": 1e3 * row["predicted_s"],
            "measured ms": 1e3 * row["measured_s"],
            "error": row["error"],
            **({"note": off} if off else {}),
        }


def family(case: Case) -> Family:
    """The base ViT at the largest micro-batch, and changes of it."""
    sizes, base = case.sizes, case.sizes.base
    model = ModelConfig(heads=base.heads, neighbours=sizes.neighbours)
    folders: dict[str, Any] = {
        name: str(case.out) for name in ("shards", "text", "relations", "teacher", "work", "out")
    }
    batch = sizes.batches[0]
    training = Training(
        **folders,
        clip=clip_config(case, base),
        model=model,
        workers=1,
        loader=LoaderKeys(0),
        schedule=ScheduleConfig(batch=batch, micro_batch=batch),
        engine=EngineConfig(case.best),
        optimizer=OptimizerConfig(1e-4),
    )
    images = Sizes(
        train=9_011_219,
        seen=sizes.categories,
        unseen=sizes.unseen,
        packed_bytes=21_000,
        short_side=256,
    )
    return Family(
        base.name,
        training,
        images,
        {
            f"{batch} × 1": {},
            f"{sizes.batches[1]} × {batch // sizes.batches[1]}": {
                "schedule.micro_batch": sizes.batches[1]
            },
            "without IST": {"model": replace(model, ist=False)},
            "all blocks train": {"model": replace(model, trainable_blocks=None)},
        },
    )


def with_rates(text: str, calibration: dict) -> str:
    """A cluster file with the measured rates in place of its own; what was not measured keeps its
    words.
    """
    found = f"Measured on {calibration['machine']}, {date.today().isoformat()}"
    rates = {
        **{name: value for name, value in calibration["values"].items() if name != "tflops"},
        **calibration["values"]["tflops"],
    }
    lines = []
    for line in text.splitlines():
        name = re.match(r"\s*(\w+):", line)
        if name and name[1] in rates and not line.startswith("name:"):
            line = f"{line[: line.index(':')]}: {rates[name[1]]:.4g}".ljust(31) + f"# {found}"
        lines.append(
            f"name: {calibration['machine']}".ljust(31) + f"# {found}"
            if line.startswith("name:")
            else line
        )
    return "\n".join(lines) + "\n"
