"""DeepSpeed's ZeRO stages on one card: that each trains, and what it costs."""

import atexit
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch.distributed as dist

from c2srt.check.case import Case
from c2srt.check.step import make_batch, make_student, measured
from c2srt.model.network import C2SRT

if TYPE_CHECKING:  # DeepSpeed takes seconds to import
    from c2srt.train.engine import Engine

STEPS = 5


def zero(case: Case) -> Iterator[dict]:
    """Stages 0 to 3 on the same model and batch: the loss of the first steps, milliseconds,
    memory.
    """
    join_alone(case)
    for stage in range(4):
        yield one_stage(case, stage)


def join_alone(case: Case) -> None:
    """torch.distributed with this process alone, once and to the process's end: DeepSpeed keeps
    the groups of the first engine for every later one.
    """
    if dist.is_initialized():
        return
    os.environ.update(
        RANK="0",
        LOCAL_RANK="0",
        WORLD_SIZE="1",
        LOCAL_WORLD_SIZE="1",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="1",
    )
    backend = "nccl" if case.cuda else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    atexit.register(dist.destroy_process_group)


def make_engine(case: Case, student: C2SRT, stage: int, count: int, times: int = 1) -> "Engine":
    """The engine of a training with micro-batches of `count` images, `times` of them a step."""
    from c2srt.order import BatchPartition
    from c2srt.train.engine import Engine
    from c2srt.train.engine_config import EngineConfig
    from c2srt.train.groups import parameter_groups
    from c2srt.train.key_groups import OptimizerConfig

    adamw = OptimizerConfig(1e-4, weight_decay=0.01, layer_decay=1.0)
    groups = parameter_groups(student, student.parameter_depth, adamw)
    partition = BatchPartition(count * times, count, 1)
    return Engine(student, groups, EngineConfig(case.best, stage), partition, 1.0)


def one_stage(case: Case, stage: int) -> dict:
    count = case.sizes.batches[1]
    student = make_student(case, case.sizes.base).float()
    batch = make_batch(case, student, count)
    engine = make_engine(case, student, stage, count)
    losses = [engine.train_step([batch], 1.0).values["loss"] for _ in range(STEPS)]
    row = {
        "what": f"ZeRO {stage}, {case.best}, batch {count}",
        "first loss": losses[0],
        f"loss of step {STEPS}": losses[-1],
    }
    if not losses[-1] < losses[0]:
        row["wrong"] = (
            f"ZeRO {stage}: the loss of one batch goes from {losses[0]:.4g} to {losses[-1]:.4g} in"
            f" {STEPS} steps"
        )
    return row | measured(case, lambda: engine.train_step([batch], 1.0), count, case.sizes.repeats)
