"""`c2srt plan check=true`: calibrates on one configuration of a model, predicts others, measures
them in the same turns.

What is measured are real steps (engine, loader, model, gradient sync between processes) on
synthetic pictures.
"""

import json
import logging
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from c2srt.backbone.config import ClipConfig
from c2srt.backbone.miniature import MODEL
from c2srt.files import write_json
from c2srt.keys import changed
from c2srt.model.config import ModelConfig
from c2srt.plan.calibrate import (
    STEP,
    Measured,
    amounts,
    at_once,
    check_machine,
    experiment,
    measure,
    quiet,
    record,
    step_seconds,
    values_of,
)
from c2srt.plan.hardware import Cluster
from c2srt.plan.harness import Harness
from c2srt.plan.outline import outline
from c2srt.plan.sizes import Sizes
from c2srt.train.config import Config as Training
from c2srt.train.key_groups import LoaderKeys, OptimizerConfig
from c2srt.train.schedule import ScheduleConfig
from c2srt.view_config import ViewConfig

log = logging.getLogger(__name__)

BAR = 0.2
MISSED = 1


@dataclass(frozen=True)
class Family:
    """A model, the sizes it is trained with, and the changes of its configuration to predict."""

    name: str
    config: Training
    sizes: Sizes
    cases: dict[str, dict]


def families(config, folder: Path) -> list[Family]:
    """The miniature's ViT with its 286 seen categories, and ViT-B/16 with the 7,186 of Open
    Images.
    """
    write_json(folder / "model.json", MODEL)
    folders: dict[str, Any] = {
        name: str(folder) for name in ("shards", "text", "relations", "teacher", "work", "out")
    }
    loaders = {} if config.clock == "cpu" else {"a loader process": {"loader.workers": 1}}
    return [miniature(folders, folder, loaders), vit_b16(folders)]


def miniature(folders: dict[str, Any], folder: Path, loaders: dict[str, dict]) -> Family:
    """With `loaders` as further cases."""
    small = ModelConfig(heads=4, trainable_blocks=None, score_scale=16.0)
    return Family(
        "miniature",
        Training(
            **folders,
            clip=ClipConfig(str(folder / "model.json"), "random"),
            model=small,
            views=ViewConfig(count=0),
            workers=1,
            loader=LoaderKeys(0),
            schedule=ScheduleConfig(batch=32, micro_batch=16),
            optimizer=OptimizerConfig(1e-4),
        ),
        Sizes(train=6000, seen=286, unseen=66, packed_bytes=2100, short_side=64),
        {
            "16 × 2": {},
            "without ISR": {"model": replace(small, isr=False)},
            "without IST": {"model": replace(small, ist=False)},
            "neither": {"model": replace(small, isr=False, ist=False)},
            "8 × 4": {"schedule.micro_batch": 8},
            "32 × 1": {"schedule.micro_batch": 32},
            "two blocks train": {"model": replace(small, trainable_blocks=2)},
            "2 workers": {"workers": 2},
            **loaders,
        },
    )


def vit_b16(folders: dict[str, Any]) -> Family:
    large = ModelConfig()
    return Family(
        "ViT-B/16",
        Training(
            **folders,
            clip=ClipConfig("ViT-B-16", "random"),
            model=large,
            workers=1,
            loader=LoaderKeys(0),
            schedule=ScheduleConfig(batch=4, micro_batch=4),
            optimizer=OptimizerConfig(1e-4),
        ),
        Sizes(train=9_011_219, seen=7186, unseen=400, packed_bytes=21000, short_side=256),
        {
            "4 × 1": {},
            "without ISR": {"model": replace(large, isr=False)},
            "without IST": {"model": replace(large, ist=False)},
            "1 × 4": {"schedule.micro_batch": 1},
            "all blocks train": {"model": replace(large, trainable_blocks=None)},
            "2 workers": {"workers": 2},
        },
    )


def compare(family: Family, cluster: Cluster, config) -> tuple[dict, list[dict]]:
    """Measures a family's calibration and cases in turns -> the content of a calibration file, and
    rows of predicted and measured seconds a step.
    """
    shape = outline(family.config.clip, family.config.model)
    images = amounts(changed(family.config, at_once(16)), shape, cluster, family.sizes.seen)
    calibration = experiment(family.config, images[1], cluster)
    gpus = calibration.resources.gpus_per_worker
    cases = {
        name: changed(family.config, {"resources.gpus_per_worker": gpus, **change})
        for name, change in family.cases.items()
    }
    together: dict[tuple[int, int], dict[str, Training]] = {(1, 0): {STEP: calibration}}
    for name, case in cases.items():
        together.setdefault((case.workers, case.loader.workers), {})[name] = case
    with ExitStack() as stack:
        harnesses = [
            stack.enter_context(
                Harness(group, family.sizes, images if STEP in group else [], config.clock)
            )
            for group in together.values()
        ]
        seconds = measure(harnesses, config.turns, quiet if config.json else log.info)
    values = values_of(Measured(calibration, shape, images, seconds), cluster, family.sizes)
    measured = replace(cluster, **values | {"tflops": cluster.tflops | values["tflops"]})
    return record(calibration, cluster, seconds, values), [
        {
            "model": family.name,
            "case": name,
            "predicted_s": predicted,
            "measured_s": seconds[name],
            "error": predicted / seconds[name] - 1,
            "calibrated_on": images,
        }
        for name, case in cases.items()
        for predicted in [
            step_seconds(case, outline(case.clip, case.model), measured, family.sizes)
        ]
    ]


def check(config) -> int:
    """Prints the table; returns 1 if a prediction is off by more than a fifth."""
    check_machine(config.cluster)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for family in families(config, Path(folder)):
            rows += compare(family, config.cluster, config)[1]
    if config.json:
        print(json.dumps({"turns": config.turns, "clock": config.clock, "rows": rows}, indent=1))
    else:
        print("\n".join(table(rows)))
    return MISSED if any(abs(row["error"]) > BAR for row in rows) else 0


def table(rows: list[dict]) -> list[str]:
    lines = [
        "| model | case (images at once × accumulated) | predicted s | measured s | error |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['case']} | {row['predicted_s']:.3f} | {row['measured_s']:.3f} |"
        f" {row['error']:+.0%} |"
        for row in rows
    ]
    off = sum(abs(row["error"]) > BAR for row in rows)
    return [*lines, "", f"{off} of {len(rows)} predictions are off by more than {BAR:.0%}."]
